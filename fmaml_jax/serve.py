"""`python -m fmaml_jax.serve`: enrolment and prediction on a web page."""

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
        raise UserError(
            "the page needs packages that are not there; `make web` installs them, or "
            "`pip install 'fmaml-jax[web]'`"
        )
    if args.live and find_spec("websockets") is None:
        raise UserError(
            "--live needs a package that is not there; `make web` installs it, or "
            "`pip install 'fmaml-jax[web]'`"
        )
    password = _secret("password", args.password_file)
    opened = args.api or args.live
    token = _token(opened, args.api_token_file)

    # Late, so that --help and a missing flag do not wait for JAX and Gradio.
    from fmaml_jax.recognition.checkpoint import chosen_start, load_start
    from fmaml_jax.training.devices import set_up_device
    from fmaml_jax.web.api import Doors
    from fmaml_jax.web.guard import is_loopback
    from fmaml_jax.web.server import end_now, serve

    if opened and not (token or is_loopback(args.host)):
        raise UserError(
            f"others reach --host={args.host}; give --api_token_file=FILE, a text file with the "
            "token that lets them in"
        )
    set_up_device()
    checkpoint = chosen_start(args.checkpoint, args["encoder"].present > 0)
    start = load_start(checkpoint, args.encoder)
    console.unwind_on_termination()  # so that the page's files are removed
    code = 0
    try:
        serve(start, args.host, args.port, password, Doors(args.api, args.live, token))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 128 + signal.SIGINT
    except SystemExit as ended:
        code = int(ended.code or 0)
    end_now(code)


def _token(opened: bool, path: str) -> str:
    """What lets in to the interfaces beside the page, if any is opened."""
    token = _secret("api_token", path)
    if not token.isascii() or len(token.split()) > 1:
        raise UserError(f"--api_token_file={path} has more than one word of ASCII; change it")
    if token and not opened:
        raise UserError("--api_token_file is of --api and --live; give one of them too")
    return token


def _secret(kind: str, path: str) -> str:
    if not path:
        return ""
    try:
        secret = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read --{kind}_file={path}; name a text file") from error
    if len(secret) < LEAST_PASSWORD:
        name = kind.removeprefix("api_")
        raise UserError(
            f"--{kind}_file={path} has a {name} of {len(secret)} letters; give it "
            f"{LEAST_PASSWORD} or more"
        )
    return secret


def define_flags() -> None:
    """The start, and where the page is."""
    flags.DEFINE_string(
        "checkpoint",
        "",
        "The start: descriptors or encoder, which come with fmaml_jax, a start's file, or the "
        "folder of a finished run. By default descriptors, or encoder where --encoder is given.",
    )
    flags.DEFINE_string(
        "encoder",
        DEFAULT,
        "The file or folder of the encoder's weights, for a start that hears with an encoder.",
    )
    flags.DEFINE_string("host", "127.0.0.1", "Address to listen at; 0.0.0.0 for the network.")
    flags.DEFINE_integer("port", 7860, "Port to listen at.", 1, 65535)
    flags.DEFINE_string(
        "password_file",
        "",
        "A text file with the password that visitors have to give; without one, others than this "
        "machine's users need the token in the address that is printed.",
    )
    flags.DEFINE_boolean("api", False, "Serves the HTTP interface too; see docs/http.md.")
    flags.DEFINE_boolean("live", False, "Answers sound as it comes in; see docs/live.md.")
    flags.DEFINE_string(
        "api_token_file",
        "",
        "A text file with the bearer token that --api and --live ask for; needed where others "
        "than this machine's users reach --host.",
    )


def command() -> None:
    """The whole command, as it is installed."""
    define_flags()
    console.run(main, example="--port=7860")


if __name__ == "__main__":
    command()
