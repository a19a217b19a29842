"""Tests run on the CPU, whose float32 the tolerances are made for, whatever else there is.

It counts as eight devices, so that every test of a run is one of a run on many devices. Most of
the time would go into compiling: programs are optimised little, and each is compiled once for all
tests, their workers and the commands that they start.
"""

import os
import shutil
import signal
import tempfile
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "8"
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import pytest
from beartype import BeartypeConf, beartype

# Checks annotations where `pytest --jaxtyping-packages` names it; a float may be an int.
typechecker = beartype(conf=BeartypeConf(is_pep484_tower=True))


def pytest_configure(config):
    if not hasattr(config, "workerinput"):  # a worker has what the first process made
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        os.environ.setdefault("MPLCONFIGDIR", str(Path(home, "matplotlib")))  # its list of fonts
        folder = tempfile.mkdtemp(prefix="fmaml_jax_tests_")
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
        os.environ["XDG_CACHE_HOME"] = folder  # where commands keep compiled programs
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(folder, "fmaml_jax"))
    # A job in a shell's background ignores Ctrl-C, and so would what the tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A small run on synthetic speech, and the speech of the language that it has not heard."""
    from tests.speech import make_run

    return make_run(tmp_path_factory.mktemp("speech"))


@pytest.fixture(scope="session")
def start(trained):
    """What enrolment starts from."""
    from fmaml_jax.recognition.checkpoint import load_start

    return load_start(trained[0])
