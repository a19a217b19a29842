"""The labelled clips of an enrolment: read from folders, tables, annotations, and looked over."""

import collections
import hashlib
import math
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations, pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from fmaml_jax.audio.decoding import AudioError, probe, read_clip
from fmaml_jax.audio.quality import (
    FAR_FROM_SPEECH,
    QUIET,
    clip_findings,
    far_from_speech,
    in_sum,
)
from fmaml_jax.audio.voice_activity import Samples
from fmaml_jax.common.console import progress
from fmaml_jax.common.errors import UserError
from fmaml_jax.common.files import is_audio, is_hidden, passed_over, walk
from fmaml_jax.common.text import (
    clean_name,
    is_text,
    listed_file,
    name_key,
    one_line,
    one_spelling,
    read_part,
    read_table,
    require_name,
)
from fmaml_jax.data.scale import scaled
from fmaml_jax.encoder.features import describer, voice_describer
from fmaml_jax.recognition import voices
from fmaml_jax.recognition.annotations import TIER, is_annotation, is_tiered, read_annotation
from fmaml_jax.recognition.checkpoint import Start
from fmaml_jax.recognition.speakers import channel_of
from fmaml_jax.recognition.timeline import CLIP_SECONDS, UNSURE, whole

LONGEST_CLIP = 60.0
"""Seconds; what is longer is no clip of one emotion."""
ROUNDED = 0.1
"""Seconds by which a part may end after its file, or after the next starts: tables round times."""
AT_ONCE = 32
"""Clips of a support that are described at once."""
ENOUGH_CLIPS = 5
"""Of a class; fewer are warned of."""


class LabelledClip(NamedTuple):
    """One clip of the support.

    Attributes:
        name: what messages call it.
        label: its class.
        speaker: "" where unknown.
        features: as the start's network was trained on, before scaling.
        digest: SHA-256 of its samples.
        findings: what may be wrong with it, each the end of a sentence.
        file: path, and channel where it is one, of what it is a part of; "" where it is of none.
        part: where it begins and ends in the file, in seconds.
    """

    name: str
    label: str
    speaker: str
    features: Float32[np.ndarray, "frames coeffs"]
    digest: str
    findings: tuple[str, ...]
    file: str = ""
    part: tuple[float, float] = (0.0, math.inf)


class _Row(NamedTuple):
    file: Path
    label: str
    speaker: str = ""
    part: tuple[float, float | None] = (0.0, None)


def read_support(
    path: str | os.PathLike, start: Start, tier: str = "", find_speakers: bool = False
) -> list[LabelledClip]:
    """Reads a folder that has a folder for each label, a CSV, or an annotation of sound.

    A CSV (see `read_table`) has the columns file and label and may have start, end and speaker. Its
    files are relative to its folder; start and end are seconds within the file. An annotation is a
    TextGrid, an .eaf or Audacity's labels (see `read_annotation`). In what `predict` wrote, and in
    annotations, segments that are unsure or have no label are passed over, and counted on standard
    error; what is longer than a clip may be is cut.

    Args:
        path: what to read.
        start: what the clips will be enrolled in.
        tier: the tier of annotations that has the labels, "" for "emotion"; where it is given, a
            folder is one of TextGrids and .eaf files.
        find_speakers: takes those for the speakers who are heard in the clips (`voices`), whatever
            is said of them. The embeddings of their voices end here.

    Raises:
        UserError: there is no clip, or one cannot be used; see `read_clip_as`; or there are no
            weights of the encoder that hears voices.
    """
    path = Path(path)
    hear_voices = voice_describer(start.encoder) if find_speakers else None
    if not path.exists():
        raise UserError(f"--support={path} does not exist; give a folder, a CSV or an annotation")
    if path.is_dir():
        rows = _annotated_rows(path, tier) if tier else _folder_rows(path)
    elif is_annotation(path):
        rows = _interval_rows(path, tier or TIER)
    elif tier:
        raise UserError(f"--support={path} has no tiers, and no --tier={tier}; leave it out")
    else:
        rows = _table_rows(path)
    if not rows:
        raise UserError(
            f"--support={path} holds no clips; put sound files into one folder for each label, or "
            "list them in a CSV with the columns file and label"
        )
    clips, embeddings = [], []
    with progress("reading", len(rows), " clips") as bar:
        for first in range(0, len(rows), AT_ONCE):
            some = rows[first : first + AT_ONCE]
            read = [_read(row.file, row.label, start, row.speaker, row.part) for row in some]
            clips += _described(read, start)
            if hear_voices:
                sounds = [samples for _, samples in read]
                embeddings += [*hear_voices(sounds, [whole(samples) for samples in sounds])]
            bar.update(len(some))
    if hear_voices:
        numbers = voices.find_speakers(np.stack(embeddings))
        named = zip(clips, numbers, strict=True)
        clips = [clip._replace(speaker=f"voice {number + 1}") for clip, number in named]
    return clips


