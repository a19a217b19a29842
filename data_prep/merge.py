"""Shards of one corpus -> the one .npz file that preparing it without --shards writes.

    python -m data_prep.merge --data='data/nemo-*.npz' --out=data/nemo.npz

`fmaml_jax.main --data` takes the pattern as well, so that merging is a matter of taste. The whole
corpus is in memory meanwhile.
"""

from pathlib import Path

from absl import flags

from fmaml_jax.common import console
from fmaml_jax.common.errors import UserError


def main() -> None:
    """Joins the shards of the flags."""
    args = flags.FLAGS
    if not args.data:
        raise UserError("--data is missing; for example --data='data/nemo-*.npz'")
    if not args.out:
        raise UserError("--out is missing; for example --out=data/nemo.npz")

    # Late, so that --help and a missing flag do not wait for the audio libraries.
    from data_prep.pipeline import check_out, report, table
    from fmaml_jax.data.dataset import load, save
    from fmaml_jax.data.shards import expand, join

    out = Path(args.out)
    check_out(out)
    dataset, copies = join({path: load(path) for path in expand(args.data)})
    print(table(dataset))
    if copies:
        print(report(copies))
    content_hash = save(out, dataset)
    print(f"wrote {out}: {len(dataset.names)} clips, content hash {content_hash[:12]}")


def define_flags() -> None:
    """The shards, and the file to write."""
    flags.DEFINE_list("data", [], "Shards of one corpus: .npz files or patterns, comma-separated.")
    flags.DEFINE_string("out", None, "The .npz file to write; its folder is made if missing.")


def command() -> None:
    """The whole command, as it is installed."""
    define_flags()
    console.run(
        main, example="--data='data/nemo-*.npz' --out=data/nemo.npz", required=("data", "out")
    )


if __name__ == "__main__":
    command()
