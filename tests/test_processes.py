"""The pool's processes: all start alike, and none outlives the one that started them."""

import os
import signal
import subprocess
import sys
import time
import types
from multiprocessing.context import SpawnProcess
from pathlib import Path

import pytest

from fmaml_jax.common.processes import process_pool

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]


def look(folder):
    """What a process is like; it waits for two others that look, so that each gets one task."""
    Path(folder, str(os.getpid())).touch()
    until = time.monotonic() + 60
    while len(os.listdir(folder)) < 3 and time.monotonic() < until:
        time.sleep(0.01)
    ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    return os.getpid(), ignored, os.environ.get("OPENBLAS_NUM_THREADS")


def test_all_processes_start_alike_even_where_the_first_is_soon_idle(tmp_path, monkeypatch):
    start = SpawnProcess.start

    def start_slowly(process):
        start(process)
        time.sleep(1)

    monkeypatch.setattr(SpawnProcess, "start", start_slowly)
    # Instead of pytest, which the processes would import before their first task.
    monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))
    with process_pool(3) as pool:
        found = {future.result() for future in [pool.submit(look, tmp_path) for _ in range(3)]}
    assert len(found) == 3
    assert {own[1:] for own in found} == {(True, "1")}
    assert "OPENBLAS_NUM_THREADS" not in os.environ
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


def test_processes_end_where_the_one_that_started_them_is_killed():
    script = (
        "import time\n"
        "from fmaml_jax.common.processes import process_pool\n"
        "with process_pool(2):\n"
        "    print('started', flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "started\n"
        process.kill()
        # The output ends with the last process that holds it.
        assert process.communicate(timeout=300) == ("", None)
