"""A folder of emotional speech -> one .npz file of features.

    python -m data_prep.prepare --corpus=emodb --audio_dir=DIR --out=data/emodb.npz

Prints Table 1 of the paper for what was read, what may be wrong with clips (a line a finding), and
names every clip that was skipped, with the reason: one of less than 0.1 s is. `--strict` makes a
skipped clip an error. `data_prep.pipeline` does the work.

A corpus too large for memory, or for one job, is prepared in shards: `--shards=12` writes
NAME-00000-of-00012.npz and so on, of which one at a time is in memory, and `--shard=3` that one
alone. A rerun keeps the shards that are whole and of the same clips, flags and audio, whose bytes
are compared. `fmaml_jax.main --data` takes 'NAME-*.npz', and `data_prep.merge` makes it one file.

`--views=2` adds two degraded views of each clip, which make a start hold out in bad sound
(docs/robustness.md). Training alone uses them: they are no clips of validation or test.
"""

import contextlib
import os
from pathlib import Path

from absl import flags

from data_prep.corpora import KNOWN
from fmaml_jax.common import console
from fmaml_jax.common.errors import UserError
from fmaml_jax.common.files import cache_folder
from fmaml_jax.encoder import DEFAULT


def define_flags() -> None:
    """The corpus, the file to write, and what of it."""
    flags.DEFINE_string("corpus", None, f"Corpus to read: {', '.join(KNOWN)}.")
    flags.DEFINE_string("audio_dir", None, "Folder of the corpus; its subfolders are searched.")
    flags.DEFINE_string("out", None, "The .npz file to write; its folder is made if missing.")
    flags.DEFINE_string(
        "manifest", None, "The CSV of --corpus=manifest; without it, AUDIO_DIR/manifest.csv."
    )
    flags.DEFINE_string("name", "", "The name of the corpus; without it, its own or its folder's.")
    flags.DEFINE_string("language", None, "ISO 639 code of the speech, instead of the corpus's.")
    flags.DEFINE_string(
        "features",
        "paper",
        "What is computed. MFCCs: paper, or authors_code (of the first second). One vector for "
        "each clip: descriptors, or what a pretrained encoder hears (campplus, or hub, which is "
        "one that you have on disk).",
    )
    flags.DEFINE_string(
        "encoder",
        DEFAULT,
        "The weights for --features=campplus, from `make encoder`; for hub the folder of a "
        "wav2vec2, HuBERT, WavLM or Whisper as published, with safetensors.",
    )
    flags.DEFINE_integer(
        "layer", None, "The layer whose output --features=hub takes; without it, the middle one.", 1
    )
    flags.DEFINE_float(
        "clip_seconds",
        None,
        "Longer clips are cropped to this length; for MFCCs, shorter ones are padded to it.",
    )
    flags.DEFINE_integer(
        "views",
        0,
        "How many degraded views of each clip stand beside it, for training: through telephones, "
        "codecs, noise and rooms, drawn by chance, and the same again in a rerun.",
        lower_bound=0,
    )
    flags.DEFINE_integer(
        "shards", None, "How many parts the corpus is prepared in, each a file.", lower_bound=1
    )
    flags.DEFINE_integer("shard", None, "The one part to make, counted from 0, as in a job array.")
    flags.DEFINE_bool("strict", False, "Make a skipped clip an error.")


def main() -> None:
    """Prepares the corpus of the flags, or its shards."""
    args = flags.FLAGS
    for name in ("corpus", "audio_dir", "out"):
        if not args[name].value:
            raise UserError(f"--{name} is missing; {args[name].help}")
    if args.shard is not None and args.shards is None:
        raise UserError("--shard goes with --shards, the number of parts; give both or neither")

    # Late, so that --help and a missing flag do not wait for the audio libraries.
    from data_prep import pipeline
    from fmaml_jax.audio.features import AnyEncoderConfig
    from fmaml_jax.data.dataset import save

    out = Path(args.out)
    config = pipeline.choose_features(args.features, args.clip_seconds, args.layer)
    encode = None
    if isinstance(config, AnyEncoderConfig):
        with contextlib.suppress(OSError, RuntimeError):  # JAX reads it when it is imported
            os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache_folder()))
        from fmaml_jax.encoder.features import encoding, with_weights

        config = with_weights(config, args.encoder)
        encode = encoding(config, args.encoder)
    manifest = Path(args.manifest) if args.manifest else None
    pipeline.check_out(out)
    source = (args.corpus, Path(args.audio_dir), config, args.language, manifest, args.name)
    more = {"encode": encode, "views": args.views}
    if args.shards:
        written = pipeline.prepare_shards(
            out, *source, count=args.shards, only=args.shard, strict=args.strict, **more
        )
        pattern = out.with_name(f"{out.stem}-*.npz")
        print(f"wrote {len(written)} of {args.shards} shards; --data='{pattern}' reads them all")
        return
    dataset, skipped, ignored = pipeline.prepare(*source, **more)
    print(pipeline.table(dataset))
    pipeline.print_skipped(skipped, ignored, args.strict)
    content_hash = save(out, dataset)
    print(f"wrote {out}: {len(dataset.names)} clips, content hash {content_hash[:12]}")


def command() -> None:
    """The whole command, as it is installed."""
    define_flags()
    console.run(
        main,
        example="--corpus=emovo --audio_dir=corpora/emovo --out=data/emovo.npz",
        required=("corpus", "audio_dir", "out"),
    )


if __name__ == "__main__":
    command()
