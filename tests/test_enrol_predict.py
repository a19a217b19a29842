"""The two commands as a user runs them: what they print and write, and every bad input."""

import contextlib
import csv
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import soundfile
import textgrid

from fmaml_jax.audio.filterbank import EncoderConfig
from fmaml_jax.common.errors import UserError
from fmaml_jax.recognition import enrol, formats, load, predict, save
from fmaml_jax.recognition.checkpoint import load_start
from fmaml_jax.recognition.description import describe
from fmaml_jax.recognition.formats import SCHEMA
from fmaml_jax.recognition.recordings import HELP_SECONDS, Recording, helpers
from tests.test_prepare import ROOT, SHARED, needs_shared

pytestmark = pytest.mark.slow

AWKWARD = "a \"b\" 'c'\nżółć.wav"


def command(module, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", f"fmaml_jax.{module}", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def place(trained, tmp_path_factory):
    """A folder of labelled clips, one with an awkward name, and what is to be recognised."""
    _, speech = trained
    top = tmp_path_factory.mktemp("a user's place")
    for label, own in (("gniew", "anger"), ("sadness", "sadness")):
        (top / "clips" / label).mkdir(parents=True)
        for path in speech.of(own)[:4]:
            (top / "clips" / label / path.name).write_bytes(path.read_bytes())
    (top / "heard" / "inner").mkdir(parents=True)
    for name, path in (
        ("heard/first.wav", speech.of("anger")[0]),
        (f"heard/inner/{AWKWARD}", speech.of("sadness")[5]),
    ):
        (top / name).write_bytes(path.read_bytes())
    samples = [soundfile.read(path)[0] for path in speech.paths[:8]]
    rate = soundfile.info(speech.paths[0]).samplerate
    pauses = [np.concatenate([clip, np.zeros(rate)]) for clip in samples]
    soundfile.write(top / "call.wav", np.concatenate(pauses), rate)
    grid = textgrid.TextGrid(maxTime=2.0)
    words = textgrid.IntervalTier("words", 0.0, 2.0)
    words.add(0.5, 1.5, "say")
    grid.append(words)
    grid.write(str(top / "call.TextGrid"))
    line = "SPEAKER {} 1 0.5 {} <NA> <NA> {} <NA> <NA>\n"
    (top / "other.rttm").write_text(line.format("other", 2.0, "Ann"))
    (top / "call.rttm").write_text(line.format("call", 2.0, "Ann") + line.format("call", 3.0, "Bo"))
    return top


@pytest.fixture(scope="module")
def enrolled(trained, place):
    """What the command said, and the model that it wrote."""
    done = command(
        "enrol",
        f"--checkpoint={trained[0]}",
        f"--support={place}/clips",
        f"--out={place}/my.model",
        "--same_as=gniew=anger",
        "--without=silence",
        f"--picture={place}/estimate.png",
    )
    assert done.returncode == 0, done.stderr
    return done, place / "my.model"


def test_enrol_says_what_to_think_of_it(enrolled, place):
    done, model = enrolled
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["class", "clips", "starts", "as"]
    assert lines[1].split() == ["gniew", "4", "anger"]
    assert lines[3].split() == ["neutral", "none", "neutral"]
    assert any(line.startswith("Leaving out each clip in turn: ") for line in lines)
    assert any(line.endswith("One answer for all clips would give 50%.") for line in lines)
    assert any("'gniew' has 4 clips; 5 or more" in line for line in lines)
    assert lines[-1].startswith(f"{model} is written, after ")
    assert load(model).classes == ("gniew", "sadness", "neutral")
    assert (place / "estimate.png").stat().st_size > 5000


def test_without_a_checkpoint_the_start_in_the_box_is_enrolled(place, tmp_path):
    out = tmp_path / "my.model"
    done = command("enrol", f"--support={place}/clips", f"--out={out}", "--same_as=gniew=anger")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("The start is `descriptors`, which comes with fmaml_jax")
    assert load(out).provenance["checkpoint"] == load_start("descriptors").digest


@pytest.mark.slow
def test_a_model_is_saved_whatever_becomes_of_what_is_printed(trained, place, tmp_path):
    (tmp_path / "clips").mkdir()
    for label, own in (("złość", "gniew"), ("smutek", "sadness")):
        (tmp_path / "clips" / label).symlink_to(place / "clips" / own)
    out = tmp_path / "my.model"
    done = command(
        *("enrol", f"--checkpoint={trained[0]}", f"--support={tmp_path}/clips", f"--out={out}"),
        PYTHONIOENCODING="ascii",
    )
    assert done.returncode == 0, done.stderr
    assert r"z\u0142o\u015b\u0107" in done.stdout
    assert "złość" in load(out).classes


def test_the_python_interface_does_the_same(enrolled, trained, place, tmp_path):
    _, model = enrolled
    recogniser = enrol(
        trained[0], place / "clips", same_as={"gniew": "anger"}, without=("silence",)
    )
    save(recogniser, tmp_path / "again.model")
    assert (tmp_path / "again.model").read_bytes() == model.read_bytes()
    assert describe(recogniser) in enrolled[0].stdout
    (segment,) = predict(load(model), place / "heard" / "first.wav").segments
    assert segment.label == "gniew"


def test_predict_writes_csv_to_standard_output_and_the_rest_elsewhere(enrolled, place):
    done = command("predict", f"--model={enrolled[1]}", place / "heard", place / "call.wav")
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(io.StringIO(done.stdout, newline="")))
    assert [row["file"] for row in rows[:2]] == [
        str(place / "heard" / "first.wav"),
        str(place / "heard" / "inner" / AWKWARD),
    ]
    assert [row["label"] for row in rows[:2]] == ["gniew", "sadness"]
    assert len(rows) > 4
    assert "3 files" in done.stderr
    assert "times real time" in done.stderr
    # A file's result is its own, whatever else is asked for and wherever it goes.
    pipe = place / "pipe.csv"
    os.mkfifo(pipe)
    with ThreadPoolExecutor() as pool:
        piped = pool.submit(pipe.read_text)
        command("predict", place / "call.wav", f"--model={enrolled[1]}", f"--out={pipe}")
        assert list(csv.DictReader(io.StringIO(piped.result(), newline=""))) == rows[2:]
    assert pipe.is_fifo()


