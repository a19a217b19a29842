"""What the documents show is what the code does: every block of code, command, flag and file."""

import contextlib
import functools
import importlib
import importlib.util
import re
import shlex
import subprocess
import sys
import types
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from absl import flags

from experiments import architecture
from fmaml_jax import learners, sweep
from fmaml_jax.common.console import with_flagfiles
from fmaml_jax.config import Config
from fmaml_jax.config_flags import config_from_flags
from fmaml_jax.learners import METHODS, find_method
from fmaml_jax.maml import Task, cross_entropy
from tests.test_run import linear_model

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for pattern in ("*.md", "experiments/*.md", "experiments/*/*.md")
    for path in sorted(ROOT.glob(pattern))
}
RUNNING = ("fmaml_jax.main", "fmaml_jax.sweep")
"""The commands whose flags are a `Config`."""
WITH_ARGUMENTS = ("fmaml_jax.predict", "fmaml_jax.report")
"""The commands that take something beside flags."""


def blocks(document: str, language: str) -> list[str]:
    """The fenced blocks of a document that are marked as a language's."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", DOCUMENTS[document], re.M | re.S)
    return [text for marked, text in found if marked == language]


def commands(shell: str) -> list[tuple[str, ...]]:
    """The words of each command of a shell's text that calls Python, pip or make."""
    found = []
    for line in shell.replace("\\\n", " ").splitlines():
        if not re.search(r"(^|[\s/({])(python|pip|make) ", line):
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
            command = []
    return found


SHOWN = sorted(
    {
        command
        for document, text in DOCUMENTS.items()
        for shell in (*blocks(document, ""), *re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text))
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
        case ("python", "-m", module, *arguments):
            check_python(module, arguments)


@pytest.mark.parametrize("command", SHOWN, ids=" ".join)
def test_commands_could_start(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    check(command)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_flags_and_files_exist(document):
    text = DOCUMENTS[document]
    known = set().union(*(flag_names(words[2]) for words in SHOWN if words[:2] == ("python", "-m")))
    known |= {f"no{name}" for name in known} | {"help", "flagfile"}
    assert set(re.findall(r"(?<![\w-])--([a-z]\w+)(?![\w-])", text)) <= known
    linked = re.findall(r"""(?:\]\(|src=")([^)"#:]+)[)"#]""", text)
    named = re.findall(r"`(experiments/[\w./-]+)`", text)
    for path in [Path(document).parent / link for link in linked] + [Path(path) for path in named]:
        assert (ROOT / path).exists(), f"there is no {path}"


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


def test_the_picture_of_the_architecture_is_of_this_code():
    shown = architecture.describe(architecture.read_imports())
    assert shown.encode() in architecture.PICTURE.read_bytes(), (
        "draw it again: python -m experiments.architecture"
    )


def test_arrows_of_the_picture_point_down_and_find_room(tmp_path):
    architecture.draw(architecture.read_imports(), tmp_path / "picture.png")
