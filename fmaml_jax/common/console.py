"""What every command shares: its flags, one-sentence errors, exit codes, and progress.

Neither JAX nor the audio libraries are imported here, so a command's `--help` is instant.
"""

import contextlib
import errno
import gc
import io
import os
import signal
import sys
import textwrap
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import Any, NoReturn, TextIO

from absl import app, flags, logging
from tqdm import tqdm

from fmaml_jax import __version__
from fmaml_jax.common.errors import UserError
from fmaml_jax.common.text import one_line

PRESETS = Path(__file__).parents[1] / "presets"
"""Where an installed package has the flagfiles that a checkout has in experiments/."""
IMPORTING = "<frozen importlib._bootstrap>"
"""The file, as Python names it, of the code that imports a module."""

LOG_SECONDS = 10.0
"""Seconds between two progress lines when the output is a file or a batch system's log."""


STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
"""What schedulers and Ctrl-C send; SIGUSR2 is what submitit asks Slurm for before preemption."""


MISTAKE, FULL = 2, 3
"""Exit codes: of a mistake that the user can mend, and of what has no room to be written."""

HELP = {"--help", "-help", "-h", "--helpshort", "--helpfull"}
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def fail(message: str, code: int = MISTAKE) -> NoReturn:
    """Prints one line to standard error and exits."""
    print(f"error: {one_line(message)}", file=sys.stderr)
    sys.exit(code)


class _Output(io.FileIO):
    """Standard output or error whose failures end no work: what cannot be written is lost."""

    failure: OSError | None = None

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.failure = error
            return memoryview(data).nbytes


def _open_streams() -> _Output:
    """Standard output and error that take every text and never fail; returns the first.

    Closed ones, as a job of cron may have them, lead nowhere.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
            os.set_inheritable(number, True)  # for processes beside this one
    out, err = (_Output(number, "w", closefd=False) for number in (1, 2))
    for name, output in (("stdout", out), ("stderr", err)):
        before = getattr(sys, name)
        stream = io.TextIOWrapper(
            io.BufferedWriter(output),
            encoding=before.encoding if before else "utf-8",
            errors="backslashreplace",
            line_buffering=name == "stderr" or output.isatty(),
            write_through=bool(before and before.write_through),
        )
        setattr(sys, name, stream)
    return out


def unwind_on_termination() -> None:
    """From now on SIGTERM, which ends a service or a job, is an exception, as Ctrl-C is.

    So is SIGHUP, of a terminal that is closed, but where it is to be ignored, as under nohup.
    """
    signal.signal(signal.SIGTERM, _unwind)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, _unwind)


def _unwind(number: int, frame: FrameType | None) -> None:
    """Raises what ends the command; a moment later where it would be printed and ignored.

    That is in what is called after a garbage collection, of which JAX has a function, and in what
    that calls, this one too: a signal during a collection is answered there. And it is in an
    import: compiled libraries, as that of JAX, make an ImportError of whatever is raised in what
    they import.
    """
    collecting = [getattr(callback, "__code__", None) for callback in gc.callbacks]
    stack = [each.f_code for each, _ in traceback.walk_stack(frame)] if frame else []
    if any(code in collecting or code.co_filename == IMPORTING for code in stack):
        threading.Timer(0.01, os.kill, (os.getpid(), number)).start()
    elif number == signal.SIGINT:
        raise KeyboardInterrupt
    else:
        sys.exit(128 + number)


def with_flagfiles(
    arguments: Sequence[str], beside: Path = Path(), within: Sequence[Path] = ()
) -> list[str]:
    """The arguments with the lines of each `--flagfile` in its place.

    Args:
        arguments: of a command line, or the lines of a flagfile.
        beside: where a flagfile is looked for, before the working folder and the presets: beside
            the one that names it.
        within: the flagfiles that are being read.

    Raises:
        UserError: a flagfile cannot be read, or names itself.
    """
    read = []
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.partition("=")
        if argument == "--":
            return [*read, argument, *rest]
        if name not in ("-flagfile", "--flagfile"):
            read.append(argument)
            continue
        path = Path((value if equals else next(rest, "")).strip()).expanduser()
        places = (beside / path, path, PRESETS / path.name)
        path = next((place for place in places if os.path.exists(place)), path).resolve()
        if path in within:
            raise UserError(f"the flagfile {path} names itself; take that line out")
        try:
            lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        except FileNotFoundError as error:
            raise UserError(f"the flagfile {path} does not exist; check its name") from error
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "it is not text in UTF-8"
            raise UserError(f"cannot read the flagfile {path}: {why}; name a text") from error
        flags_of_file = [line for line in lines if line and not line.startswith(("#", "//"))]
        read += with_flagfiles(flags_of_file, path.parent, (*within, path))
    return read


class _VersionFlag(flags.BooleanFlag):
    """Prints the version and ends the command, whichever other flags are missing."""

    def __init__(self) -> None:
        super().__init__("version", False, "show the version", allow_hide_cpp=True)

    def parse(self, argument: Any) -> None:
        if self._parse(argument):
            print(f"fmaml_jax {__version__}")
            sys.exit(0)


def _show_in_help(module: str) -> None:
    """Lets --help show a module that an installed script has imported, as if it were run itself."""
    if module != "__main__":
        sys.modules["__main__"].__doc__ = sys.modules[module].__doc__
        for flag in flags.FLAGS.get_key_flags_for_module(module):
            flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)


def _expand_home(values: flags.FlagValues) -> None:
    """Replaces a `~` that begins a value: shells leave it alone behind `--name=`."""
    for name in values:
        value = values[name].value
        if isinstance(value, str):
            values[name].value = os.path.expanduser(value)
        elif isinstance(value, list):
            values[name].value = [os.path.expanduser(str(item)) for item in value]


def _help(
    module: str,
    required: Sequence[str],
    example: str,
    groups: Mapping[str, Sequence[str]],
    width: int = 88,
) -> str:
    """What `--help` prints: the command's own words, its flags by group, and an example."""
    command = sys.modules["__main__"]
    own = {flag.name: flag for flag in flags.FLAGS.get_key_flags_for_module(sys.argv[0])}
    grouped = {name for names in groups.values() for name in names}
    rest = [name for name in own if name not in grouped]
    lines = [(command.__doc__ or "").strip()]
    for title, names in {**groups, "Other flags" if groups else "Flags": rest}.items():
        lines += ["", f"{title}:"] if names else []
        for flag in (own[name] for name in names):
            value = "" if flag.boolean else f"={flag.name.upper()}"
            lines.append(f"  --{'[no]' if flag.boolean else ''}{flag.name}{value}")
            words = flag.help or ""
            choices: Sequence[str] = getattr(flag.parser, "enum_values", ())
            if choices:  # which absl has put in front
                words = words.removeprefix(f"<{'|'.join(choices)}>: ")
            notes = [f"one of {', '.join(filter(None, choices))}"] if choices else []
            if flag.name in required:
                notes.insert(0, "required")
            elif flag.default not in (None, "", []) and flag.default is not False:
                notes.append(f"default {(flag.default_as_str or '').strip(chr(39))}")
            lines += textwrap.wrap(
                f"{words} ({'; '.join(notes)})" if notes else words,
                width,
                initial_indent=" " * 6,
                subsequent_indent=" " * 6,
                break_long_words=False,
                break_on_hyphens=False,
            )
    installed = module != "__main__"
    own_name = module if installed else getattr(command.__spec__, "name", "")
    by_module = f"python -m {own_name.removesuffix('.__main__')}"
    lines += [
        "",
        "  --flagfile=FILE",
        "      A text file with one flag a line. Flags after it win.",
    ]
    lines += ["", "Example:", f"  {by_module} {example}"] if example else []
    text = "\n".join(lines)
    return text.replace(by_module, Path(sys.argv[0]).name) if installed else text


