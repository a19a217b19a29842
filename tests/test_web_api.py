"""The HTTP interface: what it answers, to whom, and what is left of it."""

import io
import json
import re
import shutil
import socket
import subprocess
import threading
import time
from functools import partial
from types import SimpleNamespace

import jsonschema
import pytest
import soundfile

pytest.importorskip("gradio", reason="requirements-web.txt is not there")
import uvicorn

from experiments.benchmarks.visitor import Visitor, form, together
from fmaml_jax.common.errors import UserError
from fmaml_jax.recognition import load, predict
from fmaml_jax.recognition.formats import SCHEMA
from fmaml_jax.serve import _token
from fmaml_jax.web import api, guard
from fmaml_jax.web import server as web_server
from fmaml_jax.web.api import Doors
from fmaml_jax.web.guard import Connection
from fmaml_jax.web.session import Sessions
from tests.commands import run_module
from tests.test_prepare import ROOT, noise
from tests.test_web_server import drop_loops, wait_until

pytestmark = [
    # Of Gradio's own dependencies, and of event loops that it leaves open.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
PAGE = ROOT / "docs" / "http.md"


@pytest.fixture(scope="module")
def serve(start, tmp_path_factory):
    """Serves with these doors, in this process: a port, a folder and sessions."""
    patch = pytest.MonkeyPatch()
    running = []

    def serve(doors):
        folder = tmp_path_factory.mktemp("page")
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        sessions = Sessions()
        listening = socket.create_server(("127.0.0.1", 0))
        app = web_server._guarded(start, "127.0.0.1", "", str(folder), sessions, doors)
        server = uvicorn.Server(
            uvicorn.Config(app, http=Connection, ws="none", log_level="critical")
        )
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        running.append((server, thread))
        drop_loops()
        port = listening.getsockname()[1]
        return SimpleNamespace(port=port, folder=folder, sessions=sessions)

    yield serve
    for server, _ in running:
        server.should_exit = True
    for _, thread in running:
        thread.join(60)
    patch.undo()
    drop_loops()


@pytest.fixture(scope="module")
def served(serve):
    return serve(Doors(http=True))


def post(served, path, *parts, **headers):
    """The status, and the answer."""
    body, own = form(*parts)
    status, said = Visitor(served.port, alive=False).ask("POST", path, body, own | headers)
    return status, said


def refusal(answer):
    status, said = answer
    return status, json.loads(said)["error"]


def clips(trained, emotions=("anger", "sadness"), each=3):
    """The parts of an enrolment."""
    for emotion in emotions:
        for path in trained[1].of(emotion)[:each]:
            yield "files", path.name, path.read_bytes()
            yield "labels", emotion


@pytest.fixture(scope="module")
def model(served, trained):
    status, content = post(served, "/v1/enrol", *clips(trained), ("without", "silence"))
    assert status == 200, content
    return content


def test_a_model_comes_back_as_the_file_that_the_commands_take(model, trained, served, tmp_path):
    path = tmp_path / "my.model"
    path.write_bytes(model)
    recogniser = load(path)
    assert recogniser.classes == ("anger", "sadness", "neutral")
    assert recogniser.counts == (3, 3, 0)
    status, said = post(served, "/v1/describe", ("model", "my.model", model))
    assert status == 200
    found = json.loads(said)
    assert [own["name"] for own in found["classes"]] == [*recogniser.classes]
    assert found["estimate"]["recall"] == pytest.approx(recogniser.estimate.uar)
    assert found["warnings"] == [*recogniser.warnings]


def test_predictions_are_those_of_the_command_and_follow_the_schema(
    model, trained, served, tmp_path
):
    path = tmp_path / "my.model"
    path.write_bytes(model)
    sound = trained[1].of("anger")[4]
    status, said = post(
        served,
        "/v1/predict",
        ("model", "my.model", model),
        ("files", "../dzień.wav", sound.read_bytes()),
        ("files", "", noise_file(0.4)),
        ("abstain", 0.9),
    )
    assert status == 200, said
    document = json.loads(said)
    jsonschema.validate(document, json.loads(SCHEMA.read_text()))
    first, second = document["predictions"]
    assert first["file"] == "../dzień.wav"
    expected = predict(load(path), sound, abstain=0.9).segments[0]
    assert first["segments"][0]["label"] == expected.label
    assert [*first["segments"][0]["probabilities"].values()] == pytest.approx(
        expected.probabilities, abs=1e-3
    )
    assert second["seconds"] == pytest.approx(0.4)
    assert not list(served.folder.iterdir())
    assert not len(served.sessions)


def noise_file(seconds, seed=0):
    file = io.BytesIO()
    soundfile.write(file, noise(seconds, seed=seed), 16_000, format="WAV")
    return file.getvalue()


def test_labels_may_mean_classes_of_the_start_and_speakers_be_named(trained, served):
    given = list(clips(trained, ("anger",)))
    given = [
        (name, *("gniew" if name == "labels" else c for c in content)) for name, *content in given
    ]
    others = clips(trained, ("sadness",))
    speakers = [("speakers", name) for name in "aabaab"]
    status, content = post(
        served, "/v1/enrol", *given, *others, *speakers, ("same_as", "gniew=anger")
    )
    assert status == 200, content
    found = json.loads(post(served, "/v1/describe", ("model", "m", content))[1])
    assert {own["name"]: own["known_as"] for own in found["classes"]}["gniew"] == "anger"
    assert found["estimate"]["left_out"] == "speaker"


@pytest.mark.parametrize(
    ("parts", "status", "said"),
    [
        ([("files", "diary.wav", b"no sound")], 422, "model"),
        ([("model", "m", b"none"), ("files", "a.wav", b"")], 422, "m is not a readable"),
        (["model", ("files", "diary.wav", b"no sound")], 422, "diary.wav cannot be used"),
        (["model", ("files", "a.wav", noise_file(0.3)), ("abstain", 7)], 422, "abstain"),
        (["model", ("files", "a.wav", noise_file(0.3)), ("abstain", "nan")], 422, "abstain"),
        (["model", ("files", "diary")], 422, "files.0: text was sent in place of a file"),
        (
            ["model", ("files", "a.wav", noise_file(0.3)), ("abstian", 0.5)],
            422,
            "There is no field 'abstian' here; send model, files, abstain alone.",
        ),
        (["model", *[("x", "y" * 2000)]], 400, "maximum size"),
        (["model", *[("x", "")] * 3001], 400, "Too many fields"),
        (["model", *[("files", "a", b"")] * 1001], 400, "Too many files"),
    ],
)
def test_bad_input_gets_one_sentence(served, model, parts, status, said, capfd):
    parts = [("model", "my.model", model) if part == "model" else part for part in parts]
    found, sentence = refusal(post(served, "/v1/predict", *parts))
    assert (found, said in sentence) == (status, True), sentence
    assert str(served.folder) not in sentence
    assert "diary" not in "".join(capfd.readouterr())
    assert not list(served.folder.iterdir())


def test_bad_enrolments_get_one_sentence(served, trained):
    enrol = partial(post, served, "/v1/enrol")
    (file, label, *_) = clips(trained)
    assert "1 files and 2 labels" in refusal(enrol(file, label, label))[1]
    assert "1 files and 2 speakers" in refusal(enrol(file, label, *[("speakers", "a")] * 2))[1]
    assert "label=class" in refusal(enrol(file, label, ("same_as", "gniew")))[1]
    assert refusal(enrol(file, label, ("without", "x")))[0] == 422
    assert "cannot be used" in refusal(enrol(("files", "a.wav", b"x"), label))[1]
    assert refusal(enrol(label))[0] == 422


def test_other_requests_are_refused(served):
    ask = Visitor(served.port, alive=False).ask
    assert json.loads(ask("GET", "/v1/health")[1]) == {"status": "ok"}
    for method, path, headers, status in (
        ("GET", "/v1/nothing", {}, 404),
        ("GET", "/v1/predict", {}, 405),
        ("POST", "/v1/predict", {"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ("POST", "/v1/predict", {"Content-Type": "multipart/form-data"}, 400),
        ("POST", "/v1/predict", {"Origin": "http://evil.example"}, 403),
        ("GET", "/v1/health", {"Host": "evil.example"}, 421),
    ):
        found, said = ask(method, path, b"a=b" if method == "POST" else None, headers)
        assert (found, [*json.loads(said)]) == (status, ["error"])
        assert len(json.loads(said)["error"].split()) > 3
    body, headers = form(("model", "m", b"none"))
    found, said = ask("POST", "/v1/describe?abstain=1", body, headers)
    assert (found, "'abstain' as a part of the form" in json.loads(said)["error"]) == (422, True)


def test_long_bodies_are_refused(served, monkeypatch):
    monkeypatch.setattr(guard, "LARGEST_UPLOAD", 10_000)
    big = ("model", "m", bytes(20_000))
    assert refusal(post(served, "/v1/predict", big)) == (413, "At most 9 kB are taken at once.")
    body, headers = form(big)
    parts = iter([body[:8000], body[8000:]])
    headers["Transfer-Encoding"] = "chunked"  # whose length is not announced
    chunks = (b"%x\r\n%b\r\n" % (len(part), part) for part in (*parts, b""))
    status, said = Visitor(served.port, alive=False).ask("POST", "/v1/predict", chunks, headers)
    assert (status, "error" in json.loads(said)) == (413, True)


def test_a_form_that_cannot_be_read_leaves_no_line(served, caplog):
    ask = Visitor(served.port, alive=False).ask
    assert ask("POST", "/v1/describe", b"diary", form()[1])[0] == 400
    assert not caplog.records


def test_nothing_is_served_that_was_not_asked_for(serve):
    closed = serve(Doors())
    assert Visitor(closed.port, alive=False).ask("GET", "/v1/health")[0] == 404


def test_where_there_is_a_token_calls_need_it(serve, model, monkeypatch):
    served = serve(Doors(http=True, token="correct-horse"))
    give = partial(post, served, "/v1/describe", ("model", "m", model))
    assert refusal(give())[0] == refusal(give(Authorization="Basic abc"))[0] == 401
    assert refusal(give(Authorization="Bearer wrong-horse")) == (401, "This is not the token.")
    assert give(Authorization="Bearer correct-horse")[0] == 200
    # Another name of the server, as behind a proxy.
    assert give(Authorization="Bearer correct-horse", Host="emotion.internal")[0] == 200
    ask = Visitor(served.port, alive=False).ask
    assert ask("GET", "/v1/health")[0] == 200
    assert b"HTTPBearer" in ask("GET", "/v1/openapi.json")[1]
    for _ in range(guard.MOST_GUESSES):
        give(Authorization="Bearer wrong-horse")
    assert refusal(give(Authorization="Bearer correct-horse"))[0] == 429


def test_a_call_ends_when_its_caller_goes(served, model, monkeypatch):
    def recognise(session, path, abstain, report):
        for _ in range(4000):
            time.sleep(0.05)
            report(0.0)

    monkeypatch.setattr(api, "recognise", recognise)
    body, headers = form(("model", "m", model), ("files", "a.wav", noise_file(0.4)))
    with socket.create_connection(("127.0.0.1", served.port)) as caller:
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        length = f"Content-Length: {len(body)}\r\nHost: localhost\r\n\r\n"
        caller.sendall(f"POST /v1/predict HTTP/1.1\r\n{head}{length}".encode() + body)
        wait_until(lambda: list(served.folder.iterdir()))
    wait_until(lambda: not list(served.folder.iterdir()) and not len(served.sessions))


def test_the_document_names_what_is_taken_and_answered(served):
    status, said = Visitor(served.port, alive=False).ask("GET", "/v1/openapi.json")
    document = json.loads(said)
    assert (
        document["components"]["schemas"]["Body_describe"]["properties"]["model"]["format"]
        == "binary"
    )  # by which generators of clients know a file
    assert [*document["paths"]] == ["/v1/health", "/v1/enrol", "/v1/describe", "/v1/predict"]
    for name in re.findall(r"#/components/schemas/(\w+)", said.decode()):
        assert name in document["components"]["schemas"]
    assert status == 200
    answer = document["paths"]["/v1/predict"]["post"]["responses"]
    assert answer["422"]["content"]["application/json"]["schema"]["$ref"].endswith("/Error")
    assert answer["200"]["content"]["application/json"]["schema"]["$ref"].endswith("/Predictions")
    answer = document["paths"]["/v1/enrol"]["post"]["responses"]
    assert [*answer["200"]["content"]] == ["application/octet-stream"]  # what is read as it is sent
    asked = [own["operationId"] for path in document["paths"].values() for own in path.values()]
    assert asked == ["health", "enrol", "describe", "predict"]


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not there")
def test_the_examples_of_the_document_run(served, trained, tmp_path):
    for emotion in ("anger", "sadness"):
        for number, path in enumerate(trained[1].of(emotion)[:2]):
            shutil.copy(path, tmp_path / f"{emotion}{number + 1}.wav")
    shutil.copy(trained[1].of("anger")[3], tmp_path / "call.wav")
    (tmp_path / "token.txt").write_text("correct-horse")
    commands = re.findall(r"^```sh\n(curl.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert len(commands) >= 4
    for command in commands:
        here = command.replace("127.0.0.1:7860", f"127.0.0.1:{served.port}")
        done = subprocess.run(
            ["bash", "-ec", here], cwd=tmp_path, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        assert "error" not in done.stdout
    document = json.loads((tmp_path / "call.json").read_text())
    assert document["predictions"][0]["file"] == "call.wav"


@pytest.mark.slow
def test_ten_users_at_once_get_their_own_and_leave_nothing(served, trained):
    emotions = ("anger", "fear", "sadness")
    until = time.monotonic() + 5

    def use(number):
        """Enrols classes that are named for this user, and recognises; how often."""
        done = 0
        while time.monotonic() < until or not done:
            parts = [
                (name, *(f"{c} {number}" if name == "labels" else c for c in content))
                for name, *content in clips(trained, emotions, 2)
            ]
            status, model = post(served, "/v1/enrol", *parts, ("without", "silence"))
            assert status == 200, model
            sound = trained[1].of("fear")[number % 6].read_bytes()
            status, said = post(
                served, "/v1/predict", ("model", "m", model), ("files", f"{number}.wav", sound)
            )
            assert status == 200, said
            (found,) = json.loads(said)["predictions"]
            assert found["file"] == f"{number}.wav"
            own = {f"{emotion} {number}" for emotion in emotions}
            assert set(found["segments"][0]["probabilities"]) == own | {"neutral"}
            done += 1
        return done

    assert all(together([partial(use, number) for number in range(10)]))
    assert not len(served.sessions)
    assert not list(served.folder.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["--api", "--live"])
def test_others_are_let_in_by_a_token_alone(flag, trained):
    if flag == "--live":
        pytest.importorskip("websockets", reason="requirements-web.txt is not there")
    done = run_module("fmaml_jax.serve", f"--checkpoint={trained[0]}", flag, "--host=0.0.0.0")
    assert done.returncode == 2
    assert "give --api_token_file" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "opened", "said"),
    [
        ("correct-horse", False, "is of --api and --live"),
        ("abc", True, "has a token of 3 letters"),
        ("correct horse", True, "one word"),
        ("schlüssel", True, "ASCII"),
        (None, True, "cannot read --api_token_file"),
    ],
)
def test_a_token_is_a_word_in_a_file(content, opened, said, tmp_path):
    path = tmp_path / "token.txt"
    if content:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=said):
        _token(opened, str(path))


def test_a_token_is_read_without_its_line_end(tmp_path):
    (tmp_path / "token.txt").write_text("correct-horse\n")
    assert _token(True, str(tmp_path / "token.txt")) == "correct-horse"
    assert _token(False, "") == ""
