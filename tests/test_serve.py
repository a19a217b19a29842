"""The web page, driven in a browser: enrolment to timeline, several users, and every bad upload."""

import atexit
import contextlib
import csv
import io
import json
import os
import re
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import soundfile
import textgrid

from fmaml_jax.audio.decoding import read_clip
from tests.test_decoders import RECORDED, encode, write_ogg
from tests.test_prepare import ROOT, SHARED, needs_shared

sync_api = pytest.importorskip("playwright.sync_api", reason="requirements-web.txt is not there")
pytest.importorskip("gradio", reason="requirements-web.txt is not there")
from experiments.benchmarks.visitor import Visitor, as_file, text  # noqa: E402, for a browser
from fmaml_jax.web.guard import LARGEST_UPLOAD, SERVED  # noqa: E402, after what it needs

CHROMIUM = Path("/usr/bin/chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason="no Chromium to open the page in"),
    # Of Gradio's own dependencies.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
FREE = socket.create_server(("127.0.0.1", 0))  # whose port nobody else has until the server does
atexit.register(FREE.close)
PORT = FREE.getsockname()[1]
ADDRESS = f"http://127.0.0.1:{PORT}"
SOON = (
    "import runpy; from fmaml_jax.web import server, session; session.GRACE = 3; "
    "server.UNUSED = 8; "
    "runpy.run_module('fmaml_jax.serve', run_name='__main__')"
)
"""The command, whose pages are forgotten sooner than a minute after they are closed."""


@pytest.fixture(scope="module")
def server(trained, tmp_path_factory):
    """The command as a process; its temporary folder."""
    temporary = tmp_path_factory.mktemp("server")
    FREE.close()
    process = subprocess.Popen(
        [sys.executable, "-c", SOON, f"--checkpoint={trained[0]}", f"--port={PORT}"],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(temporary), "JAX_NUM_CPU_DEVICES": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    first = process.stdout.readline()
    assert first.startswith(f"Serving at {ADDRESS}"), first + process.communicate()[0]
    yield temporary
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=300)
    assert "Traceback" not in said
    assert not list(temporary.glob("fmaml_jax_*"))  # what the server kept is gone with it


@pytest.fixture(scope="module")
def playwright():
    with sync_api.sync_playwright() as started:
        yield started


@pytest.fixture(scope="module")
def browser(playwright):
    return playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@pytest.fixture
def visit(server, browser):
    """Opens the page as a new user; what it asked for and from whom is in `page.asked`."""
    contexts = []

    def open_page(address=ADDRESS, **options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.asked = []
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(address)
        page.get_by_text("No clips yet").wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()


def name_emotion(page, emotion):
    box = page.get_by_role("combobox", name="Emotion")
    box.fill(emotion)
    box.press("Enter")


def give(page, emotion, paths):
    name_emotion(page, emotion)
    # Until the place to drop files is empty again: others would be added to those that are there.
    page.locator("#clips .file-preview").wait_for(state="detached")
    page.locator("#clips input[type=file]").set_input_files(paths)


def add(page, emotion, paths):
    give(page, emotion, paths)
    count = f"{len(paths)} clip{'s' * (len(paths) > 1)}"
    page.get_by_text(f"{count} of {emotion} added").wait_for()


def row(page, emotion):
    """What the table of clips says of an emotion."""
    line = page.get_by_role("row").filter(has=page.get_by_role("cell", name=emotion, exact=True))
    return line.first.get_by_role("cell").all_inner_texts()[1:]


def press(page, name):
    page.get_by_role("button", name=name, exact=True).click()


def recognise(page, path):
    page.locator("#recording input[type=file]").set_input_files(path)
    page.get_by_label("Play", exact=True).wait_for()
    press(page, "Recognise")


def download(page, name):
    link = page.get_by_role("link", name=name, exact=True)
    with page.expect_download() as waiting:
        link.click()
    return waiting.value


def audio_kept(server):
    """Files with content in the server's folder; Gradio makes some without."""
    return [path for path in server.rglob("*") if path.is_file() and path.stat().st_size]


def wait_until(holds):
    for _ in range(600):
        with contextlib.suppress(FileNotFoundError):  # of a file that goes while it is looked at
            if holds():
                return
        time.sleep(0.1)
    pytest.fail("in vain")


def joined(paths, target):
    samples = [soundfile.read(path)[0] for path in paths]
    rate = soundfile.info(paths[0]).samplerate
    soundfile.write(
        target, np.concatenate([np.append(clip, np.zeros(rate)) for clip in samples]), rate
    )
    return target


def test_from_clips_to_a_timeline(visit, trained, server, tmp_path):
    _, speech = trained
    wait_until(lambda: not audio_kept(server))  # of visitors before
    page = visit()
    for emotion in ("anger", "fear"):
        add(page, emotion, speech.of(emotion)[:4])
    add(page, "smutek", speech.of("sadness")[:4])
    assert row(page, "smutek") == ["new", "4", "not said"]
    page.get_by_role("combobox", name="It means").click()
    page.get_by_role("option", name="sadness").click()
    page.get_by_role("cell", name="sadness").wait_for()
    assert row(page, "smutek") == ["sadness", "4", "not said"]
    assert row(page, "fear") == ["known", "4", "not said"]
    assert not audio_kept(server)

    press(page, "Enrol")
    page.get_by_text(re.compile("Leaving out each clip in turn, .* of 12 clips")).wait_for()
    page.get_by_text("No speakers are named").wait_for()
    assert page.get_by_role("table", name="Labels against answers").is_visible()

    recognise(page, speech.of("fear")[0])
    page.get_by_text("fear, with a probability of").wait_for()
    page.get_by_text("Probabilities").wait_for()

    # Of an answer that is not sure enough it is said which it would be.
    page.get_by_role("spinbutton").fill("1")
    page.get_by_role("spinbutton").press("Tab")
    press(page, "Recognise")
    page.get_by_text("Unsure: most probably fear, with a probability of").wait_for()
    page.get_by_role("spinbutton").fill("0")
    page.get_by_role("spinbutton").press("Tab")

    call = joined(speech.paths[:12], tmp_path / "a call.wav")
    page.get_by_label("Clear").last.click()
    page.get_by_text("Up to 15 seconds are one clip").wait_for()
    assert not page.get_by_text("with a probability of").count()  # of what is no longer there
    recognise(page, call)
    page.get_by_text("Heard ").wait_for()
    assert page.get_by_alt_text("Timeline").evaluate("image => image.naturalWidth") > 900
    page.get_by_role("columnheader", name="it is").wait_for()
    file = download(page, "csv")
    assert file.suggested_filename == "a call.csv"
    rows = list(csv.DictReader(io.StringIO(Path(file.path()).read_text(), newline="")))
    assert {row["file"] for row in rows} == {"a call.wav"}
    assert {row["label"] for row in rows} <= {"anger", "fear", "smutek", "neutral", "silence"}
    grid = textgrid.TextGrid.fromFile(str(download(page, "textgrid").path()))
    assert [i.mark for i in grid[0] if i.mark] == [row["label"] for row in rows]
    assert json.loads(Path(download(page, "json").path()).read_text())["schema_version"] == 1
    for name in ("audacity", "rttm"):
        assert len(Path(download(page, name).path()).read_text().splitlines()) == len(rows)

    # The model of this session serves another one.
    model = tmp_path / "my.model"
    download(page, "Save the model").save_as(model)
    other = visit()
    other.get_by_text("Or load a model").click()
    other.locator("#model input[type=file]").set_input_files(model)
    other.get_by_text("Enrolled anger, fear, smutek, neutral, silence").wait_for()

    other.locator("#recording input[type=file]").set_input_files(call)
    other.get_by_label("Play", exact=True).wait_for()
    wait_until(lambda: len(audio_kept(server)) == 2)  # of each its recording, to be played back

    # Nobody else was asked for anything, and nothing stays; what another user has, does.
    for asked in page.asked:
        assert asked.startswith((ADDRESS, "data:", "blob:")), asked
    page.context.close()
    wait_until(lambda: len(audio_kept(server)) == 1)
    press(other, "Recognise")
    other.get_by_text("Heard ").wait_for()
    other.get_by_label("Clear").last.click()
    wait_until(lambda: not audio_kept(server))
    other.locator("#recording input[type=file]").set_input_files(call)
    other.get_by_label("Play", exact=True).wait_for()
    other.context.close()
    wait_until(lambda: not audio_kept(server))


def segments(page):
    return page.locator("#segments tbody tr")


def is_playing(page):
    """Waits until a segment plays; its seconds."""
    page.wait_for_function(
        "() => { const a = document.querySelector('#sound audio'); "
        "return a.src.startsWith('data:') && !a.paused && a.duration; }"
    )
    return page.evaluate("document.querySelector('#sound audio').duration")


def test_segments_are_heard_labelled_and_learned_from(visit, trained, tmp_path):
    """With a mouse on the timeline, then with the keyboard alone."""
    _, speech = trained
    page = visit()
    for emotion in ("anger", "fear"):
        add(page, emotion, speech.of(emotion)[:3])
    press(page, "Enrol")
    page.get_by_text("Enrolled anger, fear").wait_for()
    paths = [path for label in ("anger", "sadness", "fear") for path in speech.of(label)[3:5]]
    recognise(page, joined(paths, tmp_path / "call.wav"))
    page.get_by_text("Heard ").wait_for()
    sure = [int(row.get_by_role("cell").nth(2).inner_text()[:-1]) for row in segments(page).all()]
    assert sure == sorted(sure)

    timeline = page.get_by_alt_text("Timeline")
    size = timeline.bounding_box()
    place = page.locator(".timeline").evaluate("({ dataset }) => ({ ...dataset })")
    begin, end, seconds = (float(place[name]) for name in ("from", "to", "seconds"))
    button = page.locator("#segments button[name='2']")
    start, stop = (float(button.get_attribute(f"data-{edge}")) for edge in ("start", "end"))
    middle = begin + (end - begin) * (start + stop) / 2 / seconds
    timeline.click(position={"x": middle * size["width"], "y": 0.3 * size["height"]})
    assert is_playing(page) == pytest.approx(stop - start, abs=0.01)
    assert page.locator("#segments .chosen").get_attribute("name") == "2"
    page.evaluate("document.querySelector('#sound audio').pause()")
    button.click()
    is_playing(page)  # once more
    page.locator("#segments select[name='2']").select_option("another …")
    page.keyboard.type("surprise")
    page.keyboard.press("Enter")
    wait_until(lambda: row(page, "surprise") == ["new", "1", "not said"])

    first = segments(page).first
    first.get_by_role("button").focus()
    page.keyboard.press("Enter")
    is_playing(page)
    page.keyboard.press("Tab")
    page.keyboard.press("f")  # of fear
    for emotion, clips in (("fear", "4"), ("surprise", "1")):
        wait_until(lambda emotion=emotion, clips=clips: row(page, emotion)[1] == clips)
    assert page.evaluate("document.activeElement.value") == "fear"
    press(page, "Learn from what you labelled")
    page.get_by_text("Learned from 8 instead of 6 clips. The estimate is").wait_for()
    page.get_by_text(re.compile(r"Another answer than before: \d+ of \d+ segments")).wait_for()
    page.get_by_text("Enrolled anger, fear, surprise, neutral, silence").wait_for()
    said = page.locator("#segments select").evaluate_all("all => all.map(one => one.value)")
    assert [*filter(None, said)] == said[-2:]
    assert {*said[-2:]} == {"fear", "surprise"}

    # What is taken back is no clip any more.
    page.locator("#segments select").last.select_option("")
    wait_until(lambda: sum(int(row(page, name)[1]) for name in ("anger", "fear")) <= 7)


def test_two_users_at_once(visit, trained):
    _, speech = trained
    first, second = visit(), visit()
    add(first, "anger", speech.of("anger")[:3])
    add(second, "joy", speech.of("neutral")[:2])
    add(first, "fear", speech.of("fear")[:3])
    add(second, "awe", speech.of("sadness")[:2])
    for page in (first, second):
        press(page, "Enrol")
    first.get_by_text("Enrolled anger, fear, neutral, silence").wait_for()
    second.get_by_text("Enrolled awe, joy, neutral, silence").wait_for()
    said = [page.locator("body").inner_text() for page in (first, second)]
    assert "awe" not in said[0]
    assert second.get_by_role("cell", name="fear").count() == 0
    assert "of 6 clips" in said[0]
    assert "of 4 clips" in said[1]


def test_clips_can_be_taken_out_again(visit, trained):
    _, speech = trained
    page = visit()
    add(page, "anger", speech.of("anger")[:3])
    add(page, "fear", speech.of("fear")[:3])
    page.get_by_role("combobox", name="Take clips out again").click()
    page.get_by_role("option", name="all of fear").click()
    page.keyboard.press("Escape")
    press(page, "Take out")
    page.locator("td", has_text="fear").wait_for(state="detached")
    press(page, "Enrol")
    page.get_by_text("Enrolled anger, neutral, silence").wait_for()


def test_what_cannot_be_used_is_said_in_words(visit, server, trained, tmp_path):
    page = visit()
    (tmp_path / "text.wav").write_text("no audio")
    (tmp_path / "empty.wav").touch()
    soundfile.write(tmp_path / "minutes.flac", np.resize([0, 0.1], 61 * 8000), 8000)
    soundfile.write(tmp_path / "hours.flac", np.zeros(2 * 3600 * 1000), 1000)
    page.locator("#clips input[type=file]").set_input_files(trained[1].paths[0])
    page.get_by_text("Name the emotion first").wait_for()
    for name, sentence in (
        ("text.wav", "Clip 'text.wav' cannot be used: unreadable"),
        ("minutes.flac", "61 s long, and a clip is at most 60 s"),
        ("empty.wav", "Clip 'empty.wav' cannot be used: empty"),
    ):
        give(page, "joy", tmp_path / name)
        page.get_by_text(sentence).first.wait_for()
    press(page, "Enrol")
    page.get_by_text("There are no clips; label two or more").wait_for()
    press(page, "Recognise")
    page.get_by_text("There is nothing to recognise with yet; enrol in step 2").wait_for()
    page.get_by_text("Or load a model").click()
    page.locator("#model input[type=file]").set_input_files(tmp_path / "text.wav")
    page.get_by_text("text.wav is not a readable .npz file").wait_for()
    assert str(server) not in page.locator("body").inner_text()
    for emotion in ("anger", "fear"):
        add(page, emotion, trained[1].of(emotion)[:2])
    page.get_by_text("Give clips of two or more emotions, then press Enrol").wait_for()
    press(page, "Enrol")
    page.get_by_text("Enrolled anger, fear").wait_for()
    assert not page.get_by_text("There is nothing to recognise with yet").count()
    recognise(page, tmp_path / "hours.flac")
    page.get_by_text("lasts 120 minutes, and this page takes 60 at most").wait_for()


def test_sound_of_every_kind_is_taken(visit, trained, tmp_path):
    """What phones and browsers record, files joined, a lost channel, an offset: clips as others."""
    page = visit()
    speech = [read_clip(path).samples for path in trained[1].of("anger")]
    kinds = [
        encode(tmp_path / name, speech[index % len(speech)], *recorded)
        for index, (name, recorded) in enumerate(RECORDED.items())
    ]
    joined = write_ogg(tmp_path / "joined.ogg", speech[0], "VORBIS")
    joined.write_bytes(joined.read_bytes() * 2)
    lost, moved = tmp_path / "lost.wav", tmp_path / "moved.flac"
    soundfile.write(lost, np.column_stack([speech[1], -speech[1]]), 16_000)
    soundfile.write(moved, 0.8 * speech[2] + 0.1, 16_000)
    kinds += [joined, lost, moved]
    add(page, "anger", kinds)
    add(page, "fear", trained[1].of("fear")[:3])
    assert str(len(kinds)) in row(page, "anger")
    press(page, "Enrol")
    page.get_by_text("channel 1 alone is used").first.wait_for()
    page.get_by_text("constant offset").first.wait_for()
    recognise(page, tmp_path / "phone.m4a")
    page.get_by_text("anger", exact=True).last.wait_for()


@pytest.mark.parametrize("name", ["memo.webm", "film.mp4", "phone.3gp"])
def test_a_video_container_is_a_recording(visit, trained, tmp_path, name):
    page = visit()
    for emotion in ("anger", "fear"):
        add(page, emotion, trained[1].of(emotion)[:2])
    press(page, "Enrol")
    page.get_by_text("Enrolled anger, fear").wait_for()
    made = encode(
        tmp_path / "made.webm",
        read_clip(trained[1].of("fear")[0]).samples,
        "libopus",
        "webm",
        48_000,
    )
    recording = made.rename(tmp_path / name)  # what it is called is all that the page knows
    page.locator("#recording input[type=file]").set_input_files(recording)
    # Players of some browsers play it, and others do not; it can be taken back in all of them.
    page.locator("#recording").get_by_label("Clear").wait_for()
    press(page, "Recognise")
    page.get_by_text("with a probability of").wait_for()


def test_a_page_that_was_forgotten_says_so(visit, trained):
    """As after a lost network that comes back too late, or when the server was started anew."""
    with Network() as network:
        page = visit(address=f"http://127.0.0.1:{network.port}")
        add(page, "anger", trained[1].of("anger")[:2])
        (number,) = set(re.findall(r"heartbeat/(\w+)", " ".join(page.asked)))
        network.works = False
        network.drop()
        asked = {"session_hash": number, "data": []}
        wait_until(lambda: call_api("/gradio_api/queue/join", asked)[0] == 410)
        network.works = True
        page.get_by_text("was started anew: reload it").wait_for()


class Network(socketserver.ThreadingTCPServer):
    """Between a browser and the server: its connections can be lost, and new ones refused."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), None)
        self.port = self.server_address[1]
        self.works = True
        self.open = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def finish_request(self, request, client_address):
        if not self.works:
            return
        with socket.create_connection(("127.0.0.1", PORT)) as there:
            self.open += [request, there]
            back = threading.Thread(target=self.pass_on, args=(there, request), daemon=True)
            back.start()
            self.pass_on(request, there)
            back.join()

    def pass_on(self, one, other):
        with contextlib.suppress(OSError):
            while data := one.recv(1 << 16):
                other.sendall(data)
        with contextlib.suppress(OSError):
            other.shutdown(socket.SHUT_RDWR)

    def drop(self):
        for connection in self.open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.open.clear()

    def __exit__(self, *error):
        self.drop()
        self.shutdown()
        super().__exit__(*error)


def test_names_are_text(visit, trained):
    page = visit()
    page.on("dialog", lambda dialog: pytest.fail("a name was run as a script"))
    hard = "<img src=x onerror=alert(1)> \"q\" 'żółć' {{value}} ${alert(1)}"
    add(page, hard, trained[1].of("anger")[:2])
    add(page, "fear", trained[1].of("fear")[:2])
    press(page, "Enrol")
    page.get_by_text("Leaving out each").wait_for()
    recognise(page, trained[1].of("anger")[0])
    page.get_by_text("with a probability of").wait_for()
    assert page.locator("img[src=x]").count() == 0
    assert row(page, hard) == ["new", "2", "not said"]
    enrolled = f"Enrolled {hard}, fear, neutral, silence. Leaving out"
    assert enrolled in page.locator("body").inner_text()


def test_a_phone_is_wide_enough_and_the_examples_lead_through(visit):
    page = visit(viewport={"width": 390, "height": 844}, has_touch=True)
    press(page, "No clips at hand? Try with synthetic speech")
    page.get_by_text("Synthetic speech was added").wait_for()
    press(page, "Enrol")
    page.get_by_text("Leaving out each speaker in turn").wait_for()
    press(page, "Recognise")
    page.get_by_text("Heard ").wait_for()
    segments(page).first.get_by_role("button").tap()
    is_playing(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.locator(".rows").evaluate("rows => rows.scrollWidth <= rows.clientWidth")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_as_light_as_the_browser(visit, scheme):
    page = visit(color_scheme=scheme)
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (int(re.search(r"\d+", colour)[0]) < 128) == (scheme == "dark")


def call_api(path, body=None, headers=None):
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        ADDRESS + path, data, {"Content-Type": "application/json", **(headers or {})}
    )
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


UPLOAD = {"Content-Type": "multipart/form-data; boundary=edge"}
PART = b'--edge\r\nContent-Disposition: form-data; name="files"; filename="a.wav"\r\n\r\n'


def upload(content):
    """Where the server says that it keeps the content."""
    return json.loads(call_api("/gradio_api/upload", PART + content + b"\r\n--edge--", UPLOAD)[1])[
        0
    ]


def test_files_of_the_server_can_be_neither_read_nor_removed(server, tmp_path, trained):
    mine = tmp_path / "mine.wav"
    mine.write_bytes(trained[1].paths[0].read_bytes())
    assert call_api(f"/gradio_api/file={mine}")[0] in (403, 404)
    assert call_api("/gradio_api/file=/etc/passwd")[0] in (403, 404)
    visitor = Visitor(PORT)
    for path in (str(mine), f"{ADDRESS}/theme.css"):
        for action, inputs in (
            ("clips", ["joy", "a new emotion", "", [as_file(path)]]),
            ("model", [as_file(path)]),
            ("recording", [as_file(path)]),
            ("Recognise", [as_file(path), 0, ""]),
        ):
            done = visitor.do(action, *inputs)
            assert not done["success"]
            assert "clip of joy added" not in text(done)
    visitor.close()
    assert mine.exists()


def test_only_what_the_page_needs_is_answered(server):
    for path in (
        *("/docs", "/openapi.json", "/monitoring", "/gradio_api/info", "/gradio_api/runs"),
        *("/gradio_api/file=https://example.com", "/gradio_api/deep_link?session_hash=a"),
    ):
        assert call_api(path)[0] == 404
    for path in ("run/add", "call/add", "component_server", "vibe-edit", "process_recording"):
        assert call_api(f"/gradio_api/{path}", {"data": []})[0] == 404
    assert "http" not in SERVED.pattern


def test_nobody_can_guess_where_uploads_are_or_who_is_there(server, visit):
    page = visit()
    session = re.search(r"heartbeat/(\w+)", " ".join(page.asked))[1]
    assert len(session) >= 10  # of 36 letters each
    equal = [upload(b"the same") for _ in range(2)]
    assert len({Path(path).parent for path in equal}) == 2
    for path in equal:
        assert len(Path(path).parent.name) == 64
        assert call_api(f"/gradio_api/file={path}") == (200, "the same")
        assert call_api(f"/gradio_api/file={Path(path).parent}")[0] == 403
        Path(path).unlink()


def test_an_upload_that_breaks_off_leaves_nothing(server):
    wait_until(lambda: not audio_kept(server))  # of visitors before
    with socket.create_connection(("127.0.0.1", PORT)) as connection:
        head = "POST /gradio_api/upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999\r\n"
        head += f"Content-Type: {UPLOAD['Content-Type']}\r\n\r\n"
        connection.sendall(head.encode() + PART + bytes(10**6))
        wait_until(lambda: audio_kept(server))
    wait_until(lambda: not audio_kept(server))


def test_too_large_an_upload_is_refused(server):
    body = PART + bytes(LARGEST_UPLOAD + 1) + b"\r\n--edge--\r\n"
    status, said = Visitor(PORT, alive=False).ask("POST", "/gradio_api/upload", body, UPLOAD)
    assert status in (413, 0)  # or the connection is closed before all was sent
    assert not said or b"are taken at once" in said
    wait_until(lambda: not audio_kept(server))


def test_browsers_are_told_to_load_nothing_from_elsewhere(server):
    with urllib.request.urlopen(ADDRESS) as answer:
        policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'self'")
    assert "http" not in policy


@needs_shared
def test_real_clips_and_a_recorded_voice(server, playwright, tmp_path):
    """With a microphone that plays a real clip."""
    audio = SHARED / "corpora" / "emovo" / "audio"
    clips = sorted(audio.rglob("*.flac"))
    samples, rate = soundfile.read(clips[0])
    soundfile.write(tmp_path / "voice.wav", samples, rate, "PCM_16")
    browser = playwright.chromium.launch(
        executable_path=CHROMIUM,
        args=[
            "--no-sandbox",
            "--use-fake-ui-for-media-stream",
            "--use-fake-device-for-media-stream",
            f"--use-file-for-fake-audio-capture={tmp_path}/voice.wav",
        ],
    )
    page = browser.new_context(permissions=["microphone"]).new_page()
    page.set_default_timeout(60_000)
    page.goto(ADDRESS)
    add(page, "sadness", clips[1:4])
    name_emotion(page, "rabbia")
    page.get_by_role("button", name="Record", exact=True).first.click()
    time.sleep(2)
    page.get_by_role("button", name="Stop", exact=True).first.click()
    page.get_by_text("1 clip of rabbia added").wait_for()
    press(page, "Enrol")
    page.get_by_text("Enrolled rabbia, sadness").wait_for()
    page.get_by_text(re.compile("'dis-.* far from all speech")).wait_for()
    recognise(page, joined(clips[4:12], tmp_path / "call.flac"))
    page.get_by_text("Heard ").wait_for()
    rows = list(csv.DictReader(io.StringIO(Path(download(page, "csv").path()).read_text())))
    assert rows
    browser.close()


def test_without_gradio_it_says_what_to_install():
    blocked = (
        "import runpy, sys; sys.modules['gradio'] = None; "
        "runpy.run_module('fmaml_jax.serve', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", blocked], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 2
    assert done.stderr == (
        "error: the page needs packages that are not there; `make web` installs them, or "
        "`pip install 'fmaml-jax[web]'`\n"
    )
