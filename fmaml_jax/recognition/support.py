"""The labelled clips of an enrolment: read from folders, tables, annotations, and looked over."""

import collections
import hashlib
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from fmaml_jax.audio.decoding import AudioError, probe, read_clip
from fmaml_jax.audio.memory import IN_MEMORY, Source, as_file, is_one_sound, source_name
from fmaml_jax.audio.quality import (
    FAR_FROM_SPEECH,
    QUIET,
    clip_findings,
    far_from_speech,
    in_sum,
)
from fmaml_jax.audio.voice_activity import Samples
from fmaml_jax.common.errors import UserError, require_kind
from fmaml_jax.common.files import is_audio, is_hidden, passed_over, require_there, walk
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
MOST_NAMED = 4
"""Folders that a message names."""
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

    def __repr__(self) -> str:
        return f"<LabelledClip {self.name!r}: {self.label}>"


class _Row(NamedTuple):
    file: Source
    label: str
    speaker: str = ""
    part: tuple[float, float | None] = (0.0, None)
    place: str = ""
    name: str = IN_MEMORY


def read_support(
    support: str | os.PathLike | Mapping[str, Iterable[Source]],
    start: Start,
    tier: str = "",
    find_speakers: bool = False,
    report: Callable[[int, int], Any] = lambda done, total: None,
) -> list[LabelledClip]:
    """Reads a folder that has a folder for each label, a CSV, an annotation, or clips by label.

    A CSV (see `read_table`) has the columns file and label and may have start, end and speaker. Its
    files are relative to its folder; start and end are seconds within the file. An annotation is a
    TextGrid, an .eaf or Audacity's labels (see `read_annotation`). In what `predict` wrote, and in
    annotations, segments that are unsure or have no label are passed over, and counted on standard
    error; what is longer than a clip may be is cut.

    Args:
        support: what to read.
        start: what the clips will be enrolled in.
        tier: the tier of annotations that has the labels, "" for "emotion"; where it is given, a
            folder is one of TextGrids and .eaf files.
        find_speakers: takes those for the speakers who are heard in the clips (`voices`), whatever
            is said of them. The embeddings of their voices end here.
        report: is told how many clips are read, and of how many, again and again.

    Raises:
        UserError: there is no clip, or one cannot be used; see `read_clip_as`; or there are no
            weights of the encoder that hears voices.
    """
    hear_voices = voice_describer(start.encoder) if find_speakers else None
    if isinstance(support, Mapping) and tier:
        raise UserError(f"a mapping has no tiers, and no tier={tier}; leave it out")
    rows = (
        _rows_by_label(support)
        if isinstance(support, Mapping)
        else _rows(Path(support), start, tier)
    )
    clips, embeddings = [], []
    report(0, len(rows))
    for first in range(0, len(rows), AT_ONCE):
        some = rows[first : first + AT_ONCE]
        read = [_read_row(row, start) for row in some]
        clips += _described(read, start)
        if hear_voices:
            sounds = [samples for _, samples in read]
            embeddings += [*hear_voices(sounds, [whole(samples) for samples in sounds])]
        report(first + len(some), len(rows))
    if hear_voices:
        numbers = voices.find_speakers(np.stack(embeddings))
        named = zip(clips, numbers, strict=True)
        clips = [clip._replace(speaker=f"voice {number + 1}") for clip, number in named]
    return clips


def read_clip_as(
    source: Source,
    label: str,
    start: Start,
    speaker: str = "",
    part: tuple[float, float | None] = (0.0, None),
) -> LabelledClip:
    """Reads one clip, describes it as the start's network expects, and looks it over.

    Args:
        source: the path of a sound file, a file object, or (samples, rate); see `predict`.
        label: its class, any text; see `clean_name`.
        start: what it will be enrolled in.
        speaker: who speaks; "" where unknown. Of "channel 2", as `predict` calls the speaker of
            one, that channel alone is read, where there are several.
        part: where it begins and ends in the file, in seconds; None is the file's end.

    Raises:
        UserError: the file cannot be decoded, the clip is empty, silent or longer than
            `LONGEST_CLIP`, or the label is empty, too long or reserved.
    """
    require_kind("start", start, Start, "what load_start returns")
    require_kind("label", label, str, "its class")
    return next(_described([_read(_Row(source, label, speaker, part), start)], start))


