"""What the documents show is what the code does: every block of code, command, flag and file."""

import contextlib
import functools
import importlib
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import types
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
import textgrid
from absl import flags

from experiments import architecture
from fmaml_jax import learners, sweep
from fmaml_jax.audio.decoding import SAMPLE_RATE, read_clip
from fmaml_jax.audio.features import FEATURES
from fmaml_jax.common.console import with_flagfiles
from fmaml_jax.config import Config
from fmaml_jax.config_flags import config_from_flags
from fmaml_jax.learners import METHODS, find_method
from fmaml_jax.maml import Task, cross_entropy
from tests.speech import make_speech
from tests.test_run import linear_model

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for pattern in (
        "*.md",
        "docs/*.md",
        "experiments/*.md",
        "experiments/*/*.md",
        "fmaml_jax/*/*.md",
    )
    for path in sorted(ROOT.glob(pattern))
}
RUNNING = ("fmaml_jax.main", "fmaml_jax.sweep")
"""The commands whose flags are a `Config`."""
WITH_ARGUMENTS = ("fmaml_jax.predict", "fmaml_jax.report")
"""The commands that take something beside flags."""
INSTALLED = {
    name: entry.partition(":")[0].removesuffix(".__main__")
    for name, entry in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "scripts"
    ].items()
}
"""The module of each command that comes with the package."""
WALKED = (
    "README.md",
    *(
        f"docs/{page}.md"
        for page in ["linguist", "engineer", "python", "annotations", "calls", "reports"]
    ),
)
"""The documents whose examples are run as written, one after the other."""
NOT_RUN = {
    "pip": "asks an index of packages; test_package.py installs",
    "python3": "makes an environment",
    "make": "makes an environment, or prepares corpora that are not in the repository",
    ".venv/bin/python": "trains on corpora that are not in the repository",
    "fmaml-report": "is of runs; test_report.py makes some",
    "fmaml-serve": "goes on until it is stopped; test_serve.py visits it",
}
"""The programs of these examples that are passed over, and why.

Other pages have examples of corpora or of a server: those of docs/http.md and docs/live.md are run
by test_web_api.py and test_live.py.
"""


def fences(document: str) -> list[tuple[str, str]]:
    """The fenced blocks of a document: what language each is marked as, and its text."""
    return re.findall(r"^```([^\n`]*)\n(.*?)^```$", DOCUMENTS[document], re.M | re.S)


def blocks(document: str, language: str) -> list[str]:
    """The fenced blocks of a document that are marked as a language's."""
    return [text for marked, text in fences(document) if marked == language]


def commands(shell: str) -> list[tuple[str, ...]]:
    """The words of each command of a shell's text that calls Python, pip or make."""
    found = []
    for line in shell.replace("\\\n", " ").splitlines():
        if not re.search(r"(^|[\s/({])(python|pip|make|fmaml-[a-z-]+) ", line):
            continue
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        command: list[str] = []
        for word in [*lexer, ";"]:
            if not set(word) <= set("();<>|&"):
                # What a shell would put in place of a variable, and words that stand before one.
                if command or not re.fullmatch(r"\w+=.*|[{}!]|do|then|else", word):
                    command.append(re.sub(r"\$\w+|\$\{\w+\}", "1", word))
                continue
            if command and Path(command[0]).name in ("python", "pip", "make"):
                found.append((Path(command[0]).name, *command[1:]))
            elif command and command[0] in INSTALLED:
                found.append(("python", "-m", INSTALLED[command[0]], *command[1:]))
            command = []
    return found


SHOWN = sorted(
    {
        command
        for document, text in DOCUMENTS.items()
        for shell in (
            *blocks(document, ""),
            *blocks(document, "sh"),
            *re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text),
        )
        for command in commands(shell)
    }
)
"""Every command of the documents' blocks and lines."""


@contextlib.contextmanager
def flags_of(command: str) -> Iterator[flags.FlagValues]:
    """`absl.flags.FLAGS` as it is when a command has defined its flags, and no other."""
    others = [flags.FLAGS[name] for name in flags.FLAGS]
    parsed = flags.FLAGS.is_parsed()
    for name in list(flags.FLAGS):
        delattr(flags.FLAGS, name)
    try:
        module = importlib.import_module(command)
        if hasattr(module, "__path__"):
            module = importlib.import_module(f"{command}.__main__")
        module.define_flags()
        flags.FLAGS.set_gnu_getopt(True)
        yield flags.FLAGS
    finally:
        flags.FLAGS.set_gnu_getopt(False)
        for name in list(flags.FLAGS):
            delattr(flags.FLAGS, name)
        for flag in others:
            if flag.name not in flags.FLAGS:  # one with a short name is there twice
                flags.FLAGS[flag.name] = flag
        if not parsed:
            flags.FLAGS.unparse_flags()


