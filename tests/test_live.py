"""Sound as it comes in: windows and their answers, by a socket and by the command."""

import contextlib
import io
import json
import re
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import soundfile

from fmaml_jax.audio.decoding import SAMPLE_RATE, read_clip
from fmaml_jax.recognition import enrol, load, predict, save
from fmaml_jax.recognition.live import answerer, windows
from tests.test_prepare import ROOT

PAGE = ROOT / "docs" / "live.md"


@pytest.fixture(scope="module")
def model(start, trained, tmp_path_factory):
    """A model file that tells three emotions apart."""
    from fmaml_jax.recognition.support import read_clip_as

    clips = [
        read_clip_as(path, label, start)
        for label in ("anger", "fear", "sadness")
        for path in trained[1].of(label)[:3]
    ]
    path = tmp_path_factory.mktemp("live") / "my.model"
    save(enrol(start, clips, without=["silence"]), path)
    return path


@pytest.fixture(scope="module")
def sound(trained):
    """Seven seconds of speech, as 16-bit samples; then three of silence."""
    speech = np.concatenate([read_clip(path).samples for path in trained[1].paths])
    return np.append(
        (speech[: 7 * SAMPLE_RATE] * 32767).astype("<i2"), np.zeros(3 * SAMPLE_RATE, "<i2")
    )


def expected(model, sound, tmp_path):
    """What `predict` answers of each window, as a clip."""
    recogniser = load(model)
    for number in range(5):
        path = tmp_path / f"{number}.wav"
        begin = number * SAMPLE_RATE
        soundfile.write(path, sound[begin : begin + 3 * SAMPLE_RATE], SAMPLE_RATE, "PCM_16")
        yield predict(recogniser, path).segments[0]


def check(answers, model, sound, tmp_path):
    """That there is an answer a second, as `predict` has it, and none where nobody speaks."""
    assert [(answer["start"], answer["end"]) for answer in answers] == [
        (number, number + 3) for number in range(8)
    ]
    for answer, segment in zip(answers, expected(model, sound, tmp_path), strict=False):
        assert answer["label"] == segment.label
        chances = [*answer["probabilities"].values()]
        assert chances == pytest.approx(segment.probabilities, abs=1e-4)
    assert answers[-1].keys() == {"start", "end"}


def test_windows_come_out_whole_however_the_samples_came_in():
    samples = np.arange(5 * SAMPLE_RATE, dtype="<i2")
    heard, found = bytearray(), []
    for begin in range(0, samples.nbytes, 777):  # which splits samples too
        heard += samples.tobytes()[begin : begin + 777]
        found += windows(heard)
    assert len(found) == 3
    for number, window in enumerate(found):
        begin = number * SAMPLE_RATE
        expected = samples[begin : begin + 3 * SAMPLE_RATE].astype(np.float32) / 32768
        np.testing.assert_array_equal(window, expected - expected.mean())
    assert len(heard) < 2 * 3 * SAMPLE_RATE


def test_answers_are_those_of_clips(model, sound, tmp_path):
    answer = answerer(load(model))
    found = [answer(*window) for window in enumerate(windows(bytearray(sound.tobytes())))]
    check(found, model, sound, tmp_path)
    unsure = answerer(load(model), abstain=1.0)
    window = next(windows(bytearray(sound.tobytes())))
    assert unsure(0, window)["label"] == "unsure"


def hear(*flags, given):
    return subprocess.run(
        [sys.executable, "-m", "fmaml_jax.live", *flags],
        cwd=ROOT,
        input=given,
        capture_output=True,
        timeout=300,
    )


@pytest.mark.slow
def test_the_command_answers_what_is_piped_in(model, sound, tmp_path):
    done = hear(f"--model={model}", given=sound.tobytes())
    assert done.returncode == 0, done.stderr
    check([json.loads(line) for line in done.stdout.splitlines()], model, sound, tmp_path)
    done = hear(f"--model={model}", given=bytes(1000))
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"less than 3 s" in done.stderr
    wav = io.BytesIO()
    soundfile.write(wav, sound, SAMPLE_RATE, format="WAV")
    done = hear(f"--model={model}", given=wav.getvalue())
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"a sound file comes in, and samples alone are taken; convert it" in done.stderr
    assert b"--model is missing" in hear(given=b"").stderr


# ---- the socket


class Live:
    """A server with sockets, in this process."""

    def __init__(self, start, folder, token=""):
        import uvicorn

        from fmaml_jax.web import server as web_server
        from fmaml_jax.web.api import Doors
        from fmaml_jax.web.guard import Connection
        from fmaml_jax.web.session import Sessions

        self.folder, self.sessions = folder, Sessions()
        listening = socket.create_server(("127.0.0.1", 0))
        self.port = listening.getsockname()[1]
        doors = Doors(live=True, token=token)
        self.guard = web_server._guarded(start, "127.0.0.1", "", str(folder), self.sessions, doors)
        self._server = uvicorn.Server(
            uvicorn.Config(
                self.guard, http=Connection, ws="websockets-sansio", log_level="critical"
            )
        )
        self._thread = threading.Thread(target=self._server.run, args=([listening],), daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)

    def open(self, token="", **headers):
        from websockets.sync.client import connect

        given = headers | ({"Authorization": f"Bearer {token}"} if token else {})
        return connect(f"ws://127.0.0.1:{self.port}/v1/live", additional_headers=given)

    def stop(self):
        self._server.should_exit = True
        self._thread.join(60)


