"""`python -m fmaml_jax.serve --checkpoint=RUN_DIR`: enrolment and prediction on a web page."""

import signal
import sys
from importlib.util import find_spec
from pathlib import Path

from absl import flags

from fmaml_jax.common import console
from fmaml_jax.common.errors import UserError
from fmaml_jax.encoder import DEFAULT

LEAST_PASSWORD = 8
"""Letters."""


def main() -> None:
    """Serves until it is interrupted."""
    args = flags.FLAGS
    if find_spec("gradio") is None:
        raise UserError("the page needs packages that are not there; `make web` installs them")
    if not args.checkpoint:
        raise UserError("--checkpoint is missing; for example --checkpoint=runs/start")

    password = _password(args.password_file)

    # Late, so that --help and a missing flag do not wait for JAX and Gradio.
    from fmaml_jax.recognition.checkpoint import load_start
    from fmaml_jax.training.devices import set_up_device
    from fmaml_jax.web.server import end_now, serve

    set_up_device()
    start = load_start(args.checkpoint, args.encoder)
    console.unwind_on_termination()  # so that the page's files are removed
    code = 0
    try:
        serve(start, args.host, args.port, password)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 128 + signal.SIGINT
    except SystemExit as ended:
        code = int(ended.code or 0)
    end_now(code)


def _password(path: str) -> str:
    if not path:
        return ""
    try:
        password = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read --password_file={path}; name a text file") from error
    if len(password) < LEAST_PASSWORD:
        raise UserError(
            f"--password_file={path} has a password of {len(password)} letters; give it "
            f"{LEAST_PASSWORD} or more"
        )
    return password


def define_flags() -> None:
    """The start, and where the page is."""
    flags.DEFINE_string("checkpoint", "", "Folder of a finished run of experiments/start.cfg.")
    flags.DEFINE_string(
        "encoder", DEFAULT, "Weights (or their folder) for a start that hears with an encoder."
    )
    flags.DEFINE_string("host", "127.0.0.1", "Address to listen at; 0.0.0.0 for the network.")
    flags.DEFINE_integer("port", 7860, "Port to listen at.", 1, 65535)
    flags.DEFINE_string(
        "password_file",
        "",
        "A text file with the password that visitors have to give; without one, others than this "
        "machine's users need the token in the address that is printed.",
    )


if __name__ == "__main__":
    define_flags()
    console.run(main)