@functools.cache
def flag_names(command: str) -> set[str]:
    """Of a command."""
    with flags_of(command) as values:
        return set(values)


def check_python(command: str, arguments: list[str]) -> None:
    """The module and the files are there, and its flags take these values."""
    for argument in arguments:
        if not argument.startswith(("--out=", "--run_dir=")):
            for path in re.findall(r"experiments/[\w./-]+", argument):
                assert (ROOT / path).exists(), f"there is no {path}"
    given = [argument for argument in arguments if argument != "..."]
    with flags_of(command) as values:
        rest = values([command, *with_flagfiles(given)])[1:]
        assert not rest or command in WITH_ARGUMENTS, f"{rest} are no flags"
        if command in RUNNING and given == arguments:
            if command == "fmaml_jax.sweep":
                values.run_dir, values.target = values.out, ",".join(values.targets[:1])
            config = config_from_flags(values)
            methods = values.methods if command == "fmaml_jax.sweep" else ()
            for cell in sweep.cells(config, "grid", methods=methods).values():
                find_method(cell)


def check(command: tuple[str, ...]) -> None:
    """A command of a document could start; so could what a target of make would run."""
    match command:
        case ("make", *words):
            done = subprocess.run(["make", "-n", *words], cwd=ROOT, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            for inner in commands(done.stdout):
                check(inner)
        case ("pip", "install", "-r", file):
            assert (ROOT / file).exists()
        case ("python", "-m", "sphinx", *_):
            pass  # its flags are its own
        case ("python", "-m", module, *arguments):
            check_python(module, arguments)


@pytest.mark.parametrize("command", SHOWN, ids=" ".join)
def test_commands_could_start(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    check(command)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_flags_and_files_exist(document):
    text = DOCUMENTS[document]
    known = set().union(
        *(flag_names(words[2]) for words in SHOWN if words[:2] == ("python", "-m") and words[2:])
    )
    known |= {f"no{name}" for name in known} | {"help", "flagfile", "version"}
    assert set(re.findall(r"(?<![\w-])--([a-z]\w+)(?![\w-])", text)) <= known
    linked = re.findall(r"""(?:\]\(|src=")([^)"#:]+)[)"#]""", text)
    named = re.findall(r"`(experiments/[\w./-]+)`", text)
    for path in [Path(document).parent / link for link in linked] + [Path(path) for path in named]:
        assert (ROOT / path).exists(), f"there is no {path}"


@pytest.fixture(scope="module")
def at_hand(tmp_path_factory):
    """What the examples name, of synthetic speech, and the programs that they call."""
    folder = tmp_path_factory.mktemp("at_hand")
    spoken = make_speech(folder / "spoken", "en", 7)
    clips = {label: spoken.of(label) for label in ("anger", "sadness")}
    with open(folder / "clips.csv", "w") as table:
        print("file,label,speaker", file=table)
        for label, paths in clips.items():
            (folder / "clips" / label).mkdir(parents=True)
            for path in paths[:5]:
                copy = shutil.copy(path, folder / "clips" / label)
                speaker = spoken.speakers[spoken.paths.index(path)]
                print(Path(copy).relative_to(folder), label, speaker, sep=",", file=table)
    (folder / "recordings").mkdir()
    for number, path in enumerate((*clips["anger"][5:], *clips["sadness"][5:])):
        shutil.copy(path, folder / "recordings" / f"{number}.wav")

    pieces, turns, tier, at = [], [], textgrid.IntervalTier("emotion"), 0.0
    for label in ("anger", "sadness") * 4:
        samples = np.pad(read_clip(clips[label][len(turns) // 2]).samples, SAMPLE_RATE)
        end = at + len(samples) / SAMPLE_RATE
        tier.add(at, end, label)
        turns.append(f"SPEAKER interview 1 {at} {end - at} <NA> <NA> {label[0]} <NA> <NA>\n")
        pieces.append(samples)
        at = end
    sound = np.concatenate(pieces)
    soundfile.write(folder / "interview.wav", sound, SAMPLE_RATE)
    soundfile.write(folder / "call.wav", np.stack([sound, sound[::-1]], axis=1), SAMPLE_RATE)
    (folder / "interview.rttm").write_text("".join(turns))
    for name, tiers in (("interview", [tier]), ("call", [textgrid.IntervalTier("words", 0, at)])):
        grid = textgrid.TextGrid(maxTime=at)
        for one in tiers:
            grid.append(one)
        grid.write(str(folder / f"{name}.TextGrid"))

    programs = {
        name: f'exec "{sys.executable}" -m {module} "$@"' for name, module in INSTALLED.items()
    } | dict.fromkeys(NOT_RUN, "exit 0")
    for name, does in programs.items():
        program = folder / (name if "/" in name else f"bin/{name}")
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(f"#!/bin/sh\n{does}\n")
        program.chmod(0o755)
    # What the examples call ~/fmaml.
    activated = folder / "fmaml" / "bin" / "activate"
    activated.parent.mkdir(parents=True)
    activated.touch()
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("document", WALKED)
def test_examples_run_as_written(document, at_hand, tmp_path, monkeypatch):
    folder = shutil.copytree(at_hand, tmp_path / "here")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
    names: dict = {}
    for language, block in fences(document):
        if language == "python":
            if "to_frame" not in block or importlib.util.find_spec("pandas"):
                exec(block, names)
        else:
            assert language in ("", "sh")
            subprocess.run(["bash", "-ec", block], check=True, timeout=1000)
    for shell in blocks(document, ""):
        for path in re.findall(r"--(?:out|report)=(\S+\.\S+)", shell):
            assert (folder / path).stat().st_size, f"there is no {path}"


def test_a_method_of_ones_own_adapts_as_it_says(monkeypatch):
    (block,) = blocks("WORKSPACE.md", "python")
    (row,) = re.findall(r'`("sign": Network\(.*\))`', DOCUMENTS["WORKSPACE.md"])
    sign = types.ModuleType("sign")
    exec(block, vars(sign))
    for name, method in eval(f"{{{row}}}", vars(learners) | {"sign": sign}).items():
        monkeypatch.setitem(METHODS, name, method)

    config = Config(method="sign", emotions=("a", "b"), fixed=("c",), inner_lr=0.3)
    model = linear_model(config, 4)
    method, support = find_method(config)
    learner = method.make(replace(config, support=support, test_inner_steps=1), model)
    rng = np.random.default_rng(0)
    clips = jnp.asarray(rng.normal(size=(6, 5, 4)), jnp.float32)
    task = Task(clips, jnp.array([0, 0, 0, 1, 1, 1]), clips, jnp.array([0, 0, 1, 1, 2, 2]))
    params = learner.init(jax.random.key(0))
    states = jax.jit(learner.adapt)(params, task)
    slope = jax.jit(jax.grad(lambda p: cross_entropy(model.apply(p, clips), task.support_labels)))(
        params
    )
    expected = jax.tree.map(lambda p, g: jnp.stack([p, p - 0.3 * jnp.sign(g)]), params, slope)
    jax.tree.map(np.testing.assert_allclose, states, expected)


def test_recordings_are_made_as_the_enrolment_readme_says(tmp_path, monkeypatch):
    (block,) = blocks("experiments/enrolment/README.md", "python")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path)])
    noise = np.random.default_rng(0).normal(0, 0.1, 16000)
    soundfile.write("clip.flac", noise, 16000)
    seconds = block.replace("60 * SAMPLE_RATE", "SAMPLE_RATE")  # of its minutes
    exec(seconds, {})
    lengths = {path.stem: soundfile.info(path).duration for path in tmp_path.glob("*.wav")}
    assert set(lengths) == {"dense", "two", "four", "hour"}
    assert 60 <= lengths["hour"] < 64


def test_features_are_called_as_prepare_calls_them():
    rows = re.findall(r"^\| `make [^|]+\| `(\w+)`", DOCUMENTS["docs/corpora.md"], re.MULTILINE)
    assert len(rows) == 3
    assert {*rows} < FEATURES.keys()


def test_the_picture_of_the_architecture_is_of_this_code():
    shown = architecture.describe(architecture.read_imports())
    assert shown.encode() in architecture.PICTURE.read_bytes(), (
        "draw it again: python -m experiments.architecture"
    )


def test_arrows_of_the_picture_point_down_and_find_room(tmp_path):
    architecture.draw(architecture.read_imports(), tmp_path / "picture.png")
