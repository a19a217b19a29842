"""Recordings of a corpus -> its features: what `data_prep.prepare` and `data_prep.merge` do.

`data_prep.corpora` knows the corpora, `fmaml_jax.audio.features` the feature configurations, and
`fmaml_jax.data.dataset` the file that is written.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from data_prep.corpora import CORPORA, Clip, Listing, clip_names, list_clips
from fmaml_jax.audio.decoding import AudioError, read_clip
from fmaml_jax.audio.features import FEATURES, FeatureConfig, extract
from fmaml_jax.common.console import progress
from fmaml_jax.common.errors import UserError
from fmaml_jax.common.processes import cores, process_pool
from fmaml_jax.common.text import text_table
from fmaml_jax.data.dataset import Dataset, Shard, load, save
from fmaml_jax.data.shards import Skipped, drop_copies, shard_path

_CHUNK = 8  # clips handed to a process at a time


class Recording(NamedTuple):
    """What is kept of one decoded clip."""

    features: Float32[np.ndarray, "frames coeffs"]
    seconds: float


def extract_file(path: Path, config: FeatureConfig) -> Recording | str:
    """Features of one file, or the reason why it is no usable clip."""
    try:
        samples = read_clip(path).samples
    except AudioError as error:
        return str(error)
    return Recording(extract(samples, config), len(samples) / config.sample_rate)


def extract_all(
    paths: Sequence[Path], config: FeatureConfig, processes: int
) -> list[Recording | str]:
    """`extract_file` over many files, in their order, whatever the number of processes.

    Raises:
        UserError: a process was killed, as by a system that is out of memory.
    """
    processes = max(1, min(processes, len(paths) // _CHUNK))
    results = []
    with process_pool(processes) as pool, progress("reading", len(paths), " clips") as bar:
        try:
            for result in pool.map(extract_file, paths, [config] * len(paths), chunksize=_CHUNK):
                results.append(result)
                bar.update()
        except BrokenExecutor as error:
            raise UserError(
                f"a process was killed while it read the clips from {paths[len(results)]} on; "
                "free memory, or move the damaged file away"
            ) from error
    return results


def prepare(
    corpus: str,
    audio_dir: Path,
    config: FeatureConfig,
    language: str | None = None,
    manifest: Path | None = None,
    processes: int = cores(),
) -> tuple[Dataset, list[Skipped], str]:
    """Reads a corpus.

    Returns:
        The prepared corpus sorted by name, the skipped clips, and what else lies there
        (`passed_over`).

    Raises:
        UserError: see `list_clips` and `extract_all`; or no clip is left.
    """
    listing = _list(corpus, audio_dir, language, manifest)
    names = clip_names(listing.clips)
    dataset, unreadable = _read(corpus, audio_dir, listing.clips, names, config, processes)
    file_of = dict(zip(names, (clip.file for clip in listing.clips), strict=True))
    dataset, copies = drop_copies(dataset, [file_of[name] for name in dataset.names.tolist()])
    skipped = [*listing.skipped, *unreadable, *copies]
    if not len(dataset.names):
        print(report(skipped))
        raise UserError(
            f"no usable clip is left in {audio_dir}: all {len(skipped)} were skipped for the "
            "reasons above; mend them, or check --corpus"
        )
    return dataset, skipped, listing.ignored


def prepare_shards(
    out: Path,
    corpus: str,
    audio_dir: Path,
    config: FeatureConfig,
    language: str | None = None,
    manifest: Path | None = None,
    *,
    count: int,
    only: int | None = None,
    strict: bool = False,
    processes: int = cores(),
) -> list[Path]:
    """Reads a corpus in parts, each written when it is read; those that are there are kept.

    The arguments are the command's flags: `out` is the name that those of the shards are made
    from, `count` their number and `only` the one to make. Copies of one sound stay until the
    shards are joined, whether `strict` or not.

    Returns:
        The files that were written, not those that were there.

    Raises:
        UserError: see `list_clips`, `extract_all` and `save`; also more shards than clips, or no
            such shard.
    """
    listing = _list(corpus, audio_dir, language, manifest)
    clips = listing.clips
    if only is not None and not 0 <= only < count:
        raise UserError(f"--shard={only} is none of the {count} shards, 0 to {count - 1}")
    if count > len(clips):
        raise UserError(f"--shards={count} is more than the {len(clips)} clips; give fewer")
    print_skipped(listing.skipped, listing.ignored, strict)
    names = clip_names(clips)
    source = _source(_corpus_name(corpus, audio_dir), clips, names, config)
    written = []
    for index in range(count) if only is None else [only]:
        path = shard_path(out, index, count)
        part = slice(index * len(clips) // count, (index + 1) * len(clips) // count)
        shard = Shard(index, count, source)
        if _is_current(path, shard, [audio_dir / clip.file for clip in clips[part]], strict):
            print(f"{path} is there")
            continue
        dataset, skipped = _read(corpus, audio_dir, clips[part], names[part], config, processes)
        print_skipped(skipped, "", strict)
        save(path, dataset._replace(shard=shard))
        print(f"wrote {path}: {len(dataset.names)} clips", flush=True)
        written.append(path)
    return written


def _list(corpus: str, audio_dir: Path, language: str | None, manifest: Path | None) -> Listing:
    listing = list_clips(corpus, audio_dir, language, manifest)
    if not listing.clips:
        raise UserError(_nothing(corpus, audio_dir, listing))
    return listing


def _read(
    corpus: str,
    audio_dir: Path,
    clips: Sequence[Clip],
    names: Sequence[str],
    config: FeatureConfig,
    processes: int,
) -> tuple[Dataset, list[Skipped]]:
    """The clips that can be decoded, copies among them, and the others."""
    results = extract_all([audio_dir / clip.file for clip in clips], config, processes)
    entries = list(zip(clips, names, results, strict=True))
    skipped = [Skipped(clip.file, why) for clip, _, why in entries if isinstance(why, str)]
    read = [(clip, name, found) for clip, name, found in entries if isinstance(found, Recording)]
    dataset = Dataset(
        corpus=_corpus_name(corpus, audio_dir),
        feature_config=config._asdict(),
        # The shape of one clip serves a shard that has none left.
        features=np.array([recording.features for *_, recording in read], np.float32).reshape(
            len(read), *extract(np.ones(1), config).shape
        ),
        labels=np.array([clip.label for clip, *_ in read], np.str_),
        languages=np.array([clip.language for clip, *_ in read], np.str_),
        speakers=np.array([clip.speaker for clip, *_ in read], np.str_),
        scenes=np.array([clip.scene for clip, *_ in read], np.str_),
        names=np.array([name for _, name, _ in read], np.str_),
        seconds=np.array([recording.seconds for *_, recording in read], np.float32),
    )
    return dataset, skipped


def _corpus_name(corpus: str, audio_dir: Path) -> str:
    return corpus if corpus in CORPORA else audio_dir.resolve().name


def _source(corpus: str, clips: Sequence[Clip], names: Sequence[str], config: FeatureConfig) -> str:
    """A hash of all that shards are made from but the sound itself."""
    digest = hashlib.sha256(json.dumps([corpus, config]).encode())
    for entry in zip(clips, names, strict=True):
        digest.update(json.dumps(entry).encode())
    return digest.hexdigest()


def _is_current(path: Path, shard: Shard, files: Sequence[Path], strict: bool) -> bool:
    """Whether a shard is there, whole, of the same clips and flags, and no older than its audio."""
    try:
        made = path.stat().st_mtime_ns
        dataset = load(path)
    except (OSError, UserError):
        return False
    if dataset.shard != shard or (strict and len(dataset.names) < len(files)):
        return False
    return all(os.stat(file).st_mtime_ns <= made for file in files if file.exists())


def _nothing(corpus: str, audio_dir: Path, listing: Listing) -> str:
    if listing.skipped:
        example = listing.skipped[0]
        return (
            f"none of the {len(listing.skipped)} clips in {audio_dir} is one of {corpus} (for "
            f"example {example.file}: {example.reason}); check --corpus and --audio_dir"
        )
    return (
        f"there is no audio in {audio_dir} (but {listing.ignored or 'nothing'}); check "
        "--audio_dir, or convert the clips to WAV or FLAC"
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
    return text_table(rows)


def report(skipped: Iterable[Skipped]) -> str:
    """A line for each skipped clip, those of one reason together; "" where there is none."""
    lines = [f"  {item.file}: {item.reason}" for item in sorted(skipped, key=lambda s: s[::-1])]
    return "\n".join([f"skipped clips: {len(lines)}", *lines]) if lines else ""


def print_skipped(skipped: Sequence[Skipped], ignored: str, strict: bool) -> None:
    """Prints what is not read; raises UserError if `strict` and there are skipped clips."""
    if skipped:
        print(report(skipped))
    if ignored:
        print(f"no audio, passed over: {ignored}")
    if skipped and strict:
        raise UserError(
            f"--strict is set and {len(skipped)} clips were skipped, so their file was not "
            "written; mend or remove the files listed above"
        )


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
        UserError: there is none of that name, or the length is not between 0.1 and 60 seconds.
    """
    if name not in FEATURES:
        raise UserError(f"--features={name} is unknown; choose from {', '.join(sorted(FEATURES))}")
    if clip_seconds is None:
        return FEATURES[name]
    if not 0.1 <= clip_seconds <= 60:
        raise UserError(f"--clip_seconds={clip_seconds:g} is not between 0.1 and 60 seconds")
    return FEATURES[name]._replace(clip_seconds=clip_seconds)
