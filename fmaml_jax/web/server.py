"""The page on a port: how it starts and ends, how files are taken, and what is cleared away."""

import asyncio
import contextlib
import ctypes
import fcntl
import gc
import hashlib
import logging
import os
import resource
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import jax
import uvicorn
from fastapi import FastAPI
from gradio import processing_utils, queueing, route_utils, routes, state_holder
from starlette.formparsers import MultiPartException

from fmaml_jax.common.errors import UserError
from fmaml_jax.recognition.checkpoint import Start
from fmaml_jax.web import guard
from fmaml_jax.web.api import Doors, make_api
from fmaml_jax.web.guard import LARGEST_UPLOAD, Connection, Guard, is_loopback
from fmaml_jax.web.page import AT_ONCE, HEAD, STYLE, THEME, make_page
from fmaml_jax.web.session import LARGEST_MODEL, Sessions, Turns

UNUSED = 180.0
"""Seconds after which a file that nothing was done with is removed."""
UNFETCHED = 60.0
"""Seconds for which an answer is kept that nobody fetches."""
MOST_STORED_OF_ADDRESS, MOST_STORED, LEAST_FREE = 2 << 30, 8 << 30, 1 << 30
"""Bytes of uploads, of an address and of all; and that the disk keeps free."""
SWEEP_SECONDS = 2.0
QUIET = 60.0
"""Seconds without a page or a call after which memory for the next one is not kept either."""
STOP_SECONDS = 5.0
"""For what is being done, when the server ends."""
CLOSED = Doors()
_PREFIX = "fmaml_jax_page_"
_ADDRESS: ContextVar[str] = ContextVar("address", default="")


def serve(start: Start, host: str, port: int, password: str, doors: Doors = CLOSED) -> None:
    """Serves the page until it is interrupted; its files are gone with it.

    Args:
        start: what is enrolled in.
        host: the address to listen at.
        port: of it.
        password: what visitors have to give; "" for none on the loopback address, and for a token
            in the address that is printed elsewhere.
        doors: what is served beside the page.

    Raises:
        UserError: host and port cannot be had.
    """
    listening = _listen(host, port)
    _allow_files()
    token = password or ("" if is_loopback(host) else secrets.token_urlsafe(16))
    with listening, _folder() as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # from which alone Gradio serves files
        sessions = Sessions()
        server = uvicorn.Server(
            uvicorn.Config(
                _guarded(start, host, token, folder, sessions, doors),
                http=Connection,
                ws="websockets-sansio" if doors.live else "none",
                ws_max_size=LARGEST_MODEL,
                ws_ping_interval=None,  # who sends nothing is closed all the same
                ws_per_message_deflate=False,  # a short message may become a long one
                log_level="critical",  # its lines hold what visitors send
                server_header=False,
                h11_max_incomplete_event_size=16 << 10,
                timeout_graceful_shutdown=1,
            )
        )
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        try:
            while thread.is_alive() and not server.started:
                time.sleep(0.01)
            print(f"Serving at {_address(host, port, password, token)}; Ctrl-C ends it", flush=True)
            thread.join()
        finally:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)  # it ends soon, in order
            server.should_exit = True
            sessions.close()
            thread.join(STOP_SECONDS)


def end_now(code: int) -> None:
    """Ends the process, which threads that still compute would abort if it ended in order."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _address(host: str, port: int, password: str, token: str) -> str:
    everywhere = host in ("0.0.0.0", "::")
    name = socket.gethostname() if everywhere else f"[{host}]" if ":" in host else host
    asked = f"?token={token}" if token and not password else ""
    return f"http://{name}:{port}/{asked}"


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        raise UserError(
            f"cannot serve at {host}:{port} ({_reason(error)}); choose another --port or --host"
        ) from error


def _reason(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return "no such host"
    return os.strerror(error.errno) if error.errno else str(error)


def _allow_files() -> None:
    """As many open files as the system lets a process have, for connections and uploads."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 1 << 16 if hard == resource.RLIM_INFINITY else min(hard, 1 << 16)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


