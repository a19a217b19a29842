"""What every command shares, in a process of its own."""

import json
import signal
import subprocess
import sys

import pytest

from tests.test_prepare import ROOT

COLLECTING = """
import gc, os, sys, time
from fmaml_jax.common import console

def main():
    console.unwind_on_termination()

    signals = [int(sys.argv[1])]

    def collected(phase, info):
        if signals:
            os.kill(os.getpid(), signals.pop())

    gc.callbacks.append(collected)
    gc.collect()
    time.sleep(10)

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
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (128 + number, said)


HELP = """
import json, runpy, sys
sys.argv[1:] = ["--help"]
try:
    runpy.run_module({!r}, run_name="__main__", alter_sys=True)
finally:
    print(json.dumps(list(sys.modules)), file=sys.stderr)
"""
COMMANDS = [
    *(f"fmaml_jax.{name}" for name in ("main", "sweep", "report", "enrol", "predict", "serve")),
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
        timeout=60,
    )
    assert f"python -m {command} " in done.stdout
    assert "flags:" in done.stdout
    assert not SLOW & set(json.loads(done.stderr))
