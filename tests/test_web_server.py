"""The web page's server without a browser: what it keeps of whom, and how it ends."""

import asyncio
import contextlib
import gc
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

pytest.importorskip("gradio", reason="requirements-web.txt is not there")
import uvicorn

from experiments.benchmarks.visitor import Visitor, as_file, multipart, together
from experiments.benchmarks.visitor import text as said_in
from fmaml_jax.common.errors import UserError
from fmaml_jax.serve import _secret
from fmaml_jax.web import page as web_page
from fmaml_jax.web import server as web_server
from fmaml_jax.web import session as web_session
from fmaml_jax.web.guard import Connection
from fmaml_jax.web.session import Sessions
from tests.test_prepare import ROOT, noise

pytestmark = [
    # Of Gradio's own dependencies, and of event loops that it leaves open.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def drop_loops():
    """Event loops that Gradio asked for, and left open."""
    asyncio.set_event_loop(None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()


@pytest.fixture(scope="module")
def running(start, tmp_path_factory):
    """The page in this process: its port, folder, sessions and Gradio's own objects."""
    folder = tmp_path_factory.mktemp("page")
    patch = pytest.MonkeyPatch()
    patch.setenv("GRADIO_TEMP_DIR", str(folder))
    patch.setattr(web_server, "SWEEP_SECONDS", 0.1)
    kept = []
    make_page = web_server.make_page
    patch.setattr(web_server, "make_page", lambda *given: kept.append(make_page(*given)) or kept[0])
    sessions = Sessions()
    listening = socket.create_server(("127.0.0.1", 0))
    app = web_server._guarded(start, "127.0.0.1", "", str(folder), sessions)
    config = uvicorn.Config(app, http=Connection, ws="none", log_level="critical")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = listening.getsockname()[1]
    drop_loops()
    yield SimpleNamespace(port=port, folder=folder, sessions=sessions, page=kept[0])
    server.should_exit = True
    thread.join(60)
    patch.undo()
    drop_loops()


@contextlib.contextmanager
def little_patience():
    """What nobody needs is forgotten at once, and not within minutes.

    It is not so where a test visits the page: a machine with other work would be too slow for it.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(web_session, "GRACE", 0.1)
        patch.setattr(web_server, "UNUSED", 0.1)
        patch.setattr(web_server, "UNFETCHED", 0.1)
        yield


@pytest.fixture
def served(running):
    """The page, whose visitors before are forgotten."""
    with little_patience():
        wait_until(lambda: not len(running.sessions))
    return running


def wait_until(holds):
    for _ in range(1200):
        if holds():
            return
        time.sleep(0.05)
    pytest.fail("in vain")


def sound(seconds=0.5, seed=0, rate=16_000):
    file = Path(os.environ["GRADIO_TEMP_DIR"]).parent / f"sound{seed}.wav"
    soundfile.write(file, noise(seconds, seed=seed, rate=rate), rate)
    return file.read_bytes()


def files(served):
    return [path for path in served.folder.rglob("*") if path.is_file() and path.stat().st_size]


def framework_knows(served, number):
    page = served.page
    queue, holder = page._queue, page.state_holder
    kept = (
        *(holder.session_data, holder.time_last_used, queue.pending_messages_per_session),
        *(queue.pending_event_ids_session, page.pending_streams, page.pending_diff_streams),
        *([event["session_hash"]] for event in queue.event_analytics.values()),
        *([event.session_hash] for event in queue.event_ids_to_events.values()),
    )
    return any(number in by_number for by_number in kept)


def test_what_a_page_gave_is_gone_with_it_and_so_is_what_the_framework_kept(served):
    visitor = Visitor(served.port)
    assert "1 clip of joy added" in visitor.add("joy", ("diary.wav", sound()))
    visitor.give("call.wav", sound(seed=1))
    session = served.sessions.find(visitor.number)
    assert len(session.clips) == 1
    assert framework_knows(served, visitor.number)
    assert len(files(served)) == 1  # the recording
    visitor.upload(("late.wav", sound(seed=2)))  # just before the page is closed
    visitor.close()
    with little_patience():
        wait_until(lambda: served.sessions.find(visitor.number) is None)
        wait_until(lambda: not framework_knows(served, visitor.number))
        wait_until(lambda: not list(served.folder.iterdir()))
    assert not session.clips
    assert not any(
        "late" in path or "diary" in path for s in served.page.temp_file_sets for path in s
    )


def test_one_of_two_connections_may_drop(served):
    visitor = Visitor(served.port)
    visitor.add("joy", ("a.wav", sound()))
    session = served.sessions.find(visitor.number)
    visitor.beat()
    visitor.drop()
    wait_until(lambda: session.connections == 1)
    with little_patience():
        time.sleep(1.0)
    assert len(served.sessions.find(visitor.number).clips) == 1
    visitor.drop()
    wait_until(lambda: not session.connections)
    assert visitor.beat(again=True) == 200  # after a lost network, within a moment
    with little_patience():
        time.sleep(1.0)
    assert "2 clips" in visitor.add("joy", ("b.wav", sound(seed=1)), ("c.wav", sound(seed=2)))
    assert len(served.sessions.find(visitor.number).clips) == 3
    visitor.close()
    with little_patience():
        wait_until(lambda: served.sessions.find(visitor.number) is None)
    assert visitor.beat(again=True) == 410
    assert visitor.join("Enrol", [], "")[0] == 410
    visitor.close()


def test_answers_are_not_kept_in_the_frameworks_state(served):
    visitor = Visitor(served.port)
    visitor.add("a label of mine", ("a.wav", sound()))
    state = served.page.state_holder.session_data[visitor.number]
    assert "clip of a label of mine added" not in json.dumps(state.config_values, default=str)
    visitor.close()


def test_what_is_done_after_the_close_makes_no_session_anew(served, monkeypatch):
    monkeypatch.setattr(web_page, "WAIT", 0.1)
    visitor = Visitor(served.port)
    status, _ = visitor.join("Enrol", ["neutral"], "")
    assert status == 200
    visitor.close()
    with little_patience():
        wait_until(lambda: served.sessions.find(visitor.number) is None)
    served.page.state_holder[visitor.number]  # as an event does that is late
    wait_until(lambda: not framework_knows(served, visitor.number))


def test_answers_that_nobody_fetches_are_dropped(served, monkeypatch):
    visitor = Visitor(served.port)
    with monkeypatch.context() as patch:
        patch.setattr(web_page, "WAIT", 0.1)
        statuses = [visitor.join("Enrol", ["neutral"], "")[0] for _ in range(30)]
        assert statuses == [200] * 4 + [429] * 26
        queue = served.page._queue
        with little_patience():
            wait_until(lambda: not queue.pending_messages_per_session.get(visitor.number))
            wait_until(lambda: not queue.pending_event_ids_session.get(visitor.number))
    assert "There are no clips" in visitor.enrol()  # the page is there as before
    visitor.close()


def test_an_upload_has_files_alone(served):
    visitor = Visitor(served.port, alive=False)
    field = b'--edge\r\nContent-Disposition: form-data; name="files"\r\n\r\nhello\r\n--edge--\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=edge"}
    status, said = visitor.ask("POST", "/gradio_api/upload", field, headers)
    assert (status, said) == (400, b"A part of it is not a file.")
    mixed = multipart([("a.wav", b"sound")])[0].replace(b"--edge--\r\n", field)
    assert visitor.ask("POST", "/gradio_api/upload", mixed, headers)[0] == 400
    with little_patience():
        wait_until(lambda: not files(served))


def test_files_of_an_address_have_a_bound(served, monkeypatch):
    visitor = Visitor(served.port, alive=False)
    visitor.upload(("a.wav", bytes(2000)))
    for bound, said in (
        ("MOST_STORED_OF_ADDRESS", "files of yours enough"),
        ("MOST_STORED", "no room for more"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(web_server, bound, 1000)
            with pytest.raises(RuntimeError, match=said):
                visitor.upload(("b.wav", b"sound"))
    monkeypatch.setattr(web_server, "LEAST_FREE", 1 << 60)
    with pytest.raises(RuntimeError, match="no room for more"):
        visitor.upload(("b.wav", b"sound"))
    assert web_server._stored(served.folder, "127.0.0.1")[0] == 2000
    assert web_server._stored(served.folder, "1.2.3.4") == (0, 2000)
    with little_patience():
        wait_until(lambda: not list(served.folder.iterdir()))


@pytest.mark.slow
def test_a_recording_is_heard_in_parts_and_by_speaker(served, trained):
    _, speech = trained
    visitor = Visitor(served.port)
    for label in ("anger", "fear"):
        for name, path in zip(("Ann", "Bob"), speech.of(label), strict=False):
            visitor.add(label, (path.name, path.read_bytes()), speaker=name)
    samples = np.concatenate([soundfile.read(path)[0] for path in speech.paths])
    rate = soundfile.info(speech.paths[0]).samplerate
    file = Path(os.environ["GRADIO_TEMP_DIR"]).parent / "call.wav"
    soundfile.write(file, samples, rate)
    recording = visitor.give("call.wav", file.read_bytes())
    visitor.enrol()
    said = "was enrolled with another choice of voices"
    assert said in said_in(visitor.do("Recognise", recording, 0, "file"))
    assert "no such segment" in said_in(visitor.do("segments", 0))
    assert "Enrolled anger, fear" in said_in(visitor.do("Enrol", ["neutral"], "file"))
    assert said in visitor.recognise(recording)
    assert "Heard " in said_in(visitor.do("Recognise", recording, 0, "file"))
    assert "data:audio/wav;segment=0;base64," in said_in(visitor.do("segments", 0))
    assert "no such segment" in said_in(visitor.do("segments", -1))
    learned = said_in(visitor.do("Learn from what you labelled", [], "file", 0, {"0": "fear"}))
    assert "Learned from 5 instead of 4 clips" in learned
    visitor.close()


def test_a_forged_file_is_refused_and_nothing_of_it_is_logged(served, tmp_path, capsys):
    (tmp_path / "secret diary.wav").write_bytes(sound())
    visitor = Visitor(served.port)
    for path in (str(tmp_path / "secret diary.wav"), "https://evil.example/secret diary.wav"):
        assert not visitor.do("Recognise", as_file(path), 0, "")["success"]
        assert not visitor.do("clips", "joy", "a new emotion", "", [as_file(path)])["success"]
    assert not visitor.do("clips", "joy", "secret\n\x1b[31m", "", [])["success"]
    assert not served.sessions.find(visitor.number).clips
    logged = capsys.readouterr().err
    assert logged
    assert "secret" not in logged
    assert all(line.isprintable() for line in logged.splitlines())
    assert "Traceback" not in logged
    visitor.close()


def test_two_additions_at_once_answer_for_themselves(served):
    visitors = [Visitor(served.port) for _ in range(4)]

    def add(visitor, number):
        label = f"label {number}"
        given = [(f"{index}.wav", sound(seed=10 * number + index)) for index in range(number + 1)]
        return visitor.add(label, *given)

    said = together([lambda v=v, n=n: add(v, n) for n, v in enumerate(visitors)])
    for number, text in enumerate(said):
        assert f"{number + 1} clip" in text
        assert f"of label {number} added" in text
        assert not [other for other in range(4) if other != number and f"label {other}" in text]
    for visitor in visitors:
        visitor.close()


def test_work_ends_soon_after_its_page(served, monkeypatch):
    begun, ended = threading.Event(), threading.Event()

    def wait(session, path, abstain, report, speakers):
        begun.set()
        try:
            while True:
                time.sleep(0.05)
                report(0.5)
        finally:
            ended.set()

    monkeypatch.setattr(web_session, "recognise", wait)
    visitor = Visitor(served.port)
    visitor.join("Recognise", None, 0, "")
    listening = visitor.listen()
    next(listening)
    assert begun.wait(60)
    assert not ended.is_set()
    listening.close()
    visitor.close()
    assert ended.wait(60)


def test_memory_is_given_back_when_nobody_is_there_and_calls_were(monkeypatch):
    for name in ("_drop_states", "_remove_unused"):
        monkeypatch.setattr(web_server, name, lambda *_: None)
    monkeypatch.setattr(web_server, "_drop_unfetched", lambda *_: asyncio.sleep(0))
    monkeypatch.setattr(web_server, "SWEEP_SECONDS", 0.01)
    monkeypatch.setattr(web_server, "QUIET", 0.1)
    done, own = [], threading.current_thread()

    def note(what):
        if threading.current_thread() is own:  # the page of other tests is swept in another
            done.append(what)

    monkeypatch.setattr(web_server.jax, "clear_caches", lambda: note("programs"))
    monkeypatch.setattr(web_server, "_trim", lambda: note("memory"))
    sessions = Sessions()

    async def sweep():
        sweeping = asyncio.create_task(web_server._sweep(None, Path(), sessions))
        await asyncio.sleep(0.3)
        assert done == []  # nobody was there
        assert sessions.begin("abcdef", "")
        sessions.end("abcdef")  # between two sweeps, as a short call does
        async with asyncio.timeout(60):
            while "memory" not in done:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)
        assert done == ["programs", "memory"]
        sweeping.cancel()

    asyncio.run(sweep())


def test_a_password_is_read(tmp_path):
    (tmp_path / "a").write_text("correct horse\n")
    assert _secret("password", str(tmp_path / "a")) == "correct horse"
    assert _secret("password", "") == ""
    (tmp_path / "b").write_text("short\n")
    for name, sentence in (("b", "has a password of 5 letters"), ("c", "name a text file")):
        with pytest.raises(UserError, match=sentence):
            _secret("password", str(tmp_path / name))


def test_folders_of_servers_that_died_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(web_server.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(web_server.tempfile, "tempdir", str(tmp_path))
    died = tmp_path / "fmaml_jax_page_died"
    (died / "upload").mkdir(parents=True)
    (died / "upload" / "diary.wav").write_bytes(b"sound")
    other = tmp_path / "fmaml_jax_tests_x"
    other.mkdir()
    with web_server._folder() as first:
        assert stat.S_IMODE(os.stat(first).st_mode) == 0o700
        with web_server._folder() as second:
            assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
                [Path(first).name, Path(second).name, other.name]
            )
    assert list(tmp_path.iterdir()) == [other]


# ---- the command


def command(trained, temporary, *arguments):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "fmaml_jax.serve"),
            *(f"--checkpoint={trained[0]}", f"--port={port}", *arguments),
        ],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(temporary), "JAX_NUM_CPU_DEVICES": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    said = process.stdout.readline()
    return process, port, said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        (signal.SIGHUP, 129, ""),
        (signal.SIGTERM, 143, ""),
        (signal.SIGINT, 130, "interrupted\n"),
    ],
)
def test_a_signal_ends_it_in_order_while_it_works(trained, tmp_path, number, code, said):
    own = signal.signal(number, lambda *_: None)  # a child inherits that one is ignored (nohup)
    try:
        process, port, first = command(trained, tmp_path)
    finally:
        signal.signal(number, own)
    assert first == f"Serving at http://127.0.0.1:{port}/; Ctrl-C ends it\n"
    _, speech = trained
    visitor = Visitor(port)
    for label in ("anger", "fear"):
        visitor.add(label, *((path.name, path.read_bytes()) for path in speech.of(label)[:2]))
    visitor.enrol()
    samples = np.concatenate([soundfile.read(path)[0] for path in speech.paths])
    rate = soundfile.info(speech.paths[0]).samplerate
    soundfile.write(tmp_path / "long.wav", np.resize(samples, 1200 * rate), rate)
    recording = visitor.give("long.wav", (tmp_path / "long.wav").read_bytes())
    visitor.join("Recognise", recording, 0, "")
    listening = visitor.listen()
    next(listening)
    time.sleep(1)
    process.send_signal(number)
    time.sleep(0.1)
    if number == signal.SIGINT:
        process.send_signal(number)  # pressed twice
    _, errors = process.communicate(timeout=60)
    listening.close()
    visitor.close()
    assert (process.returncode, errors) == (code, said)
    assert not list(tmp_path.glob("fmaml_jax_page_*"))


@pytest.mark.slow
def test_others_than_this_machine_need_the_token(trained, tmp_path):
    process, port, first = command(trained, tmp_path, "--host=0.0.0.0")
    token = first.partition("?token=")[2].partition(";")[0]
    assert len(token) >= 20
    visitor = Visitor(port, alive=False)
    assert visitor.ask("GET", "/config")[0] == 401
    assert visitor.ask("GET", f"/?token={token}")[0] == 303
    process.terminate()
    process.communicate(timeout=300)


@pytest.mark.slow
def test_a_port_that_is_taken_is_said_in_words(trained, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process, _, first = command(trained, tmp_path, f"--port={port}")
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 2
    assert first == ""
    assert errors == (
        f"error: cannot serve at 127.0.0.1:{port} (Address already in use); choose another --port "
        "or --host\n"
    )
