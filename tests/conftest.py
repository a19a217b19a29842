"""Tests run on the CPU, whose float32 the tolerances are made for, whatever else there is.

It counts as eight devices, so that every test of a run is one of a run on many devices.
"""

import os
import signal

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "8"

import pytest


def pytest_configure():
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