@contextlib.contextmanager
def _folder() -> Iterator[str]:
    """A folder for uploads, locked while it is in use; those of servers that died are removed."""
    for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError), _locked(left):
            shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as folder, _locked(Path(folder)):
        yield folder


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Locks a folder while it is used.

    Raises:
        OSError: somebody else has, or it is somebody else's.
    """
    if folder.stat().st_uid != os.getuid():
        raise PermissionError
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(number)


def _guarded(
    start: Start, host: str, token: str, folder: str, sessions: Sessions, doors: Doors = CLOSED
) -> Guard:
    turns = Turns(AT_ONCE)
    page = make_page(start, folder, sessions, turns)
    opened = doors.http or doors.live
    api = make_api(start, folder, sessions, turns, doors) if opened else None

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        sweeping = asyncio.create_task(_sweep(page, Path(folder), sessions))
        yield
        sweeping.cancel()

    app = gr.mount_gradio_app(
        FastAPI(lifespan=lifespan, openapi_url=None),
        page,
        "/",
        server_name=host,
        ssr_mode=False,
        show_error=False,
        max_file_size=LARGEST_UPLOAD,
        footer_links=[],
        enable_monitoring=False,
        run_history=False,
        theme=THEME,
        css=STYLE,
        head=HEAD,
    )
    page.has_launched = True  # only then are files looked at, whether they were uploaded

    def waiting(number: str) -> int:
        return len(page._queue.pending_event_ids_session.get(number, ()))

    def room(address: str) -> str:
        _ADDRESS.set(address)
        own, stored = _stored(Path(folder), address)
        if own > MOST_STORED_OF_ADDRESS:
            return "There are files of yours enough here; use them, or wait some minutes."
        if stored > MOST_STORED or shutil.disk_usage(folder).free < LEAST_FREE:
            return "There is no room for more files; try again in some minutes."
        return ""

    return Guard(app, sessions, host, token, waiting, room, api, doors.token)


# ---- files


def _mark(address: str) -> str:
    """What the folders of an address's uploads begin with."""
    return hashlib.sha256(f"{_SALT}{address}".encode()).hexdigest()[:16]


_SALT = secrets.token_hex()


def _stored(folder: Path, address: str) -> tuple[int, int]:
    """Bytes of an address's uploads, and of all."""
    own = stored = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                size = os.stat(os.path.join(parent, name)).st_size
                stored += size
                own += size * Path(parent).name.startswith(_mark(address))
    return own, stored


class _Name:
    """The name of an upload's folder, which nobody can guess.

    Gradio names the folder by the content: equal files of two users would be one.
    """

    def __init__(self):
        self._name = _mark(_ADDRESS.get()) + secrets.token_hex(24)

    def update(self, data: bytes) -> None:
        """Does not depend on it."""

    def hexdigest(self) -> str:
        """The name."""
        return self._name


class _Upload(route_utils.GradioUploadFile):
    """An upload in a folder of its own; gone if it breaks off."""

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self.sha: Any = _Name()
        weakref.finalize(self, Path(self.file.name).unlink, missing_ok=True)


class _Parts(route_utils.GradioMultiPartParser):
    """The parts of an upload, which are files, and nothing else."""

    def on_headers_finished(self) -> None:
        """Refuses a part without a file name, which would be held in memory."""
        super().on_headers_finished()
        if self._current_part.file is None:
            raise MultiPartException("A part of it is not a file.")

    async def parse(self) -> Any:
        """Forgets in a while how far it was, which the page may ask for."""
        try:
            return await super().parse()
        finally:
            if self.upload_progress is not None and self.upload_id:
                progress, number = self.upload_progress, self.upload_id
                progress.set_done(number)

                def forget() -> None:
                    progress.stop_tracking(number)
                    progress._signals.pop(number, None)

                asyncio.get_running_loop().call_later(UNFETCHED, forget)


