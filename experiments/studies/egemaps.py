"""The functionals of openSMILE as a prepared corpus, to compare other features with.

    .venv/bin/pip install -r requirements-benchmarks.txt
    .venv/bin/python -m experiments.studies.egemaps --corpus=emodb --audio_dir=DIR --out=X.npz

Writes the 88 functionals of eGeMAPSv02 (Eyben et al. 2016) of each clip, [clips, 1, 88], for
`fmaml_jax.main --method=functionals --data=...`. With `--with_mfcc=data/emodb.npz` the time
statistics of that file's features, which are what the method is given otherwise, stand before
them: [clips, 1, 240 + 88] for 40 MFCCs.

openSMILE is under the audEERING Research License Agreement: for research, teaching and private use,
not for products. It is therefore a dependency of this benchmark alone.
"""

import importlib.metadata
from pathlib import Path

import numpy as np
from absl import flags
from jaxtyping import Float32

from data_prep.corpora import CORPORA, Clip, clip_names, list_clips
from data_prep.pipeline import check_out, prepare, report, table
from fmaml_jax.audio.decoding import SAMPLE_RATE, AudioError, read_clip
from fmaml_jax.audio.features import FEATURES
from fmaml_jax.common.console import progress, run
from fmaml_jax.common.errors import UserError
from fmaml_jax.data.dataset import Dataset, load, save


def functionals(audio_dir: Path, clips: list[Clip]) -> Float32[np.ndarray, "clips 1 coeffs"]:
    """The functionals of each clip, decoded as for all other features.

    Raises:
        UserError: openSMILE is not installed, a file is no usable clip, or is too short.
    """
    try:
        import opensmile
    except ImportError as error:
        raise UserError(
            "openSMILE is missing; install requirements-benchmarks.txt, if its licence allows "
            "your use"
        ) from error
    smile = opensmile.Smile(
        feature_set=opensmile.FeatureSet.eGeMAPSv02,
        feature_level=opensmile.FeatureLevel.Functionals,
    )
    vectors = []
    with progress("openSMILE", len(clips), " clips") as bar:
        for clip in clips:
            path = audio_dir / clip.file
            try:
                samples = read_clip(path, *clip.part).samples
            except AudioError as error:
                raise UserError(
                    f"{path} is not a usable clip: {error}; mend or remove it"
                ) from error
            vectors.append(smile.process_signal(samples, SAMPLE_RATE).to_numpy(np.float32))
            if not np.isfinite(vectors[-1]).all():
                raise UserError(f"openSMILE has no functionals of {path}; remove what is too short")
            bar.update()
    return np.stack(vectors)


def with_functionals(dataset: Dataset, corpus: str, audio_dir: Path, join: bool) -> Dataset:
    """The same clips with openSMILE's functionals, matched by name.

    Args:
        dataset: a prepared corpus, whose features are replaced.
        corpus: the name that --corpus had when it was prepared.
        audio_dir: the folder that it was prepared from.
        join: put the time statistics of the replaced features before the functionals.

    Raises:
        UserError: see `list_clips` and `functionals`; or a clip is not in the folder.
    """
    clips = list_clips(corpus, audio_dir).clips
    clip_of = dict(zip(clip_names(clips), clips, strict=True))
    names = dataset.names.tolist()
    if missing := [name for name in names if name not in clip_of]:
        raise UserError(
            f"{len(missing)} clips, such as {missing[0]}, are not in {audio_dir}; give the folder "
            "that --with_mfcc was prepared from"
        )
    features = functionals(audio_dir, [clip_of[name] for name in names])
    config = {"functionals": "eGeMAPSv02", "opensmile": importlib.metadata.version("opensmile")}
    if join:
        from fmaml_jax.learners.functionals import time_statistics  # with it comes JAX

        statistics = time_statistics(dataset.features)[:, None]
        features = np.concatenate([statistics, features], axis=2, dtype=np.float32)
        config = dataset.feature_config | config
    return dataset._replace(features=features, feature_config=config)


def main() -> None:
    args = flags.FLAGS
    out, audio_dir = Path(args.out), Path(args.audio_dir)
    check_out(out)
    if args.with_mfcc:
        dataset = load(args.with_mfcc)
    else:  # the clips that any other features would be of
        dataset, skipped, _ = prepare(args.corpus, audio_dir, FEATURES["paper"])
        if skipped:
            print(report(skipped))
    save(out, with_functionals(dataset, args.corpus, audio_dir, join=bool(args.with_mfcc)))
    print(table(dataset))


def define_flags() -> None:
    flags.DEFINE_enum("corpus", None, [*CORPORA, "manifest"], "Corpus to read.", required=True)
    flags.DEFINE_string("audio_dir", None, "Folder of the corpus.", required=True)
    flags.DEFINE_string("out", None, "The .npz file to write.", required=True)
    flags.DEFINE_string("with_mfcc", None, "Prepared corpus whose time statistics come first.")


if __name__ == "__main__":
    define_flags()
    run(main)
