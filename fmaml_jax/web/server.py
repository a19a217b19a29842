"""The page on a port: what is answered to whom, and how files are taken."""

import contextlib
import os
import re
import secrets
import tempfile
import weakref
from pathlib import Path
from typing import Any

import gradio as gr
from gradio import processing_utils, route_utils
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fmaml_jax.common.errors import UserError
from fmaml_jax.recognition.checkpoint import Start
from fmaml_jax.web.page import STYLE, THEME, make_page

LARGEST_UPLOAD = 320 << 20
"""Bytes; an hour of 16-bit mono has 318 million at 44.1 kHz."""
POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'self'"
"""What a page may load: its own server's, and what it made itself."""
SERVED = re.compile(
    r"/|/config|/theme\.css|/favicon\.ico|/(assets|static)/.*|/gradio_api/(upload|upload_progress"
    r"|startup-events|queue/join|queue/data|heartbeat/\w+|file=/.*)"
)
"""What the page asks for. Gradio has sixty more addresses: some fetch from elsewhere, some edit."""


def serve(start: Start, host: str, port: int) -> None:
    """Serves the page until it is interrupted; its files are gone with it.

    Raises:
        UserError: host and port cannot be had.
    """
    with tempfile.TemporaryDirectory(prefix="fmaml_jax_") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # from which alone Gradio serves files
        page = make_page(start, folder)
        try:
            _, address, _ = page.launch(
                server_name=host,
                server_port=port,
                prevent_thread_lock=True,
                quiet=True,
                share=False,
                ssr_mode=False,
                max_file_size=LARGEST_UPLOAD,
                footer_links=[],
                enable_monitoring=False,
                run_history=False,
                theme=THEME,
                css=STYLE,
                app_kwargs={"middleware": [Middleware(_Guard)]},
            )
        except OSError as error:
            raise UserError(
                f"cannot serve at {host}:{port} ({error}); choose another --port or --host"
            ) from error
        print(f"Serving at {address}; Ctrl-C ends it", flush=True)
        page.block_thread()


class _Guard:
    """Answers at the addresses in `SERVED` alone.

    Browsers are told to load nothing from elsewhere, and to say nowhere where they were.
    """

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = POLICY
                headers["Referrer-Policy"] = "no-referrer"
                headers["X-Content-Type-Options"] = "nosniff"
            await send(message)

        known = scope["type"] == "lifespan" or SERVED.fullmatch(scope["path"])
        app = self._app if known else PlainTextResponse("Not found", 404)
        with contextlib.suppress(ClientDisconnect):  # an upload that broke off
            await app(scope, receive, send_with_headers)


class _Upload(route_utils.GradioUploadFile):
    """An upload in a folder of its own, whose name nobody can guess; gone if it breaks off.

    Gradio names the folder by the content: equal files of two users would be one.
    """

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self.sha.update(secrets.token_bytes())
        weakref.finalize(self, Path(self.file.name).unlink, missing_ok=True)


async def _refuse_download(url: str, cache_dir: str) -> str:
    """Instead of what fetches an address that is given in place of an uploaded file."""
    raise gr.Error("files are uploaded, not fetched", print_exception=False)


# Gradio has no setting for these two.
route_utils.GradioUploadFile = _Upload
processing_utils.async_ssrf_protected_download = _refuse_download
