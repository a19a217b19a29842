"""What every command shares: one-sentence errors with exit code 2, and progress.

Neither JAX nor the audio libraries are imported here, so a command's `--help` is instant.
"""

import contextlib
import gc
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn, TextIO

from absl import app, flags, logging
from tqdm import tqdm

from fmaml_jax.common.errors import UserError
from fmaml_jax.common.text import one_line

LOG_SECONDS = 10.0
"""Seconds between two progress lines when the output is a file or a batch system's log."""


STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
"""What schedulers and Ctrl-C send; SIGUSR2 is what submitit asks Slurm for before preemption."""


def fail(message: str) -> NoReturn:
    """Prints one line to standard error and exits with code 2."""
    print(f"error: {one_line(message)}", file=sys.stderr)
    sys.exit(2)


def print_any_text() -> None:
    """From now on standard output takes what is no text, as a file name may be, as an escape."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def unwind_on_termination() -> None:
    """From now on SIGTERM, which ends a service or a job, is an exception, as Ctrl-C is."""
    signal.signal(signal.SIGTERM, _unwind)


def _unwind(number: int, frame: FrameType | None) -> None:
    """Raises what ends the command; a moment later where Python would print and ignore it.

    That is in what is called after a garbage collection, of which JAX has a function: a signal
    during a collection is answered in it.
    """
    ignoring = [getattr(callback, "__code__", None) for callback in gc.callbacks]
    if frame and frame.f_code in ignoring:
        threading.Timer(0.01, os.kill, (os.getpid(), number)).start()
    elif number == signal.SIGINT:
        raise KeyboardInterrupt
    else:
        sys.exit(128 + number)


def run(main: Callable[..., int | None], arguments: bool = False) -> None:
    """Parses the command line into `absl.flags.FLAGS` and exits with what `main` returns.

    With `arguments` the command takes some beside its flags, in any order, and `main` gets them
    as a list; else it gets nothing.

    A flag that does not parse, a stray argument and a `UserError` end with one line and code 2,
    Ctrl-C with one line and the shell's code for it.
    """

    def parse(argv: list[str]) -> list[str]:
        try:
            rest = flags.FLAGS(argv)
        except flags.Error as error:
            fail(one_line(str(error)))
        if rest[1:] and not arguments:
            fail(f"{rest[1]!r} is not a flag; write --name=value (--help lists the flags)")
        return rest

    def guarded(argv: list[str]) -> int | None:
        logging.set_verbosity(logging.WARNING)
        # Jobs in a shell's background ignore Ctrl-C, and go on doing so.
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, _unwind)
        try:
            return main(argv[1:]) if arguments else main()
        except UserError as error:
            fail(str(error))
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 128 + signal.SIGINT

    flags.FLAGS.set_gnu_getopt(arguments)
    app.run(guarded, flags_parser=parse)


class _Lines:
    """A stream for tqdm that ends each redrawn bar with a newline."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> None:
        if line := text.strip("\r\n "):
            self._stream.write(line + "\n")

    def flush(self) -> None:
        self._stream.flush()


@contextlib.contextmanager
def progress(label: str, total: int, unit: str, done: int = 0) -> Iterator[tqdm]:
    """A bar on a terminal, a plain line every `LOG_SECONDS` elsewhere; both on standard error.

    Args:
        label: what is being done, at the start of the line.
        total: how many units the whole work has.
        unit: the name of one unit, with a leading space if wanted, such as " clips".
        done: how many units an earlier run finished.
    """
    stream = sys.stderr
    terminal = stream.isatty()
    with tqdm(
        desc=label,
        total=total,
        initial=done,
        unit=unit,
        file=stream if terminal else _Lines(stream),
        mininterval=0.1 if terminal else LOG_SECONDS,
        ncols=None if terminal else 0,
        dynamic_ncols=terminal,
        position=None if terminal else 0,  # no cursor movements in a log
        bar_format=None
        if terminal
        else "{desc}: {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]",
    ) as bar:
        yield bar