def read_clip_as(
    path: str | os.PathLike,
    label: str,
    start: Start,
    speaker: str = "",
    part: tuple[float, float | None] = (0.0, None),
) -> LabelledClip:
    """Reads one clip, describes it as the start's network expects, and looks it over.

    Args:
        path: a sound file.
        label: its class, any text; see `clean_name`.
        start: what it will be enrolled in.
        speaker: who speaks; "" where unknown. Of "channel 2", as `predict` calls the speaker of
            one, that channel alone is read, where there are several.
        part: where it begins and ends in the file, in seconds; None is the file's end.

    Raises:
        UserError: the file cannot be decoded, the clip is empty, silent or longer than
            `LONGEST_CLIP`, or the label is empty, too long or reserved.
    """
    return next(_described([_read(path, label, start, speaker, part)], start))


def _read(
    path: str | os.PathLike,
    label: str,
    start: Start,
    speaker: str,
    part: tuple[float, float | None],
) -> tuple[LabelledClip, Samples]:
    """As `read_clip_as`, with the samples in place of the features and of what these tell."""
    label, speaker = clean_name(label), clean_name(speaker)
    begin, end = part
    name = Path(path).name + ("" if part == (0.0, None) else f" from {begin:g} s")
    if not name_key(label):
        raise UserError(f"clip {name!r} has no label; give it one")
    if not is_text(label):
        raise UserError(f"clip {name!r} has the label {label!r}, no text; rename it")
    require_name(label, "label")
    require_name(speaker, "speaker")
    if name_key(label) == UNSURE:
        raise UserError(
            f"no class can be called {label!r}, which is an answer; choose another name"
        )
    try:
        header = probe(path)
        channel = channel_of(speaker) if header.channels > 1 else None
        last = math.inf if end is None else end
        # A second too much tells what is too long, also where the header does not.
        sound = read_clip(path, begin, min(last, begin + LONGEST_CLIP + 1), channel)
        if sound.seconds > LONGEST_CLIP:
            seconds = max(sound.seconds, min(last, header.seconds) - begin)
            raise AudioError(
                f"{seconds:,.0f} s long, and a clip is at most {LONGEST_CLIP:g} s; cut it, or list "
                "its parts in a CSV with the columns start and end"
            )
    except AudioError as error:
        raise UserError(f"clip {name!r} cannot be used: {error}") from error
    findings = [*sound.findings, *clip_findings(sound.samples, sound.sample_rate)]
    longest = start.feature_config.clip_seconds
    if sound.seconds > longest:
        findings.append(f"longer than {longest:g} s, of which the middle alone is used")
    if end is not None and end > begin + sound.seconds + ROUNDED:
        findings.append("cut off, since the file ends earlier than its list says")
    clip = LabelledClip(
        name,
        label,
        speaker,
        np.empty((0, 0), np.float32),
        hashlib.sha256(sound.samples.tobytes()).hexdigest(),
        tuple(findings),
        os.path.realpath(path) + (f" {speaker}" if channel is not None else ""),
        (begin, begin + sound.seconds),
    )
    return clip, sound.samples


def _described(
    read: Sequence[tuple[LabelledClip, Samples]], start: Start
) -> Iterator[LabelledClip]:
    """Clips with their features, all at once: an encoder hears several in one go."""
    describe = describer(start.feature_config, start.encoder)
    features = describe([samples for _, samples in read])
    far = far_from_speech(scaled(features, start.scale))
    for (clip, _), own, is_far in zip(read, features, far, strict=True):
        strange = (FAR_FROM_SPEECH,) * bool(is_far and QUIET not in clip.findings)
        yield clip._replace(features=own, findings=(*clip.findings, *strange))


def look_over(
    clips: Sequence[LabelledClip], fixed: Sequence[str]
) -> tuple[list[LabelledClip], list[str]]:
    """Leaves copies out, and says in sentences what may be wrong with the clips together.

    Labels, and speakers, that are one by `name_key` become one, as it was written first.

    Args:
        clips: all clips.
        fixed: labels of clips that may well be silent, or far from speech.

    Raises:
        UserError: parts of a file that overlap have different labels.
    """
    labels = one_spelling(clip.label for clip in clips)
    speakers = one_spelling(clip.speaker for clip in clips)
    clips = [
        clip._replace(label=label, speaker=speaker)
        for clip, label, speaker in zip(clips, labels, speakers, strict=True)
    ]
    by_digest = collections.defaultdict(list)
    for clip in clips:
        by_digest[clip.digest].append(clip)
    kept, warnings = [], []
    for clip in clips:
        first, *_ = same = by_digest[clip.digest]
        if len({other.label for other in same}) > 1:
            if clip is first:
                names = ", ".join(f"{other.name!r} ({other.label})" for other in same)
                warnings.append(f"the same recording has different labels and is left out: {names}")
        elif clip is first:
            kept.append(clip)
        else:
            warnings.append(f"{clip.name!r} is a copy of {first.name!r} and is left out")
    _refuse_contradictions(kept)
    counts = collections.Counter(clip.label for clip in kept)
    warnings += [
        f"{label!r} has {count} clip{'s' * (count > 1)}; {ENOUGH_CLIPS} or more, of several "
        "voices, are better"
        for label, count in counts.items()
        if count < ENOUGH_CLIPS
    ]
    speakers = {clip.speaker for clip in kept}
    if speakers == {""}:
        warnings.append(
            "it is not said who speaks: if they are few voices, others will be recognised worse "
            "than estimated here"
        )
    elif len(speakers) == 1:
        warnings.append(
            "all clips are of one speaker: other voices will be recognised worse than "
            "estimated here"
        )
    return kept, warnings + describe_findings(kept, fixed)