def _read_row(row: _Row, start: Start) -> tuple[LabelledClip, Samples]:
    """As `_read`; what is wrong with a row of a table is said with its place."""
    try:
        return _read(row, start)
    except UserError as error:
        raise UserError(f"{row.place}: {error}" if row.place else str(error)) from error


def _read(row: _Row, start: Start) -> tuple[LabelledClip, Samples]:
    """As `read_clip_as`, with the samples in place of the features and of what these tell."""
    label, speaker = clean_name(row.label), clean_name(row.speaker)
    begin, end = row.part
    given = source_name(row.file)
    name = Path(given).name if given else row.name
    name += "" if row.part == (0.0, None) else f" from {begin:g} s"
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
        with as_file(row.file) as path:
            header = probe(path)
            channel = channel_of(speaker) if header.channels > 1 else None
            last = math.inf if end is None else end
            # A second too much tells what is too long, also where the header does not.
            sound = read_clip(path, begin, min(last, begin + LONGEST_CLIP + 1), channel)
            if sound.seconds > LONGEST_CLIP:
                seconds = max(sound.seconds, min(last, header.seconds) - begin)
                raise AudioError(
                    f"{seconds:,.0f} s long, and a clip is at most {LONGEST_CLIP:g} s; cut it, or "
                    "list its parts in a CSV with the columns start and end"
                )
    except AudioError as error:
        raise UserError(f"clip {name!r} cannot be used: {error}") from error
    findings = [*sound.findings, *clip_findings(sound.samples, sound.sample_rate)]
    longest = start.feature_config.clip_seconds
    if sound.seconds > longest:
        findings.append(f"longer than {longest:g} s, of which the middle alone is used")
    if end is not None and end > begin + sound.seconds + ROUNDED:
        findings.append("cut off, since the file ends earlier than its list says")
    file = os.path.realpath(row.file) if isinstance(row.file, str | os.PathLike) else ""
    clip = LabelledClip(
        name,
        label,
        speaker,
        np.empty((0, 0), np.float32),
        hashlib.sha256(sound.samples.tobytes()).hexdigest(),
        tuple(findings),
        file + (f" {speaker}" if file and channel is not None else ""),
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
            "no speakers are named: other people may be recognised less well than estimated here; "
            "name them in a CSV's column speaker"
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


def _rows(path: Path, start: Start, tier: str) -> list[_Row]:
    """The clips that a folder, a CSV or an annotation lists."""
    require_there(path, "give a folder, a CSV or an annotation (--support)")
    if path.is_dir():
        rows = _annotated_rows(path, tier) if tier else _folder_rows(path, start)
    elif is_annotation(path):
        rows = _interval_rows(path, tier or TIER)
    elif tier:
        raise UserError(f"--support={path} has no tiers, and no --tier={tier}; leave it out")
    elif is_audio(path.name):
        raise UserError(
            f"--support={path} is one recording, without labels; put clips of it into one folder "
            "for each label, or list its parts in a CSV with the columns file, label, start and end"
        )
    else:
        rows = _table_rows(path)
    if not rows and (tier or is_annotation(path)):
        raise UserError(f"--support={path} has no segment with a label; give some of them one")
    if not rows:
        raise UserError(
            f"--support={path} holds no clips; put sound files into one folder for each label, or "
            "list them in a CSV with the columns file and label"
        )
    return rows


def _rows_by_label(support: Mapping[str, Iterable[Source]]) -> list[_Row]:
    rows = []
    for label, clips in support.items():
        require_kind(f"the label {label!r}", label, str, "text, such as 'anger'")
        if is_one_sound(clips) or not isinstance(clips, Iterable):
            raise UserError(
                f"{label!r} has no list of clips; give a label's clips in one, such as "
                '{"anger": ["a.wav", (samples, rate)]}'
            )
        rows += [
            _Row(clip, label, name=f"{label} {number}") for number, clip in enumerate(clips, 1)
        ]
    if not rows:
        raise UserError("the mapping holds no clips; give a list of some for each label")
    return rows


def _folder_rows(folder: Path, start: Start) -> list[_Row]:
    """Sound files by the first folder below `folder` that they are in.

    Raises:
        UserError: a clip lies in none, or folders of classes that the start knows are within
            others, such as speakers'.
    """
    found = list(walk(folder))
    files = sorted(file for file in found if is_audio(file))
    if others := passed_over(found):
        print(one_line(f"{folder}: no sound, passed over: {others}"), file=sys.stderr)
    if stray := [file for file in files if "/" not in file]:
        annotated = any(is_tiered(folder / file) for file in found)
        raise UserError(
            f"{stray[0]} lies in no folder of a label; put each clip into a folder that is named "
            "after its emotion" + ", or name the tier that has labels: --tier=emotion" * annotated
        )
    known = set(map(name_key, (*start.emotions, *start.fixed)))
    for file in files:
        label, *below = file.split("/")[:-1]
        inner = next((name for name in below if name_key(name) in known), None)
        if inner and name_key(label) not in known:
            raise UserError(
                f"{file} lies in a folder {inner!r} within {label!r}, and the outer one is the "
                f"label; put the folders of labels outside ({inner}/{label}), or list the "
                "clips in a CSV with the columns file, label and speaker"
            )
    if nested := sorted(
        {"/".join(parts[:2]) for file in files if len(parts := file.split("/")) > 2}
    ):
        print(
            one_line(
                f"{folder}: the label is the outer folder's name; folders within are not told "
                f"apart: {', '.join(nested[:MOST_NAMED])}" + ", ..." * (len(nested) > MOST_NAMED)
            ),
            file=sys.stderr,
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
            file = file if os.path.exists(file) else listed_file(Path(), row.cells["file"])
        if not os.path.exists(file):
            raise UserError(
                f"{row.place} lists {row.cells['file']!r}, and there is no {file.absolute()}; give "
                "each path as it is seen from the folder of the CSV"
            )
        rows.append(_Row(file, row.cells["label"], speaker, read_part(row), row.place))
    return _without_doubts(rows, path) if predicted else rows


def _annotated_rows(folder: Path, tier: str) -> list[_Row]:
    """The intervals of all TextGrids and .eaf files below a folder."""
    files = sorted(file for file in walk(folder) if is_tiered(Path(file)) and not is_hidden(file))
    if not files:
        raise UserError(f"{folder} holds neither TextGrids nor .eaf files, as --tier={tier} needs")
    return [row for file in files for row in _interval_rows(folder / file, tier)]


def _interval_rows(path: Path, tier: str) -> list[_Row]:
    sound, intervals = read_annotation(path, tier)
    rows = [
        _Row(sound, label, speaker, (start, end), str(path))
        for start, end, label, speaker in intervals
    ]
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
    return [row] if end is None else [row._replace(part=part) for part in clips_of(start, end)]


def clips_of(start: float, end: float) -> list[tuple[float, float]]:
    """Where the clips of a labelled stretch begin and end, in seconds.

    It is one, or where it is longer than a clip may be, equal ones of at most `CLIP_SECONDS`.
    """
    number = 1 if end - start <= LONGEST_CLIP else math.ceil((end - start) / CLIP_SECONDS)
    return [*pairwise(np.linspace(start, end, number + 1).tolist())]
