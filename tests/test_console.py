"""What every command shares, in a process of its own."""

import json
import re
import signal
import subprocess
import sys
from dataclasses import fields

import pytest

from fmaml_jax import config_flags
from fmaml_jax.config import Config
from tests.commands import run_module
from tests.test_prepare import ROOT

COLLECTING = """
import gc, os, sys, time
from fmaml_jax.common import console

def main():
    console.unwind_on_termination()

    signals = [int(sys.argv[1])]

    def send():
        os.kill(os.getpid(), signals.pop())

    def collected(phase, info):
        if signals:
            send()

    gc.callbacks.append(collected)
    gc.collect()
    for _ in range(1000):
        time.sleep(0.01)  # a signal right before it is answered after it

console.run(lambda arguments: main(), arguments=True)
"""


@pytest.mark.parametrize(
    ("number", "said"), [(signal.SIGINT, "interrupted\n"), (signal.SIGTERM, "")]
)
def test_a_signal_during_a_garbage_collection_is_not_lost(number, said):
    # Python prints an exception of what is called after a collection, and goes on.
    done = subprocess.run(
        [sys.executable, "-c", COLLECTING, str(int(number))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (128 + number, said)


IMPORTING = """
import sys, time
from fmaml_jax.common import console

def main(arguments):
    console.unwind_on_termination()
    sys.path.insert(0, arguments[0])
    import compiled
    for _ in range(1000):
        time.sleep(0.01)

console.run(main, arguments=True)
"""


@pytest.mark.parametrize(
    ("number", "said"), [(signal.SIGINT, "interrupted\n"), (signal.SIGTERM, "")]
)
def test_a_signal_during_an_import_is_no_error_of_it(number, said, tmp_path):
    (tmp_path / "compiled.py").write_text(
        f"import os\ntry:\n    os.kill(os.getpid(), {int(number)})\n"
        "except BaseException:\n    raise ImportError('of which libraries say no more')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", IMPORTING, tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (128 + number, said)


PRINTING = """
import pathlib, sys
from fmaml_jax.common import console
from fmaml_jax.common.processes import process_pool

def main(arguments):
    if sys.__stderr__ is None:
        with process_pool(1) as pool:
            pool.submit(int).result()
    print("złość \\udcff" * 2000)
    with console.progress("working", 1, " steps") as bar:
        bar.update()
    pathlib.Path(arguments[0]).write_text("done")

console.run(main, arguments=True)
"""


@pytest.mark.parametrize(
    ("redirection", "code", "said"),
    [
        ("", 0, "working"),
        ("PYTHONIOENCODING=ascii", 0, "working"),
        (">&-", 0, "working"),
        ("2>&-", 0, ""),
        (">&- 2>&- <&-", 0, ""),
        (">/dev/full", 3, "error: what this prints is lost (No space left on device), all else"),
        ("2>/dev/full", 0, ""),
        ("| head -c 1", 0, "working"),
    ],
)
def test_output_that_cannot_be_written_ends_no_work(redirection, code, said, tmp_path):
    variable, redirection = (redirection, "") if "=" in redirection else ("", redirection)
    command = f'set -o pipefail; {variable} "$0" -c "$1" "$2" {redirection}'
    done = subprocess.run(
        ["bash", "-c", command, sys.executable, PRINTING, tmp_path / "result"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, (tmp_path / "result").read_text()) == (code, "done"), done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    if variable:
        assert done.stdout.startswith(r"z\u0142o\u015b\u0107 \udcff")


FULL = """
import errno, os, tempfile
from fmaml_jax.common import console
from fmaml_jax.common.errors import UserError

def main(arguments):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "x.npz")
    if arguments == ["temporary"]:
        tempfile.tempdir = None
        tempfile._candidate_tempdir_list = lambda: ["/proc/none"]
        tempfile.mkdtemp()
    if arguments:
        raise UserError("cannot write x.npz; make room") from full
    raise full

console.run(main, arguments=True)
"""


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 3, "error: cannot write x.npz: No space left on device; make room and run it again"),
        (["sentence"], 3, "error: cannot write x.npz; make room"),
        (["temporary"], 2, "error: there is no folder for temporary files; set TMPDIR to one you"),
    ],
)
def test_a_full_disk_has_an_exit_code_of_its_own(arguments, code, said):
    done = subprocess.run(
        [sys.executable, "-c", FULL, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == code
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == 1


HELP = """
import json, runpy, sys
sys.argv[1:] = ["--help"]
try:
    runpy.run_module({!r}, run_name="__main__", alter_sys=True)
finally:
    print(json.dumps(list(sys.modules)), file=sys.stderr)
"""
COMMANDS = [
    *(
        f"fmaml_jax.{name}"
        for name in (
            "enrol",
            "fetch_encoder",
            "live",
            "main",
            "predict",
            "report",
            "serve",
            "sweep",
        )
    ),
    *(f"data_prep.{name}" for name in ("prepare", "merge", "synthesise")),
]
SLOW = {"gradio", "jax", "matplotlib", "scipy", "sklearn", "soundfile"}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_does_not_wait_for_what_the_work_needs(command):
    done = subprocess.run(
        [sys.executable, "-c", HELP.format(command)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0
    assert f"python -m {command} " in done.stdout
    assert ":\n  --" in done.stdout
    assert done.stdout.splitlines()[-2] == "Example:"
    assert "/" + command.partition(".")[0] not in done.stdout  # where the code lies
    assert not SLOW & set(json.loads(done.stderr))


def test_a_first_answer_waits_for_no_library_that_it_does_not_need():
    check = "import sys, fmaml_jax.recognition.interface; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=True
    )
    unneeded = {"matplotlib", "orbax", "pandas", "scipy.optimize", "scipy.stats", "sklearn"}
    assert not unneeded & set(done.stdout.split())


def help_of(command):
    return run_module(command, "--help").stdout


def test_help_groups_every_setting_in_its_own_order():
    text = help_of("fmaml_jax.main")
    titles = re.findall(r"^(\S.*):$", text, re.M)
    groups = config_flags.groups()
    assert [title for title in titles if title in groups] == list(groups)
    shown = re.findall(r"^  --(?:\[no\])?(\w+)", text, re.M)
    names = [field.name for field in fields(Config)]
    assert shown[: len(names)] == names
    assert len(re.findall(r"\(required", text)) == len(config_flags.REQUIRED)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_example_of_help_names_flags_that_there_are_and_what_is_required(command):
    text = help_of(command)
    shown = set(re.findall(r"^  --(?:\[no\])?(\w+)", text, re.M))
    example = text.splitlines()[-1]
    named = set(re.findall(r" --(\w+)", example))
    assert named <= shown
    marked = re.findall(r"^  --(\w+)\S*\n(?:      .*\n)*?.*\(required", text, re.M)
    assert "flagfile" in named or set(marked) <= named


def test_a_flagfile_that_cannot_be_read_is_named_once(tmp_path):
    (tmp_path / "bytes.cfg").write_bytes(b"\xff\xfe\x00")
    for name in ("none.cfg", "bytes.cfg", "."):
        done = run_module("fmaml_jax.main", f"--flagfile={tmp_path / name}")
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        assert done.stderr.count(str(tmp_path)) == 1, done.stderr
        assert done.stderr.count("\n") == 1