async def _refuse_download(url: str, cache_dir: str) -> str:
    """Instead of what fetches an address that is given in place of an uploaded file."""
    raise gr.Error("files are uploaded, not fetched", print_exception=False)


def _log_exception() -> None:
    error = sys.exception()
    if error:
        guard.log(error)


# Gradio has no setting for these. What it logs holds names; the last answers of a page, the model
# among them, it would keep for an hour, or for good.
route_utils.GradioUploadFile = _Upload
route_utils.GradioMultiPartParser = _Parts
processing_utils.async_ssrf_protected_download = _refuse_download
for module in (queueing, routes, route_utils):
    vars(module)["traceback"] = SimpleNamespace(print_exc=_log_exception)
state_holder.SessionState._update_value_in_config = lambda self, key, value: None
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # a line for each wrong form


# ---- clearing away


async def _sweep(page: gr.Blocks, folder: Path, sessions: Sessions) -> None:
    """Ends sessions that were left, and removes what belongs to none, again and again."""
    unheard: dict[str, float] = {}
    ended, busy, kept = sessions.ended, time.monotonic(), False
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        before = len(sessions)
        sessions.end_those_left()
        _drop_states(page, sessions)
        await _drop_unfetched(page, sessions, unheard)
        await asyncio.to_thread(_remove_unused, page, folder, sessions.recordings())
        if len(sessions) or sessions.ended > ended:  # a call may have come and gone meanwhile
            ended, busy, kept = sessions.ended, time.monotonic(), True
        elif kept and time.monotonic() - busy > QUIET:
            jax.clear_caches()  # programs for numbers of classes that the next will not have
            _trim()
            kept = False
        if len(sessions) < before:
            _trim()


def _drop_states(page: gr.Blocks, sessions: Sessions) -> None:
    """What Gradio keeps of pages that are gone, and of those that never were."""
    queue, holder = page._queue, page.state_holder
    kept = (
        *(holder.session_data, holder.time_last_used, page.pending_streams),
        *(page.pending_diff_streams, queue.pending_messages_per_session),
        queue.pending_event_ids_session,
    )
    for by_number in kept:
        for number in [number for number in by_number if number not in sessions]:
            by_number.pop(number, None)
    for number, event in list(queue.event_analytics.items()):
        if str(event["session_hash"]) not in sessions:
            queue.event_analytics.pop(number, None)
    for number, event in list(queue.event_ids_to_events.items()):
        if event.session_hash not in sessions and not event.alive:
            queue.event_ids_to_events.pop(number, None)


async def _drop_unfetched(page: gr.Blocks, sessions: Sessions, unheard: dict[str, float]) -> None:
    """Answers that nobody has listened for in a while; `unheard` has since when, by page."""
    queue, now = page._queue, time.monotonic()
    for number in list(queue.pending_messages_per_session):
        session = sessions.find(number)
        if session is None or session.listening:
            unheard.pop(number, None)
        elif now - unheard.setdefault(number, now) > UNFETCHED:
            unheard.pop(number)
            queue.pending_messages_per_session.pop(number, None)
            await queue.clean_events(session_hash=number)
            queue.pending_event_ids_session.pop(number, None)


def _remove_unused(page: gr.Blocks, folder: Path, kept: set[Path]) -> None:
    """Files that no page holds after a while, folders without one, and the lists of both."""
    now = time.time()
    for parent, folders, names in os.walk(folder, topdown=False):
        for path in (Path(parent, name) for name in (*names, *folders)):
            with contextlib.suppress(OSError):
                if path not in kept and now - path.lstat().st_mtime > UNUSED:
                    path.rmdir() if path.is_dir() else path.unlink()
    for paths in page.temp_file_sets:
        paths -= {path for path in list(paths) if not os.path.exists(path)}


def _trim() -> None:
    """Gives memory that is free back to the system, which glibc would keep."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
