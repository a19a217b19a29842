"""A folder of emotional speech -> one .npz file of features.

    python -m data_prep.prepare --corpus=emodb --audio_dir=DIR --out=data/emodb.npz

Prints Table 1 of the paper for what was read, and names every clip that was skipped, with the
reason; `--strict` makes a skipped clip an error. `data_prep.corpora` knows the corpora,
`data_prep.features` the feature configurations, and `data_prep.dataset` the file that is written.
"""

import collections
import concurrent.futures
import contextlib
import hashlib
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import flags
from jaxtyping import Float32

from data_prep.audio import AudioError, read_clip
from data_prep.console import UserError, progress, run
from data_prep.corpora import CORPORA, KNOWN, Clip, Listing, Skipped, clip_names, list_clips
from data_prep.dataset import Dataset, save
from data_prep.features import FEATURES, FeatureConfig, mfcc

_CHUNK = 8  # clips handed to a process at a time

_ENVIRONMENT = {
    # Processes share the cores among them; a BLAS that starts threads of its own would also make
    # the last bits depend on how many cores there are.
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # Where glibc gives the features' large temporaries back to the system after every clip, a
    # clip takes twice as long.
    "MALLOC_TOP_PAD_": str(64 << 20),
}


class Recording(NamedTuple):
    """What is kept of one decoded clip; `digest` is the hash of its samples."""

    features: Float32[np.ndarray, "frames coeffs"]
    seconds: float
    digest: str


def extract(path: Path, config: FeatureConfig) -> Recording | str:
    """Features of one file, or the reason why it is no usable clip."""
    try:
        samples = read_clip(path)
    except AudioError as error:
        return str(error)
    return Recording(
        mfcc(samples, config),
        len(samples) / config.sample_rate,
        hashlib.sha256(samples.tobytes()).hexdigest(),
    )