def test_a_long_recording_gives_the_same_with_helpers(enrolled, place, tmp_path):
    samples, rate = soundfile.read(place / "call.wav")
    path, out = tmp_path / "long.wav", tmp_path / "link.json"
    out.symlink_to(tmp_path / "long.json")
    soundfile.write(path, np.resize(samples, HELP_SECONDS * rate), rate)
    done = command("predict", f"--model={enrolled[1]}", path, "--format=json", f"--out={out}")
    assert done.returncode == 0, done.stderr
    alone = io.StringIO()
    formats.FORMATS["json"].write([predict(load(enrolled[1]), path)], alone)
    assert out.is_symlink()
    assert out.read_text() == alone.getvalue()
    assert alone.getvalue().count('"label"') > 5


def test_helpers_are_for_long_recordings_and_cores_and_one_that_is_killed_is_a_sentence(
    enrolled, monkeypatch
):
    recogniser = load(enrolled[1])
    short, long = (
        Recording(Path("a.wav"), Path("a.wav"), seconds)
        for seconds in (HELP_SECONDS - 1, HELP_SECONDS)
    )
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    with helpers(recogniser, [long]) as pool:
        assert pool is None
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    with helpers(recogniser._replace(feature_config=EncoderConfig()), [long]) as pool:
        assert pool is None  # an encoder has all cores to itself
    with helpers(recogniser, [short]) as pool:
        assert pool is None
    killed = pytest.raises(UserError, match="was killed; free memory")
    with killed, helpers(recogniser, [short, long]) as pool:
        pool.submit(os._exit, 1).result()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_what_is_ended_in_the_middle_leaves_neither_processes_nor_half_a_file(
    enrolled, place, tmp_path, number
):
    samples, rate = soundfile.read(place / "call.wav")
    soundfile.write(tmp_path / "long.wav", np.resize(samples, 4 * HELP_SECONDS * rate), rate)
    arguments = [f"--model={enrolled[1]}", f"--out={tmp_path}/out.csv", place / "call.wav"]
    process = subprocess.Popen(
        [sys.executable, "-m", "fmaml_jax.predict", *map(str, arguments), tmp_path / "long.wav"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        wait_until(lambda: [*tmp_path.glob(".out.csv.*.tmp")])  # the short recording is done
        process.send_signal(number)
        process.wait(timeout=60)
        wait_until(lambda: not is_running(process.pid))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        said = process.communicate()[1]
    if number != signal.SIGKILL:  # which nobody can answer
        assert process.returncode == 128 + number
        assert os.listdir(tmp_path) == ["long.wav"]
        assert "Traceback" not in said


def wait_until(holds):
    for _ in range(1200):
        if holds():
            return
        time.sleep(0.1)
    pytest.fail("in vain")


def is_running(group):
    """Whether a process of the group is left; one that has ended but was not waited for is not."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # of a process that ends while it is looked at
            state, _, own = path.read_text().rpartition(")")[2].split()[:3]
            if int(own) == group and state != "Z":
                return True
    return False


def test_predict_writes_files_and_pictures(enrolled, place, tmp_path):
    files = [place / "heard", place / "call.wav"]
    model = f"--model={enrolled[1]}"
    grids = command(
        *("predict", model, *files, "--format=TextGrid", f"--out={tmp_path}/out/"),
        f"--pictures={tmp_path}/pictures",
    )
    assert grids.returncode == 0, grids.stderr
    names = {Path("first"), Path("inner") / Path(AWKWARD).stem, Path("call")}
    for folder, suffix in (("out", ".TextGrid"), ("pictures", ".png")):
        written = {p for p in (tmp_path / folder).rglob("*") if p.is_file()}
        assert {p.relative_to(tmp_path / folder).with_suffix("") for p in written} == names
        assert {p.suffix for p in written} == {suffix}
    done = command(
        *("predict", model, *files, "--format=json", f"--out={tmp_path}/all.json"), "--abstain=1"
    )
    document = json.loads((tmp_path / "all.json").read_text())
    jsonschema.validate(document, json.loads(SCHEMA.read_text()))
    assert not done.stdout
    segments = [s for p in document["predictions"] for s in p["segments"]]
    assert all(s["label"] == "unsure" or s["confidence"] == 1 for s in segments)
    assert any(s["label"] == "unsure" for s in segments)
    assert not list(tmp_path.rglob(".*.tmp"))


def test_predict_is_told_who_speaks_and_reports(enrolled, place, tmp_path):
    told = [f"--speakers={place}/call.rttm", place / "call.wav"]
    report, filled = tmp_path / "all.html", tmp_path / "call.TextGrid"
    done = command("predict", f"--model={enrolled[1]}", *told, f"--report={report}")
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(io.StringIO(done.stdout, newline="")))
    assert {row["speaker"] for row in rows} == {"Ann", "Bo"}
    said = re.findall(r"/call\.wav +(\w+) +(\d\.\d) ", done.stderr)
    assert said == [("Ann", "2.0"), ("Bo", "3.0")]
    assert "1 recording" in report.read_text()
    seconds = soundfile.info(place / "call.wav").duration
    grid = textgrid.TextGrid.fromFile(str(place / "call.TextGrid"))
    grid.maxTime = grid[0].maxTime = seconds
    grid.write(str(filled))
    done = command("predict", f"--model={enrolled[1]}", *told, f"--fill={filled}", "--tier=mood")
    assert done.returncode == 0, done.stderr
    assert not done.stdout
    grid = textgrid.TextGrid.fromFile(str(filled))
    assert [tier.name for tier in grid] == ["words", "mood@Ann", "mood@Bo"]


def test_one_bad_file_costs_the_others_nothing(enrolled, place, tmp_path):
    for name in ("empty.wav", "text.wav"):
        (tmp_path / name).write_text("no audio" * (name == "text.wav"))
    soundfile.write(tmp_path / "telephone.wav", 0.1 * np.sin(np.arange(8000.0)), 8000)
    done = command("predict", f"--model={enrolled[1]}", tmp_path, place / "heard" / "first.wav")
    assert done.returncode == 2
    assert [row["file"][-13:] for row in csv.DictReader(io.StringIO(done.stdout))] == [
        "telephone.wav",
        "ard/first.wav",
    ]
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2
    assert "empty.wav cannot be used: empty (0 bytes)" in errors[0]
    assert "text.wav cannot be used: unreadable" in errors[1]
    assert "telephone.wav: only 8000 samples a second" in done.stderr
    assert "Traceback" not in done.stderr


def test_nothing_is_written_where_no_file_can_be_used(enrolled, tmp_path):
    (tmp_path / "text.wav").write_text("no audio")
    out = tmp_path / "out.csv"
    done = command("predict", f"--model={enrolled[1]}", tmp_path / "text.wav", f"--out={out}")
    assert done.returncode == 2
    assert done.stderr.splitlines()[1].startswith("error: ")
    assert "real time" not in done.stderr
    assert os.listdir(tmp_path) == ["text.wav"]


def test_a_reader_that_has_had_enough_is_no_error(enrolled, place):
    arguments = [sys.executable, "-m", "fmaml_jax.predict", f"--model={enrolled[1]}"]
    pipe = f"set -o pipefail; {shlex.join([*arguments, f'{place}/heard'])} | true"
    done = subprocess.run(
        ["bash", "-c", pipe], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "Error" not in done.stderr


@pytest.mark.parametrize(
    ("module", "arguments", "sentence"),
    [
        ("enrol", [], "--support is missing; for example"),
        ("enrol", ["--checkpoint=RUN", "--support=PLACE/clips"], "--out is missing"),
        (
            "enrol",
            ["--checkpoint=PLACE", "--support=PLACE/clips", "--out=PLACE/x"],
            "is not a run folder",
        ),
        (
            "enrol",
            ["--checkpoint=RUN", "--support=PLACE/clips/gniew", "--out=PLACE/x"],
            "lies in no folder of a label",
        ),
        (
            "enrol",
            ["--checkpoint=RUN", "--support=PLACE/heard/inner", "--out=PLACE/no/x"],
            "does not exist; choose another folder",
        ),
        (
            "enrol",
            ["--checkpoint=RUN", "--support=PLACE/clips", "--out=PLACE/x", "--same_as=gniew"],
            "--same_as=gniew is not of the form label=class",
        ),
        ("predict", ["PLACE/call.wav"], "--model is missing"),
        ("predict", ["--model=none.model"], "none.model does not exist; make one with"),
        ("predict", ["--model=MODEL"], "no files are given"),
        ("predict", ["--model=MODEL", "PLACE/missing.wav"], "missing.wav does not exist"),
        ("predict", ["--model=MODEL", "x" * 300], "File name too long; name sound files"),
        (
            "predict",
            ["--model=MODEL", f"--out=PLACE/{'x' * 300}", "PLACE/call.wav"],
            "File name too long; choose a place",
        ),
        ("predict", ["--model=PLACE/call.wav", "PLACE/call.wav"], "is not a readable .npz file"),
        ("predict", ["--model=MODEL", "--abstain=2", "PLACE/call.wav"], "abstain"),
        (
            "predict",
            ["--model=MODEL", "--abstain=nan", "PLACE/call.wav"],
            "--abstain=nan is not a probability; give a number from 0 to 1",
        ),
        ("predict", ["--model=MODEL", "--format=mp3", "PLACE/call.wav"], "format"),
        (
            "predict",
            ["--model=MODEL", "--format=audacity", "PLACE/heard"],
            "--format=audacity holds one recording, and there are 2; give a folder: --out=FOLDER/",
        ),
        (
            "predict",
            ["--model=MODEL", "--out=PLACE/", "PLACE/heard", "PLACE/heard/inner/../first.wav"],
            "would be written under one name",
        ),
        (
            "predict",
            ["--model=MODEL", "--out=PLACE/heard/../call.wav", "PLACE/heard", "PLACE/call.wav"],
            "call.wav is a file that is to be read; choose another name",
        ),
        ("predict", ["--model=MODEL", "--out=MODEL", "PLACE/call.wav"], "is to be read"),
        (
            "predict",
            ["--model=MODEL", "--out=PLACE/call.wav/x.csv", "PLACE/heard"],
            "call.wav; name a folder that can be written",
        ),
        (
            "enrol",
            ["--checkpoint=RUN", "--support=PLACE/call.TextGrid", "--out=PLACE/x", "--tier=mood"],
            "call.TextGrid has no tier 'mood'; choose one with --tier: it has words",
        ),
        (
            "predict",
            ["--model=MODEL", "--channels=split", "PLACE/call.wav"],
            "call.wav has one channel, and none",
        ),
        (
            "predict",
            ["--model=MODEL", "--speakers=PLACE/other.rttm", "PLACE/call.wav"],
            "other.rttm is of other, and not of PLACE/call.wav; give the one of these recordings",
        ),
        (
            "predict",
            ["--model=MODEL", "--speakers=x.rttm", "--channels=split", "PLACE/call.wav"],
            "split channels are speakers already; leave out --channels or --speakers",
        ),
        (
            "predict",
            ["--model=MODEL", "--fill=PLACE/call.TextGrid", "--tier=words", "PLACE/call.wav"],
            "the tier 'words' of PLACE/call.TextGrid is filled already; name another one",
        ),
        (
            "predict",
            ["--model=MODEL", "--fill=PLACE/call.TextGrid", "PLACE/call.wav"],
            "call.TextGrid lasts 2 s, and the recording",
        ),
        (
            "predict",
            ["--model=MODEL", "--fill=PLACE/call.TextGrid", "PLACE/heard"],
            "--fill is of one recording, and one file; name one of each",
        ),
        (
            "predict",
            ["--model=MODEL", "--fill=PLACE/call.TextGrid", "--format=eaf", "PLACE/call.wav"],
            "a file that is filled keeps its format; leave out --format or --fill",
        ),
        (
            "predict",
            ["--model=MODEL", "--tier=mood", "PLACE/call.wav"],
            "give it too (--fill=FILE)",
        ),
        (
            "predict",
            ["--model=MODEL", "--report=PLACE/x", "--out=PLACE/x", "PLACE/call.wav"],
            "has another use; choose another name",
        ),
        (
            "predict",
            ["--model=MODEL", "--report=PLACE/heard", "PLACE/call.wav"],
            "has another use; choose another name",
        ),
        (
            "predict",
            ["--model=MODEL", "--out=PLACE/x.TextGrid", "PLACE/call.wav"],
            "--out=PLACE/x.TextGrid would be csv inside; name it PLACE/x.csv, or ask for another "
            "format",
        ),
    ],
)
def test_bad_input_is_one_sentence_and_code_2(
    enrolled, trained, place, module, arguments, sentence
):
    def fill(text):
        for name, value in (("RUN", trained[0]), ("PLACE", place), ("MODEL", enrolled[1])):
            text = text.replace(name, str(value))
        return text

    done = command(module, *map(fill, arguments))
    assert done.returncode == 2
    *_, last = done.stderr.strip().splitlines()
    assert last.startswith("error: ")
    assert fill(sentence) in last
    assert "Traceback" not in done.stderr
    assert not (place / "x").exists()


@needs_shared
def test_real_speech_of_an_unknown_language(trained, tmp_path):
    """The commands' path on people's speech; how well is another matter with this checkpoint."""
    audio = SHARED / "corpora" / "nemo" / "audio"
    rows = ["file,label,speaker"]
    for emotion in ("anger", "sadness"):
        for path in sorted(audio.glob(f"*_{emotion}_*"))[::25][:4]:
            rows.append(f"{path},{emotion},{path.name[:3]}")
    (tmp_path / "clips.csv").write_text("\n".join(rows))
    recogniser = enrol(trained[0], tmp_path / "clips.csv")
    assert recogniser.counts[:2] == (4, 4)
    assert any("far from all speech" in warning for warning in recogniser.warnings)
    found = predict(recogniser, sorted(audio.glob("*_sadness_*"))[3])
    assert sum(found.segments[0].probabilities) == pytest.approx(1)


@pytest.mark.slow
def test_matplotlib_is_not_needed_where_no_picture_is_asked_for():
    # It wants a folder that it can write, for its list of fonts.
    script = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from fmaml_jax.recognition import description, enrol, model_file, recordings\n"
        "from fmaml_jax.training import devices\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, timeout=300)
