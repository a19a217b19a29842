"""Flags: every flagfile parses, every contradiction is one sentence."""

import dataclasses
import re
from pathlib import Path

import pytest
from absl import flags

from fmaml_jax.common.console import with_flagfiles
from fmaml_jax.common.errors import UserError
from fmaml_jax.config import Config
from fmaml_jax.config_flags import config_from_flags, define_flags
from tests.commands import run_module

ROOT = Path(__file__).resolve().parents[1]
FLAGFILES = sorted(path.name for path in (ROOT / "experiments").glob("*.cfg"))
CELLS = [
    f"{prefix}{language}_{shots}shot.cfg"
    for prefix, languages in (
        ("", ("english", "italian", "spanish")),
        ("public_", ("german", "italian", "english")),
    )
    for language in languages
    for shots in (5, 10, 20)
]


def parse(*arguments):
    values = flags.FlagValues()
    define_flags(values)
    values(["program", *with_flagfiles(arguments)])
    return config_from_flags(values)


GOOD = ("--data=a.npz,b.npz", "--target=es", "--run_dir=runs/x")


@pytest.mark.parametrize("name", FLAGFILES)
def test_every_flagfile_parses(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    # A preset is no run of its own: what a cell adds is given here.
    lacking = () if name in CELLS or name == "demo.cfg" else GOOD
    config = parse(f"--flagfile=experiments/{name}", *lacking)
    assert config.method == "fmaml"
    header = [
        line for line in (ROOT / "experiments" / name).read_text().splitlines() if line[:2] == "# "
    ]
    if name in CELLS:
        assert header[0] == f"# python -m fmaml_jax.main --flagfile=experiments/{name}"
        assert header[1].startswith("# Run time and result: ")


@pytest.mark.parametrize("name", CELLS)
def test_every_cell_is_what_its_name_says(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = parse(f"--flagfile=experiments/{name}")
    *_, language, shots = name.removesuffix("shot.cfg").split("_")
    codes = {"english": "en", "italian": "it", "spanish": "es", "german": "de"}
    assert (config.target, config.shots) == (codes[language], int(shots))
    assert Path(config.run_dir).name == name.removesuffix(".cfg")
    assert (config.inner_lr, config.outer_lr, config.task_batch) == (0.1, 0.001, 16)
    assert (config.episodes, config.test_query_per_class) == (100, 25)


def test_a_later_flag_wins():
    assert parse(*GOOD, "--shots=10", "--shots=20").shots == 20


def test_defaults_are_the_papers_preset(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert parse("--flagfile=experiments/paper.cfg", *GOOD) == parse(*GOOD)


def test_fixed_classes_come_last():
    config = Config(emotions=("joy", "fear"), fixed=("silence",))
    assert config.classes == ("joy", "fear", "silence")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--target=es", "--run_dir=x"), "--data is missing"),
        (("--data=a.npz", "--run_dir=x"), "--target is missing"),
        (("--data=a.npz", "--target=es"), "--run_dir is missing"),
        ((*GOOD, "--shots=0"), "--shots=0 is too small; give at least 1"),
        ((*GOOD, "--inner_lr=0"), "--inner_lr=0.0 is too small; give more than 0"),
        ((*GOOD, "--inner_lr=nan"), "--inner_lr=nan"),
        ((*GOOD, "--outer_decay=nan"), "--outer_decay=nan is not a number"),
        ((*GOOD, "--fixed_bias=nan"), "--fixed_bias=nan is not a number"),
        ((*GOOD, "--val_fraction=1"), "--val_fraction=1.0 is too large; give less than 1"),
        ((*GOOD, "--outer_lr=inf"), "--outer_lr=inf is not a number"),
        ((*GOOD, f"--seed={2**32}"), "--seed=4294967296 is too large"),
        ((*GOOD, "--data=,a.npz"), "--data has an empty name"),
        ((*GOOD, "--batch_norm=none"), "choose from transductive, inductive"),
        ((*GOOD, "--emotions=joy"), "at least two"),
        ((*GOOD, "--emotions=joy,,fear"), "empty name"),
        ((*GOOD, f"--emotions=joy,{'o' * 81}"), "has 81 letters, and a name has at most 80"),
        ((*GOOD, "--emotions=joy,neutral"), "neutral stands twice"),
        ((*GOOD, "--data=a.npz,a.npz"), "a.npz twice"),
    ],
)
def test_bad_values_are_one_sentence(arguments, sentence):
    with pytest.raises(UserError) as error:
        parse(*arguments)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_a_flagfile_within_another_is_looked_for_beside_it(tmp_path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "elsewhere.cfg").write_text("--shots=3\n--seed=1\n")
    (tmp_path / "a" / "base.cfg").write_text("# a comment\n\n--shots=4\n--filters=9\n")
    (tmp_path / "a" / "b" / "run.cfg").write_text(
        "--flagfile=elsewhere.cfg\n--flagfile=../base.cfg\n--filters=8\n"
    )
    (tmp_path / "base.cfg").write_text("--shots=99\n")
    monkeypatch.chdir(tmp_path)
    config = parse("--seed=0", "--flagfile", "a/b/run.cfg", *GOOD, "--meta_steps=7")
    assert (config.shots, config.filters, config.seed, config.meta_steps) == (4, 8, 1, 7)

    (tmp_path / "a" / "base.cfg").write_text("--flagfile=b/../base.cfg\n")
    for name, sentence in (
        ("a/base.cfg", "names itself"),
        ("no.cfg", "does not exist"),
        ("x" * 300, "cannot read the flagfile .*: File name too long"),
    ):
        with pytest.raises(UserError, match=sentence):
            parse(f"--flagfile={name}")


def test_a_tilde_is_the_home_folder_in_every_flag(tmp_path):
    (tmp_path / "my.cfg").write_text("--data=~/a.npz,~/b.npz\n--target=es\n--run_dir=~/runs/x\n")
    done = run_module(
        "fmaml_jax.main",
        "--flagfile=~/my.cfg",
        env={"PATH": "", "HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"},
    )
    assert done.stderr.startswith(f"error: {tmp_path}/a.npz does not exist")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--shotz=5",), "Unknown command line flag 'shotz'"),
        (("--shots=five",), "shots"),
        (("--flagfile=experiments/nothing.cfg",), "nothing.cfg"),
        (("runs/x",), "'runs/x' is not a flag"),
        (GOOD, "a.npz does not exist; make it with `python -m data_prep.prepare`"),
        ((*GOOD, "--method=maml9"), "--method=maml9 is unknown; choose from fmaml"),
    ],
)
def test_command_ends_with_one_line_and_code_2(arguments, sentence, tmp_path):
    done = run_module(
        "fmaml_jax.main",
        *arguments,
        env={"PATH": "", "HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert sentence in done.stderr


def test_help_lists_every_flag(tmp_path):
    done = run_module(
        "fmaml_jax.main",
        "--help",
        env={"PATH": "", "HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"},
    )
    for field in dataclasses.fields(Config):
        assert re.search(rf"--(\[no\])?{field.name}\b", done.stdout), field.name