def run(
    main: Callable[..., int | None],
    arguments: bool = False,
    *,
    example: str = "",
    required: Sequence[str] = (),
    groups: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> None:
    """Parses the command line into `absl.flags.FLAGS` and exits with what `main` returns.

    With `arguments` the command takes some beside its flags, in any order, and `main` gets them
    as a list; else it gets nothing. `--help` shows the flags of `groups` by their titles, marks the
    `required` ones and ends with the `example` of a command line.

    A flag that does not parse, a stray argument and a `UserError` end with one line and code 2,
    a disk or an output without room with code 3, Ctrl-C with one line and the shell's code for it.
    """
    output = _open_streams()
    os.environ["MPLBACKEND"] = "agg"  # pictures become files; a setting for windows may be wrong

    def parse(argv: list[str]) -> list[str]:
        before = argv[1 : argv.index("--")] if "--" in argv else argv[1:]
        if not HELP.isdisjoint(before):
            print(_help(main.__module__, required, example, groups))
            sys.stdout.flush()
            sys.exit(0)
        try:
            rest = flags.FLAGS([argv[0], *with_flagfiles(argv[1:])])
        except (flags.Error, UserError) as error:
            fail(str(error))
        if rest[1:] and not arguments:
            fail(f"{rest[1]!r} is not a flag; write --name=value (--help lists the flags)")
        _expand_home(flags.FLAGS)
        return rest

    def guarded(argv: list[str]) -> int | None:
        logging.set_verbosity(logging.WARNING)
        # Jobs in a shell's background ignore Ctrl-C, and go on doing so.
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, _unwind)
        try:
            code = main(argv[1:]) if arguments else main()
            sys.stdout.flush()
            if not code and output.failure and output.failure.errno != errno.EPIPE:
                lost = output.failure.strerror
                fail(f"what this prints is lost ({lost}), all else is done; make room", FULL)
            return code
        except UserError as error:
            fail(str(error), FULL if _is_full(error.__cause__) else MISTAKE)
        except OSError as error:
            if "No usable temporary directory" in str(error):  # of Python's own `tempfile`
                fail("there is no folder for temporary files; set TMPDIR to one you can write to")
            if not _is_full(error):
                raise
            place = error.filename or "to standard output"
            fail(f"cannot write {place}: {error.strerror}; make room and run it again", FULL)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 128 + signal.SIGINT

    flags.DEFINE_flag(_VersionFlag())
    _show_in_help(main.__module__)
    flags.FLAGS.set_gnu_getopt(arguments)
    app.run(guarded, flags_parser=parse)


def _is_full(error: BaseException | None) -> bool:
    return isinstance(error, OSError) and error.errno in _NO_ROOM


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