@pytest.fixture(scope="module")
def live(start, tmp_path_factory):
    pytest.importorskip("gradio", reason="requirements-web.txt is not there")
    pytest.importorskip("websockets", reason="requirements-web.txt is not there")
    from tests.test_web_server import drop_loops

    patch = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp("page")
    patch.setenv("GRADIO_TEMP_DIR", str(folder))
    served = Live(start, folder)
    drop_loops()
    yield served
    served.stop()
    patch.undo()
    drop_loops()


of_gradio = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


class TestSocket:
    """What `serve --live` answers."""

    pytestmark = of_gradio

    def wait_until_left(self, live):
        from tests.test_web_server import wait_until

        wait_until(lambda: not len(live.sessions) and not live.guard._sockets.total())
        assert not list(live.folder.iterdir())

    def test_it_answers_a_second_of_sound_with_its_window(self, live, model, sound, tmp_path):
        with live.open() as opened:
            opened.send(model.read_bytes())
            classes = json.loads(opened.recv(100))["classes"]
            assert classes == ["anger", "fear", "sadness", "neutral"]
            for begin in range(0, sound.nbytes, 3333):
                opened.send(sound.tobytes()[begin : begin + 3333])
            check([json.loads(opened.recv(100)) for _ in range(8)], model, sound, tmp_path)
        self.wait_until_left(live)

    @pytest.mark.parametrize(
        ("sent", "code", "said"),
        [
            (["hello"], 1003, "text is not taken"),
            ([b"no model"], 1008, "is not a readable"),
            (["model", "hello"], 1003, "text is not taken"),
            (["model", bytes((1 << 20) + 2)], 1009, "at most 1,024 kB"),
            (["model", b"ID3\x04", bytes(9000)], 1008, "a sound file comes in"),
        ],
    )
    def test_what_it_cannot_use_closes_it_with_a_sentence(self, live, model, sent, code, said):
        from websockets.exceptions import ConnectionClosed

        with live.open() as opened:
            for part in sent:
                opened.send(model.read_bytes() if part == "model" else part)
            while "classes" in (answer := json.loads(opened.recv(100))):
                pass
            assert said in answer["error"]
            with pytest.raises(ConnectionClosed):
                opened.recv(100)
            assert opened.close_code == code
        self.wait_until_left(live)

    def test_the_example_of_the_document_runs(self, live, model, sound, tmp_path, monkeypatch):
        (tmp_path / "my.model").write_bytes(model.read_bytes())
        (tmp_path / "call.raw").write_bytes(sound.tobytes())
        monkeypatch.chdir(tmp_path)
        (example,) = re.findall(
            r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE
        )
        said = io.StringIO()
        example = example.replace("127.0.0.1:7860", f"127.0.0.1:{live.port}")
        with contextlib.redirect_stdout(said):
            exec(example, {})
        assert len(said.getvalue().splitlines()) == 9
        self.wait_until_left(live)

    def test_who_sends_nothing_is_closed(self, live, monkeypatch):
        from fmaml_jax.web import api

        monkeypatch.setattr(api, "QUIET_SECONDS", 0.2)
        with live.open() as opened:
            assert "nothing came" in json.loads(opened.recv(100))["error"]
        self.wait_until_left(live)

    def test_sockets_of_an_address_are_bounded(self, live, monkeypatch):
        from websockets.exceptions import InvalidStatus

        from fmaml_jax.web import guard
        from tests.test_web_server import wait_until

        monkeypatch.setattr(guard, "MOST_SOCKETS_OF_ADDRESS", 2)
        with live.open(), live.open():
            with pytest.raises(InvalidStatus) as refused:
                live.open()
            assert refused.value.response.status_code == 429
        self.wait_until_left(live)
        with live.open(Origin=f"http://127.0.0.1:{live.port}"):
            pass
        with pytest.raises(InvalidStatus) as refused:
            live.open(Origin="http://evil.example")
        assert refused.value.response.status_code == 403
        self.wait_until_left(live)
        wait_until(lambda: not guard.Connection.open.total())

    def test_where_there_is_a_token_a_socket_needs_it(self, live, monkeypatch):
        from websockets.exceptions import InvalidStatus

        monkeypatch.setattr(live.guard, "_api_token", "correct-horse")
        for token in ("", "wrong-horse"):
            with pytest.raises(InvalidStatus) as refused:
                live.open(token)
            assert refused.value.response.status_code == 401
        with live.open("correct-horse"):
            pass
        self.wait_until_left(live)
