"""Recordings of a corpus -> its features: what `data_prep.prepare` and `data_prep.merge` do.

`data_prep.corpora` knows the corpora, `fmaml_jax.audio.features` the feature configurations, and
`fmaml_jax.data.dataset` the file that is written.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import BrokenExecutor
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from data_prep.corpora import (
    CORPORA,
    ROUNDED,
    Clip,
    Listing,
    clip_names,
    list_clips,
    namesakes,
    written,
)
from fmaml_jax.audio.decoding import AudioError, read_clip
from fmaml_jax.audio.features import (
    FEATURES,
    AnyEncoderConfig,
    FeatureConfig,
    HubConfig,
    extract,
)
from fmaml_jax.audio.quality import LEAST_SECONDS, clip_findings, in_sum
from fmaml_jax.common.console import progress
from fmaml_jax.common.errors import UserError
from fmaml_jax.common.processes import cores, process_pool
from fmaml_jax.common.text import clean_name, did_you_mean, name_key, text_table
from fmaml_jax.data.dataset import NO_LANGUAGE, Dataset, Shard, load, save
from fmaml_jax.data.shards import Skipped, drop_copies, shard_path

_CHUNK = 8  # clips handed to a process at a time
_ENCODED = 256  # clips of which what an encoder reads is in memory at a time

Encode = Callable[[Sequence[Float32[np.ndarray, "_ _"]]], Float32[np.ndarray, "clips 1 coeffs"]]
"""Of an encoder: makes vectors of what `extract` makes of clips."""


class Recording(NamedTuple):
    """What is kept of one decoded clip; `findings` is what may be wrong with the file."""

    features: Float32[np.ndarray, "frames coeffs"]
    seconds: float
    file: str
    findings: tuple[str, ...]


def extract_clip(
    clip: Clip, audio_dir: Path, config: FeatureConfig
) -> tuple[Recording | None, list[Skipped]]:
    """Features of the best file of a clip that can be read, if any, and its other files."""
    files, skipped = (clip.file, *clip.copies), []
    begin, end = clip.part
    for number, file in enumerate(files):
        try:
            sound = read_clip(audio_dir / file, begin, end)
            if sound.seconds < LEAST_SECONDS:
                raise AudioError(f"shorter than {LEAST_SECONDS:g} s, too short for a clip")
        except AudioError as error:
            skipped.append(Skipped(file, str(error)))
            continue
        reason = f"another copy of the take in {file}, which is kept"
        skipped += [Skipped(other, reason) for other in files[number + 1 :]]
        if clip.view:  # what is to be said of it is said of the clip
            from fmaml_jax.audio.views import random_view  # late: SciPy's filters take a second

            features = extract(random_view(sound.samples, clip.view), config)
            return Recording(features, sound.seconds, file, ()), []
        findings = sound.findings
        if end is not None and begin + sound.seconds < end - ROUNDED:
            findings += ("cut off, since the file ends earlier than the manifest says",)
        if clip.language != NO_LANGUAGE:
            findings += clip_findings(sound.samples, sound.sample_rate)
        features = extract(sound.samples, config)
        return Recording(features, sound.seconds, file, findings), skipped
    return None, [] if clip.view else skipped


def extract_all(
    clips: Sequence[Clip],
    audio_dir: Path,
    config: FeatureConfig,
    processes: int,
    encode: Encode | None = None,
) -> list[tuple[Recording | None, list[Skipped]]]:
    """`extract_clip` over many clips, in their order, whatever the number of processes.

    Args:
        clips: what to read.
        audio_dir: the folder that their files are relative to.
        config: the features.
        processes: how many of them.
        encode: runs here, on whatever devices there are, on what the processes extract.

    Raises:
        UserError: a process was killed, as by a system that is out of memory.
    """
    processes = max(1, min(processes, len(clips) // _CHUNK))
    at_once = _ENCODED if encode else max(1, len(clips))
    results = []
    with process_pool(processes) as pool, progress("reading", len(clips), " clips") as bar:
        try:
            for start in range(0, len(clips), at_once):
                part = clips[start : start + at_once]
                for result in pool.map(
                    extract_clip, part, repeat(audio_dir), repeat(config), chunksize=_CHUNK
                ):
                    results.append(result)
                    bar.update(not encode)
                if encode:
                    results[start:] = _encoded(results[start:], encode)
                    bar.update(len(part))
        except BrokenExecutor as error:
            raise UserError(
                f"a process was killed while it read the clips from {clips[len(results)].file} on; "
                "free memory, or move the damaged file away"
            ) from error
    return results


def _encoded(
    results: Sequence[tuple[Recording | None, list[Skipped]]], encode: Encode
) -> list[tuple[Recording | None, list[Skipped]]]:
    """The same with vectors in place of what the encoder reads."""
    found = [recording.features for recording, _ in results if recording]
    vectors = iter(encode(found) if found else ())
    return [
        (recording and recording._replace(features=next(vectors)), skipped)
        for recording, skipped in results
    ]


def prepare(
    corpus: str,
    audio_dir: Path,
    config: FeatureConfig,
    language: str | None = None,
    manifest: Path | None = None,
    name: str = "",
    processes: int = cores(),
    encode: Encode | None = None,
    views: int = 0,
) -> tuple[Dataset, list[Skipped], str]:
    """Reads a corpus.

    The arguments are the command's flags, without a `name` the corpus's own or its folder's; see
    `extract_all` for `processes` and `encode`. Clips without a language, such as silence, have no
    views: test and validation take some of them.

    Returns:
        The prepared corpus sorted by name, the skipped clips, and what else lies there
        (`passed_over`).

    Raises:
        UserError: see `list_clips` and `extract_all`; or no clip is left.
    """
    listing = _list(corpus, audio_dir, language, manifest, views)
    names = clip_names(listing.clips)
    called = _corpus_name(name, corpus, audio_dir)
    dataset, unreadable = _read(called, audio_dir, listing.clips, names, config, processes, encode)
    called_of = {
        name: name if clip.view else clip.file
        for name, clip in zip(names, listing.clips, strict=True)
    }
    dataset, copies = drop_copies(dataset, [called_of[name] for name in dataset.names.tolist()])
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
    name: str = "",
    *,
    count: int,
    only: int | None = None,
    strict: bool = False,
    processes: int = cores(),
    encode: Encode | None = None,
    views: int = 0,
) -> list[Path]:
    """Reads a corpus in parts, each written when it is read; those that are there are kept.

    The arguments are those of `prepare`, and flags: `out` is the name that those of the shards are
    made from, `count` their number and `only` the one to make. Copies of one sound stay until the
    shards are joined, whether `strict` or not.

    Returns:
        The files that were written, not those that were there.

    Raises:
        UserError: see `list_clips`, `extract_all` and `save`; also more shards than clips, or no
            such shard.
    """
    listing = _list(corpus, audio_dir, language, manifest, views)
    clips = listing.clips
    if only is not None and not 0 <= only < count:
        raise UserError(f"--shard={only} is none of the {count} shards, 0 to {count - 1}")
    if count > len(clips):
        raise UserError(f"--shards={count} is more than the {len(clips)} clips; give fewer")
    print_skipped(listing.skipped, listing.ignored, strict)
    names = clip_names(clips)
    called = _corpus_name(name, corpus, audio_dir)
    source = _source(called, clips, names, config)
    made = []
    for index in range(count) if only is None else [only]:
        path = shard_path(out, index, count)
        part = slice(index * len(clips) // count, (index + 1) * len(clips) // count)
        shard = Shard(index, count, source, _audio_hash(audio_dir, clips[part]))
        if _is_current(path, shard, len(clips[part]) if strict else 0):
            print(f"{path} is there")
            continue
        dataset, skipped = _read(
            called, audio_dir, clips[part], names[part], config, processes, encode
        )
        print_skipped(skipped, "", strict)
        save(path, dataset._replace(shard=shard))
        print(f"wrote {path}: {len(dataset.names)} clips", flush=True)
        made.append(path)
    return made


def _list(
    corpus: str, audio_dir: Path, language: str | None, manifest: Path | None, views: int
) -> Listing:
    listing = list_clips(corpus, audio_dir, language, manifest)
    if not listing.clips:
        raise UserError(_nothing(corpus, audio_dir, listing))
    if corpus not in CORPORA and (pairs := namesakes(listing.clips)):
        print(
            f"files that are called as another of their label: {len(pairs)}, such as "
            f"{' and '.join(pairs[0])}; of copies of one take leave all but one out, or support "
            "and query share it"
        )
    with_views = [
        clip._replace(view=view)
        for clip in listing.clips
        for view in range(1 + (views if clip.language != NO_LANGUAGE else 0))
    ]
    return listing._replace(clips=with_views)


def _read(
    corpus: str,
    audio_dir: Path,
    clips: Sequence[Clip],
    names: Sequence[str],
    config: FeatureConfig,
    processes: int,
    encode: Encode | None,
) -> tuple[Dataset, list[Skipped]]:
    """The clips that can be decoded, copies of sounds among them, and the files that are not read.

    What may be wrong with the clips is printed.
    """
    results = extract_all(clips, audio_dir, config, processes, encode)
    skipped = [item for _, others in results for item in others]
    entries = zip(clips, names, results, strict=True)
    read = [(clip, name, found) for clip, name, (found, _) in entries if found]
    for finding in in_sum((name, found.findings) for _, name, found in read):
        print(f"warning: {finding}")
    if read:
        some = read[0][2].features
    else:  # a shard that has no clips left
        some = extract(np.ones(1), config)
        some = encode([some])[0] if encode else some
    dataset = Dataset(
        corpus=corpus,
        feature_config=config._asdict(),
        features=np.array([recording.features for *_, recording in read], np.float32).reshape(
            len(read), *some.shape
        ),
        labels=np.array([clip.label for clip, *_ in read], np.str_),
        languages=np.array([clip.language for clip, *_ in read], np.str_),
        speakers=np.array([clip.speaker for clip, *_ in read], np.str_),
        scenes=np.array([clip.scene for clip, *_ in read], np.str_),
        names=np.array([name for _, name, _ in read], np.str_),
        seconds=np.array([recording.seconds for *_, recording in read], np.float32),
    )
    return dataset, skipped


def _corpus_name(name: str, corpus: str, audio_dir: Path) -> str:
    if name and not name_key(name):
        raise UserError(f"--name={name} is empty; write a name such as interviews")
    return clean_name(name or (corpus if corpus in CORPORA else written(audio_dir.resolve().name)))


def _source(corpus: str, clips: Sequence[Clip], names: Sequence[str], config: FeatureConfig) -> str:
    """A hash of all that shards are made from but the sound itself."""
    digest = hashlib.sha256(json.dumps([corpus, config]).encode())
    for entry in zip(clips, names, strict=True):
        digest.update(json.dumps(entry).encode())
    return digest.hexdigest()


def _audio_hash(audio_dir: Path, clips: Sequence[Clip]) -> str:
    """A hash of the files' bytes: those of another file may have any size and time.

    It takes 0.1 ms a clip of 80 kB, where the features take 20 and more.
    """
    digest = hashlib.sha256()
    for file in dict.fromkeys(file for clip in clips for file in (clip.file, *clip.copies)):
        digest.update(_file_hash(audio_dir / file))
    return digest.hexdigest()


def _file_hash(path: Path) -> bytes:
    if not path.is_file():
        return b"no file"
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return b"unreadable"


def _is_current(path: Path, shard: Shard, least: int) -> bool:
    """Whether a shard is there, whole, of the same clips, sounds and flags, with clips enough."""
    try:
        dataset = load(path)
    except UserError:
        return False
    return dataset.shard == shard and len(dataset.names) >= least


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
        raise UserError(f"--out={path} is not the name of a .npz file; write --out=FILE.npz")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UserError(
            f"cannot write --out={path}: {error.strerror}; give a file in a folder that you may "
            "write to"
        ) from error


def choose_features(
    name: str, clip_seconds: float | None, layer: int | None = None
) -> FeatureConfig:
    """A configuration of `FEATURES`, with another clip length or layer if one is given.

    Raises:
        UserError: there is none of that name, or the length is not between 0.1 and 60 seconds (for
            an encoder, 20), or it has no layers to choose from.
    """
    if name not in FEATURES:
        raise UserError(
            f"--features={name} is unknown; choose from {', '.join(sorted(FEATURES))}"
            f"{did_you_mean(name, FEATURES)}"
        )
    config = FEATURES[name]
    if layer is not None:
        if not isinstance(config, HubConfig):
            raise UserError(f"--layer goes with --features=hub, not {name}; leave it out")
        config = config._replace(layer=layer)
    if clip_seconds is None:
        return config
    longest = 20 if isinstance(config, AnyEncoderConfig) else 60
    if not 0.1 <= clip_seconds <= longest:
        raise UserError(f"--clip_seconds={clip_seconds:g} is not between 0.1 and {longest} seconds")
    return config._replace(clip_seconds=clip_seconds)