def _refuse_contradictions(clips: Sequence[LabelledClip]) -> None:
    by_file = collections.defaultdict(list)
    for clip in clips:
        if clip.file:
            by_file[clip.file].append(clip)
    for parts in by_file.values():
        for first, second in combinations(sorted(parts, key=lambda clip: clip.part), 2):
            shared = min(first.part[1], second.part[1]) - second.part[0]
            if shared > ROUNDED and first.label != second.label:
                raise UserError(
                    f"{first.name!r} ({first.label}) and {second.name!r} ({second.label}) share "
                    f"{shared:.1f} s, which have one label alone; end one where the other starts, "
                    "or leave it out"
                )


def describe_findings(clips: Sequence[LabelledClip], fixed: Sequence[str]) -> list[str]:
    """A sentence for each finding, with the clips it is about; those of `fixed` are passed over."""
    silent = set(map(name_key, fixed))
    return in_sum(
        (clip.name, clip.findings) for clip in clips if name_key(clip.label) not in silent
    )


def _folder_rows(folder: Path) -> list[_Row]:
    """Sound files by the first folder below `folder` that they are in."""
    found = list(walk(folder))
    files = sorted(file for file in found if is_audio(file))
    if others := passed_over(found):
        print(one_line(f"{folder}: no sound, passed over: {others}"), file=sys.stderr)
    if stray := [file for file in files if "/" not in file]:
        annotated = any(is_tiered(folder / file) for file in found)
        raise UserError(
            f"{stray[0]} lies in no folder of a label; put each clip into a folder that is called "
            "as its emotion" + ", or name the tier that has labels: --tier=emotion" * annotated
        )
    return [_Row(folder / file, file.split("/", 1)[0]) for file in files]


def _table_rows(path: Path) -> list[_Row]:
    """Clips of a CSV; in one that `predict` wrote, with how sure it was, some may have no label."""
    rows, predicted = [], False
    for row in read_table(path, "file", "label"):
        if not row.cells["file"]:
            raise UserError(f"{row.place} names no file")
        file = listed_file(path.parent, row.cells["file"])
        speaker = row.cells.get("speaker", "")
        if "confidence" in row.cells:
            predicted = True
            file = file if file.exists() else listed_file(Path(), row.cells["file"])
        rows.append(_Row(file, row.cells["label"], speaker, read_part(row)))
    return _without_doubts(rows, path) if predicted else rows


def _annotated_rows(folder: Path, tier: str) -> list[_Row]:
    """The intervals of all TextGrids and .eaf files below a folder."""
    files = sorted(file for file in walk(folder) if is_tiered(Path(file)) and not is_hidden(file))
    if not files:
        raise UserError(f"{folder} holds neither TextGrids nor .eaf files, as --tier={tier} needs")
    return [row for file in files for row in _interval_rows(folder / file, tier)]


def _interval_rows(path: Path, tier: str) -> list[_Row]:
    sound, intervals = read_annotation(path, tier)
    rows = [_Row(sound, label, speaker, (start, end)) for start, end, label, speaker in intervals]
    return _without_doubts(rows, path)


def _without_doubts(rows: Iterable[_Row], path: Path) -> list[_Row]:
    """The rows that have a label, in parts where too long; how many are unsure or empty is said."""
    kept, doubts = [], collections.Counter()
    for row in rows:
        if (key := name_key(row.label)) in ("", UNSURE):
            doubts[key or "empty"] += 1
        else:
            kept.append(row)
    if doubts:
        said = " and ".join(f"{count} {kind}" for kind, count in sorted(doubts.items()))
        print(one_line(f"{path}: {len(kept)} labelled, passed over: {said}"), file=sys.stderr)
    return [part for row in kept for part in _parts(row)]


def _parts(row: _Row) -> list[_Row]:
    """The row, or where it is longer than a clip may be, equal parts of at most `CLIP_SECONDS`."""
    start, end = row.part
    if end is None or end - start <= LONGEST_CLIP:
        return [row]
    edges = np.linspace(start, end, math.ceil((end - start) / CLIP_SECONDS) + 1).tolist()
    return [row._replace(part=part) for part in pairwise(edges)]