def extract_all(
    paths: Sequence[Path], config: FeatureConfig, processes: int
) -> list[Recording | str]:
    """`extract` over many files, in their order, whatever the number of processes.

    Raises:
        UserError: a process was killed, as by a system that is out of memory.
    """
    processes = max(1, min(processes, len(paths) // _CHUNK))
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(processes, context, _silence_errors)
    with _inherited():
        read = pool.map(extract, paths, [config] * len(paths), chunksize=_CHUNK)
    results = []
    try:
        with progress("reading", len(paths), " clips") as bar:
            for result in read:
                results.append(result)
                bar.update()
    except BrokenProcessPool as error:
        raise UserError(
            f"a process was killed while it read the clips from {paths[len(results)]} on; "
            "free memory, or move the damaged file away"
        ) from error
    except KeyboardInterrupt:
        # The clips in hand take a moment; a second Ctrl-C in that moment would hang the shutdown.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise
    finally:
        pool.shutdown(cancel_futures=True)
    return results


@contextlib.contextmanager
def _inherited() -> Iterator[None]:
    """Processes started within run in `_ENVIRONMENT` and leave Ctrl-C to this one."""
    environment = dict(os.environ)
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(_ENVIRONMENT)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(environment)
        signal.signal(signal.SIGINT, interrupt)


def _silence_errors() -> None:
    """Discards what the MP3 decoder prints of a cut file, which `read_clip` finds by itself."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def drop_copies(
    clips: Sequence[Clip], recordings: Sequence[Recording]
) -> tuple[list[int], list[Skipped]]:
    """Makes sure that no sound occurs twice, so that support and query never share one.

    Returns:
        Indices of the clips to keep, and the others: of copies with one label the first is kept,
        of copies with different labels none.
    """
    groups = collections.defaultdict(list)
    for index, recording in enumerate(recordings):
        groups[recording.digest].append(index)
    kept, skipped = [], []
    for indices in groups.values():
        first, *others = (clips[index] for index in indices)
        if any(other.label != first.label for other in others):
            labels = ", ".join(f"{clip.file} is {clip.label}" for clip in (first, *others))
            reason = f"the same sound has different labels: {labels}"
            skipped += [Skipped(clip.file, reason) for clip in (first, *others)]
        else:
            kept.append(indices[0])
            reason = f"the same sound as {first.file}, which is kept"
            skipped += [Skipped(clip.file, reason) for clip in others]
    return sorted(kept), skipped


def prepare(
    corpus: str,
    audio_dir: Path,
    config: FeatureConfig,
    language: str | None = None,
    manifest: Path | None = None,
    processes: int = os.cpu_count() or 1,
) -> tuple[Dataset, list[Skipped], int]:
    """Reads a corpus.

    Returns:
        The prepared corpus sorted by name, the skipped clips, and the number of files that were
        ignored because they are no audio.

    Raises:
        UserError: see `list_clips` and `extract_all`; or no clip is left.
    """
    listing = list_clips(corpus, audio_dir, language, manifest)
    if not listing.clips:
        raise UserError(_nothing(corpus, audio_dir, listing))
    files = [audio_dir / clip.file for clip in listing.clips]
    results = extract_all(files, config, processes)

    named = zip(listing.clips, clip_names(listing.clips), results, strict=True)
    read = [entry for entry in named if isinstance(entry[2], Recording)]
    skipped = listing.skipped + [
        Skipped(clip.file, result)
        for clip, result in zip(listing.clips, results, strict=True)
        if isinstance(result, str)
    ]
    kept, copies = drop_copies([clip for clip, *_ in read], [recording for *_, recording in read])
    skipped += copies
    if not kept:
        print(report(skipped))
        raise UserError(
            f"no usable clip is left in {audio_dir}: all {len(skipped)} were skipped for the "
            "reasons above; mend them, or check --corpus"
        )
    clips, names, recordings = zip(*(read[index] for index in kept), strict=True)
    dataset = Dataset(
        corpus=corpus if corpus in CORPORA else audio_dir.resolve().name,
        feature_config=config._asdict(),
        features=np.stack([recording.features for recording in recordings]),
        labels=np.array([clip.label for clip in clips]),
        languages=np.array([clip.language for clip in clips]),
        speakers=np.array([clip.speaker for clip in clips]),
        scenes=np.array([clip.scene for clip in clips]),
        names=np.array(names),
        seconds=np.array([recording.seconds for recording in recordings], np.float32),
    )
    return dataset, skipped, listing.ignored


def _nothing(corpus: str, audio_dir: Path, listing: Listing) -> str:
    if listing.skipped:
        example = listing.skipped[0]
        return (
            f"none of the {len(listing.skipped)} clips in {audio_dir} is one of {corpus} (for "
            f"example {example.file}: {example.reason}); check --corpus and --audio_dir"
        )
    return (
        f"there is no audio in {audio_dir} ({listing.ignored} other files); check --audio_dir, or "
        "convert the clips to WAV or FLAC"
    )


def table(dataset: Dataset) -> str:
    """Table 1 of the paper: a line for each language, with clips per label and what they are."""
    labels = sorted(set(dataset.labels))
    rows = [["language", "clips", *labels, "speakers", "mean seconds"]]
    for language in sorted(set(dataset.languages)):
        here = dataset.languages == language
        speakers = set(dataset.speakers[here]) - {""}
        rows.append(
            [
                str(language),
                str(here.sum()),
                *(str((dataset.labels[here] == label).sum()) for label in labels),
                str(len(speakers) or "unknown"),
                f"{dataset.seconds[here].mean():.2f}",
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def report(skipped: Iterable[Skipped]) -> str:
    """A line for each skipped clip, those of one reason together; "" where there is none."""
    lines = [f"  {item.file}: {item.reason}" for item in sorted(skipped, key=lambda s: s[::-1])]
    return "\n".join([f"skipped clips: {len(lines)}", *lines]) if lines else ""


def check_out(path: Path) -> None:
    """Makes the folder of the output and tries to write there, before the long work.

    Raises:
        UserError: the name does not end in .npz, or nothing can be written there.
    """
    if path.suffix != ".npz" or os.path.isdir(path):
        raise UserError(f"--out={path} is no name of a .npz file; write --out=FILE.npz")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UserError(
            f"cannot write --out={path}: {error.strerror}; give a file in a folder that you may "
            "write to"
        ) from error


def choose_features(name: str, clip_seconds: float | None) -> FeatureConfig:
    """A configuration of `FEATURES`, with another clip length if one is given.

    Raises:
        UserError: the length is not between 0.1 and 60 seconds.
    """
    if clip_seconds is None:
        return FEATURES[name]
    if not 0.1 <= clip_seconds <= 60:
        raise UserError(f"--clip_seconds={clip_seconds:g} is not between 0.1 and 60 seconds")
    return FEATURES[name]._replace(clip_seconds=clip_seconds)


def define_flags() -> None:
    flags.DEFINE_string("corpus", None, f"Corpus to read: {', '.join(KNOWN)}.")
    flags.DEFINE_string("audio_dir", None, "Folder of the corpus; its subfolders are searched.")
    flags.DEFINE_string("out", None, "The .npz file to write; its folder is made if missing.")
    flags.DEFINE_string("manifest", None, "CSV for --corpus=manifest: AUDIO_DIR/manifest.csv.")
    flags.DEFINE_string("language", None, "ISO 639 code of the speech, instead of the corpus's.")
    flags.DEFINE_enum("features", "paper", sorted(FEATURES), "Feature configuration.")
    flags.DEFINE_float("clip_seconds", None, "Length to which clips are cropped or padded.")
    flags.DEFINE_bool("strict", False, "Make a skipped clip an error.")


def main() -> None:
    args = flags.FLAGS
    for name in ("corpus", "audio_dir", "out"):
        if not args[name].value:
            raise UserError(f"--{name} is missing; {args[name].help}")
    sys.stdout.reconfigure(errors="backslashreplace")  # file names need not be valid text
    out = Path(args.out)
    config = choose_features(args.features, args.clip_seconds)
    manifest = Path(args.manifest) if args.manifest else None
    check_out(out)
    dataset, skipped, ignored = prepare(
        args.corpus, Path(args.audio_dir), config, args.language, manifest
    )
    print(table(dataset))
    if skipped:
        print(report(skipped))
    if ignored:
        print(f"ignored files that are no audio: {ignored}")
    if skipped and args.strict:
        raise UserError(
            f"--strict is set and {len(skipped)} clips were skipped, so nothing was written; mend "
            "or remove the files listed above"
        )
    content_hash = save(out, dataset)
    print(f"wrote {out}: {len(dataset.names)} clips, content hash {content_hash[:12]}")


if __name__ == "__main__":
    define_flags()
    run(main)
