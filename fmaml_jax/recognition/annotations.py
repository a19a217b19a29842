"""Files of annotation programs: Praat's TextGrids, ELAN's .eaf, Audacity's label tracks.

They are read as intervals, and tiers are added to what was read, all else in it left as it was.
Libraries for it were tried: of Praat's text files praatio, textgrid and pympi each misread some
(quotation marks in points, short points, 5e-05), so that the few rules of its manual are here, and
praatio writes; pympi loses what it does not know of an .eaf (CVE_REF, links of references), which
is XML.

Who speaks stands behind the name of a tier, as ELAN's users write it, "emotion@Ann", or behind a
label of Audacity's.
"""

import codecs
import math
import mimetypes
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from fmaml_jax.common.errors import UserError
from fmaml_jax.common.files import is_audio
from fmaml_jax.common.text import listed_file, name_key, one_line

TIER = "emotion"
"""The tier that `predict` writes, and that is read where no other is named."""
AT = "@"
"""Between the name of a tier, or an Audacity label, and who speaks."""
ROUNDED = 0.1
"""Seconds by which a file's length may differ from that of its sound."""

Grid = dict[str, Any]
"""A TextGrid as praatio's functions have it: xmin, xmax, and tiers with their entries."""
Document = Grid | Element
"""A TextGrid or an .eaf."""


class Interval(NamedTuple):
    """From `start` to `end`, in seconds of the sound; the label may be empty."""

    start: float
    end: float
    label: str
    speaker: str = ""


class Annotation(NamedTuple):
    """The intervals of a tier, in order, and the sound that they are about."""

    sound: Path
    intervals: list[Interval]


def is_annotation(path: Path) -> bool:
    """Whether it is a TextGrid or an .eaf by its name, or Audacity's by what it holds."""
    return is_tiered(path) or (path.suffix.lower() == ".txt" and _is_audacity(path))


def is_tiered(path: Path) -> bool:
    """Whether it is a TextGrid or an .eaf, by its name."""
    return path.suffix.lower() in (".textgrid", ".eaf")


def read_annotation(path: Path, tier: str = TIER) -> Annotation:
    """Reads the intervals of a tier, and finds their sound.

    Args:
        path: an .eaf, which names its sound, or a TextGrid or Audacity's labels, beside which lies
            sound of the same name.
        tier: the name of one; read are the tiers that are called so, and those of its speakers
            (emotion@Ann). Audacity's labels are all read.

    Raises:
        UserError: the file cannot be read, lacks the tier, has labelled intervals that overlap or
            last no time, or its sound is missing, or is a part of what it is about.
    """
    if path.suffix.lower() == ".eaf":
        root = parse_eaf(path)
        sound, origin = _media(root, path)
        found = [
            interval._replace(start=interval.start + origin, end=interval.end + origin)
            for interval in _eaf_intervals(root, path, tier)
        ]
    elif path.suffix.lower() == ".textgrid":
        sound = sound_beside(path)
        grid = parse_textgrid(path)
        _require_origin(grid, path, sound)
        found = _grid_intervals(grid, path, tier)
    else:
        sound = sound_beside(path)
        found = _audacity_intervals(path)
    return Annotation(sound, _checked(found, path))


def _checked(intervals: Iterable[Interval], path: Path) -> list[Interval]:
    """The intervals in order; those of one speaker that are labelled may not overlap."""
    ordered = sorted(intervals)
    last: dict[str, float] = {}
    for start, end, label, speaker in ordered:
        if not label.strip():
            continue
        if not 0 <= start < end:
            wrong = "before the sound; move it" if start < 0 else "no length of time; stretch it"
            raise UserError(
                f"{path} labels {one_line(label)!r} from {start:g} to {end:g} s, {wrong}, or "
                "remove it"
            )
        if start < last.get(speaker, 0.0) - 1e-3:
            raise UserError(
                f"{path} has labels that overlap at {start:g} s; end one where the other starts"
            )
        last[speaker] = end
    return ordered


def sound_beside(path: Path) -> Path:
    """The sound file of the same name beside a file.

    Raises:
        UserError: there is none, or more than one.
    """
    found = [
        other
        for other in sorted(path.parent.iterdir())
        if _composed(other.stem) == _composed(path.stem) and is_audio(other.name)
    ]
    if len(found) != 1:
        names = " and ".join(other.name for other in found)
        raise UserError(
            f"{names} lie beside {path}, and it may be of each; move the others away"
            if found
            else f"no sound is beside {path}; put the file that it is about there, under the name "
            f"{path.stem}.wav or another kind of sound"
        )
    return found[0]


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _speaker_of(name: str, tier: str) -> str | None:
    """Who speaks in a tier of the name, "" where that is not said; None where it is another."""
    own, at, speaker = name.rpartition(AT)
    if name_key(name) == name_key(tier):
        return ""
    return speaker.strip() if at and name_key(own) == name_key(tier) else None


def _chosen(names: Sequence[str], path: Path, tier: str) -> list[tuple[int, str]]:
    """The numbers and speakers of the tiers that are asked for."""
    speakers = [_speaker_of(name, tier) for name in names]
    chosen = [(number, who) for number, who in enumerate(speakers) if who is not None]
    if not chosen:
        listed = ", ".join(map(one_line, names)) or "none"
        raise UserError(f"{path} has no tier {tier!r}; choose one with --tier: it has {listed}")
    return chosen


def parse(path: Path) -> Document:
    """Reads a TextGrid or an .eaf with all that it holds.

    Raises:
        UserError: it cannot be read.
    """
    return parse_eaf(path) if path.suffix.lower() == ".eaf" else parse_textgrid(path)


def with_tiers(document: Document, tiers: Iterable[tuple[str, Sequence[Interval]]]) -> str:
    """The text of a document after intervals were put into tiers of it, the last where not there.

    Args:
        document: new, or one that was read; it is changed.
        tiers: the name of each, and its intervals in order.

    Raises:
        UserError: the annotations of a tier are parts of another's.
    """
    for name, intervals in tiers:
        if isinstance(document, Element):
            _add_to_eaf(document, name, intervals)
        else:
            _add_to_grid(document, name, intervals)
    return _eaf_text(document) if isinstance(document, Element) else _grid_text(document)


def require_room(document: Document, path: Path, tier: str) -> None:
    """Checks that the tiers of a name, and of its speakers, hold nothing that would be lost.

    Raises:
        UserError: one has intervals, with labels or without, or points.
    """
    if isinstance(document, Element):
        held = [(each.get("TIER_ID", ""), len(each) > 0) for each in document.iter("TIER")]
    else:
        held = [
            (each["name"], len(each["entries"]) > 1 or any(e[-1].strip() for e in each["entries"]))
            for each in document["tiers"]
        ]
    for name, filled in held:
        if filled and _speaker_of(name, tier) is not None:
            raise UserError(
                f"the tier {name!r} of {path} is filled already; name another one with --tier"
            )


def require_length(document: Document, path: Path, seconds: float) -> None:
    """Checks that a TextGrid, which has a length, may be of a recording of so many seconds.

    Raises:
        UserError: it is shorter or longer.
    """
    if not isinstance(document, Element) and abs(document["xmax"] - seconds) > ROUNDED:
        raise UserError(
            f"{path} lasts {document['xmax']:g} s, and the recording {seconds:g} s; give the "
            "TextGrid of this recording"
        )


def _require_origin(grid: Grid, path: Path, sound: Path) -> None:
    """Checks whose times a TextGrid of a part has: those of the whole, which Praat may leave it.

    Raises:
        UserError: the sound is the part alone, which begins at 0.
    """
    from fmaml_jax.audio.decoding import AudioError, probe  # --help does not wait for it

    try:
        seconds = probe(sound).seconds
    except AudioError:  # is said with the clips
        return
    if grid["xmin"] > 0 and grid["xmax"] > seconds + ROUNDED:
        raise UserError(
            f"{path} is from {grid['xmin']:g} to {grid['xmax']:g} s of a recording, and {sound} "
            f"lasts {seconds:g} s; shift its times to 0 in Praat, or give the whole recording"
        )


def _read_text(path: Path, what: str) -> str:
    """Text in UTF-8, or by its byte-order mark in UTF-16, which Praat writes where it must."""
    try:
        raw = path.read_bytes()
        is_utf16 = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        return raw.decode("utf-16" if is_utf16 else "utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not {what} in UTF-8 or UTF-16; save it as one") from error


# Praat's TextGrid.

_WORD = re.compile(r'"((?:[^"]|"")*)"|(?<!\S)([-+]?[\d.]+(?:[eE][-+]?\d+)?)(?!\S)|!.*')
"""What counts in Praat's text files: texts, and numbers that stand alone; not what ! begins."""


def parse_textgrid(path: Path) -> Grid:
    """Reads a TextGrid, in Praat's long text form or its short one, which has the same words.

    Raises:
        UserError: it cannot be read.
    """
    text = _read_text(path, "a TextGrid")
    words = (
        word[1].replace('""', '"') if word[1] is not None else float(word[2])
        for word in _WORD.finditer(text)
        if word.lastindex
    )

    def take(kind: type) -> Any:
        word = next(words, None)
        if not isinstance(word, kind) or word in (math.inf, -math.inf):
            raise ValueError(word)
        return word

    def tier() -> Grid:
        kind = take(str)
        times = {"IntervalTier": 2, "TextTier": 1}[kind]
        head = {"class": kind, "name": take(str), "xmin": take(float), "xmax": take(float)}
        entries = [
            (*(take(float) for _ in range(times)), take(str)) for _ in range(int(take(float)))
        ]
        return {**head, "entries": entries}

    try:
        if not take(str).startswith("ooTextFile") or take(str) != "TextGrid":
            raise ValueError
        span = {"xmin": take(float), "xmax": take(float)}
        return {**span, "tiers": [tier() for _ in range(int(take(float)))]}
    except (KeyError, OverflowError, ValueError) as error:
        raise UserError(
            f"{path} is not a TextGrid that can be read; save it as a text file in Praat"
        ) from error


def _grid_intervals(grid: Grid, path: Path, tier: str) -> Iterator[Interval]:
    tiers = grid["tiers"]
    for number, speaker in _chosen([each["name"] for each in tiers], path, tier):
        if tiers[number]["class"] != "IntervalTier":
            raise UserError(
                f"the tier {tiers[number]['name']!r} of {path} has points, which last no time; "
                "name one of intervals with --tier"
            )
        for start, end, label in tiers[number]["entries"]:
            yield Interval(start, end, label, speaker)


def new_grid(seconds: float) -> Grid:
    """A TextGrid without tiers."""
    return {"xmin": 0.0, "xmax": seconds, "tiers": []}


def _add_to_grid(grid: Grid, name: str, intervals: Iterable[Interval]) -> None:
    """Puts intervals, which are in order, into the tier of the name, last where there is none."""
    low, high = grid["xmin"], grid["xmax"]
    entries = [
        (max(low, start), min(high, end), one_line(label))
        for start, end, label, _ in intervals
        if max(low, start) < min(high, end)
    ]
    same = (tier for tier in grid["tiers"] if name_key(tier["name"]) == name_key(name))
    if not (tier := next(same, None)):
        tier = {"name": name, "xmin": low, "xmax": high}
        grid["tiers"].append(tier)
    tier |= {"class": "IntervalTier", "entries": [*_without_gaps(entries, low, high)]}


def _without_gaps(
    entries: Iterable[tuple[float, float, str]], low: float, high: float
) -> Iterator[tuple[float, float, str]]:
    """With the empty intervals that Praat wants between, before and after them."""
    for start, end, label in entries:
        if low < start:
            yield low, start, ""
        yield start, end, label
        low = end
    if low < high:
        yield low, high, ""


def _grid_text(grid: Grid) -> str:
    """The TextGrid in Praat's long text form."""
    from praatio.utilities.textgrid_io import getTextgridAsStr  # --help does not wait for it

    return getTextgridAsStr(grid, "long_textgrid", includeBlankSpaces=False)


# ELAN's .eaf.

_MILLISECONDS = re.compile(r"-?\d{1,15}")
_PLACE = re.compile(r"[\w.+-]+:(//[^/]*)?")
"""What stands before the path in an address; ELAN escapes neither # nor ? behind it."""


def parse_eaf(path: Path) -> Element:
    """Reads an .eaf with all that it holds.

    Raises:
        UserError: it cannot be read.
    """
    builder = ElementTree.TreeBuilder(insert_comments=True)
    try:
        root = ElementTree.parse(path, ElementTree.XMLParser(target=builder)).getroot()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # the last two: its encoding
        raise UserError(f"{path} is not XML ({error}); save it in ELAN again") from error
    if root.tag != "ANNOTATION_DOCUMENT":
        raise UserError(f"{path} is not an annotation of ELAN; save it in ELAN again")
    header = root.find("HEADER")
    units = "" if header is None else header.get("TIME_UNITS", "")
    if units not in ("", "milliseconds"):
        raise UserError(f"{path} counts time in {units}; save it in ELAN in milliseconds")
    for tag, key in (("TIME_SLOT", "TIME_VALUE"), ("MEDIA_DESCRIPTOR", "TIME_ORIGIN")):
        for value in (each.get(key, "0") for each in root.iter(tag)):
            if not _MILLISECONDS.fullmatch(value):
                raise UserError(
                    f"{path} has the {key} {value[:20]!r}, no number of milliseconds; save it in "
                    "ELAN again"
                )
    return root


def _media(root: Element, path: Path) -> tuple[Path, float]:
    """The sound that an .eaf is about, and which of its seconds is 0 in the .eaf."""
    found = [*_descriptors(root)]
    for places, origin in found:
        for place in places:
            file = listed_file(path.parent, place)
            if place and is_audio(file.name) and os.path.isfile(file):
                return file, origin
    try:
        return sound_beside(path), 0.0
    except UserError as error:
        if found:
            names = " and ".join(places[-1] for places, _ in found)
            raise UserError(
                f"{path} is about {names}, which is missing; put it beside the .eaf"
            ) from error
        raise


def _descriptors(root: Element) -> Iterator[tuple[tuple[str, ...], float]]:
    """Where each medium may be, the last its name, and which of its seconds is 0 in the .eaf."""
    for media in root.iter("MEDIA_DESCRIPTOR"):
        url = unquote(_PLACE.sub("", media.get("MEDIA_URL", ""), 1))
        relative = media.get("RELATIVE_MEDIA_URL", "")
        name = re.split(r"[/\\]", url or relative)[-1]
        origin = int(media.get("TIME_ORIGIN", "0")) / 1000
        yield (relative, unquote(relative), url, name), origin


def origin_in(document: Document, recording: str) -> float | None:
    """Which second of a recording is 0 in a document; None where that is about others by name."""
    media = [*_descriptors(document)] if isinstance(document, Element) else []
    stem = _composed(Path(recording).stem)
    own = [origin for (*_, name), origin in media if _composed(Path(name).stem) == stem]
    return own[0] if own else None if media else 0.0


def since(origin: float, intervals: Iterable[Interval]) -> list[Interval]:
    """Intervals of a recording by the times of a document that begins at its second `origin`."""
    return [
        each._replace(start=max(0.0, each.start - origin), end=each.end - origin)
        for each in intervals
        if each.end > origin
    ]


def _eaf_intervals(root: Element, path: Path, tier: str) -> Iterator[Interval]:
    times = {slot.get("TIME_SLOT_ID"): slot.get("TIME_VALUE") for slot in root.iter("TIME_SLOT")}
    annotations = {
        one.get("ANNOTATION_ID"): one
        for kind in ("ALIGNABLE_ANNOTATION", "REF_ANNOTATION")
        for one in root.iter(kind)
    }

    def span(annotation: Element) -> tuple[float, float]:
        """When it is said, or what it refers to."""
        seen = set()
        while annotation.tag == "REF_ANNOTATION" and annotation not in seen:
            seen.add(annotation)
            annotation = annotations[annotation.get("ANNOTATION_REF")]
        start, end = (times[annotation.get(f"TIME_SLOT_REF{side}")] for side in (1, 2))
        return int(start or "") / 1000, int(end or "") / 1000

    tiers = root.findall("TIER")
    for number, speaker in _chosen([each.get("TIER_ID", "") for each in tiers], path, tier):
        who = speaker or tiers[number].get("PARTICIPANT", "")
        for one in tiers[number].findall("ANNOTATION/*"):
            if not one.get("ANNOTATION_ID"):  # a comment
                continue
            label = one.findtext("ANNOTATION_VALUE") or ""
            try:
                yield Interval(*span(one), label, who)
            except (KeyError, ValueError) as error:
                if not label.strip():
                    continue
                raise UserError(
                    f"{path} does not say when {one_line(label)!r} begins and ends; align it in "
                    "ELAN"
                ) from error


def new_eaf(sound: str) -> Element:
    """An .eaf without tiers, about a sound file."""
    schema = "{http://www.w3.org/2001/XMLSchema-instance}noNamespaceSchemaLocation"
    now = datetime.now(UTC).isoformat(timespec="seconds")
    root = Element(
        "ANNOTATION_DOCUMENT",
        {"AUTHOR": "fmaml_jax", "DATE": now, "FORMAT": "3.0", "VERSION": "3.0"},
    )
    root.set(schema, "http://www.mpi.nl/tools/elan/EAFv3.0.xsd")
    header = SubElement(root, "HEADER", MEDIA_FILE="", TIME_UNITS="milliseconds")
    path = Path(sound)
    kind = "audio/x-wav" if path.suffix.lower() == ".wav" else mimetypes.guess_type(sound)[0]
    SubElement(
        header,
        "MEDIA_DESCRIPTOR",
        MEDIA_URL=path.absolute().as_uri(),
        RELATIVE_MEDIA_URL=f"./{path.name}",
        MIME_TYPE=kind or "unknown",
    )
    SubElement(root, "TIME_ORDER")
    return root


def _add_to_eaf(root: Element, name: str, intervals: Sequence[Interval]) -> None:
    """Puts intervals, which are in order, into the tier of the name, last where there is none.

    Raises:
        UserError: the tier is there, and its annotations are parts of another's.
    """
    order = root.find("TIME_ORDER")
    if order is None:
        raise UserError("the .eaf has no TIME_ORDER; save it in ELAN again")
    key = name_key(name)
    same = (tier for tier in root.findall("TIER") if name_key(tier.get("TIER_ID", "")) == key)
    if (tier := next(same, None)) is None:
        tier = Element("TIER", LINGUISTIC_TYPE_REF=_own_times(root), TIER_ID=name)
        if intervals and intervals[0].speaker:
            tier.set("PARTICIPANT", intervals[0].speaker)
        root.insert(1 + max(map(list(root).index, [order, *root.findall("TIER")])), tier)
    elif tier.get("PARENT_REF"):
        raise UserError(
            f"the tier {name!r} depends on {tier.get('PARENT_REF')!r}; name another one with --tier"
        )
    slot, number = (
        1 + max(int(re.sub(r"\D", "", each.get(key, "0")) or 0) for each in root.iter())
        for key in ("TIME_SLOT_ID", "ANNOTATION_ID")
    )
    new = []
    for start, end, label, _ in intervals:
        edges = {f"TIME_SLOT_REF{side}": f"ts{slot + side - 1}" for side in (1, 2)}
        for time, place in zip((start, end), edges.values(), strict=True):
            value = str(round(1000 * time))
            new.append(Element("TIME_SLOT", TIME_SLOT_ID=place, TIME_VALUE=value))
        one = SubElement(
            SubElement(tier, "ANNOTATION"),
            "ALIGNABLE_ANNOTATION",
            {"ANNOTATION_ID": f"a{number}", **edges},
        )
        SubElement(one, "ANNOTATION_VALUE").text = one_line(label)
        slot, number = slot + 2, number + 1
    order[:] = _in_order([*order], new)
    for last in root.iterfind("HEADER/PROPERTY[@NAME='lastUsedAnnotationId']"):
        last.text = str(number - 1)


def _own_times(root: Element) -> str:
    """A type of tiers whose annotations have times of their own; made where there is none."""
    for kind in root.iter("LINGUISTIC_TYPE"):
        if kind.get("TIME_ALIGNABLE") == "true" and not kind.get("CONSTRAINTS"):
            return kind.get("LINGUISTIC_TYPE_ID", "")
    taken = {kind.get("LINGUISTIC_TYPE_ID") for kind in root.iter("LINGUISTIC_TYPE")}
    name = next(name for name in ("default-lt", "time-aligned", "own times") if name not in taken)
    kind = Element("LINGUISTIC_TYPE", GRAPHIC_REFERENCES="false", TIME_ALIGNABLE="true")
    kind.set("LINGUISTIC_TYPE_ID", name)
    before = [each for each in root if each.tag in ("LICENSE", "HEADER", "TIME_ORDER", "TIER")]
    root.insert(1 + list(root).index(before[-1]), kind)
    return name


def _in_order(there: Sequence[Element], new: Sequence[Element]) -> list[Element]:
    """Time slots by their time; those without one stay behind the one that they stood behind."""
    keyed, time = [], 0
    for slot in there:
        time = int(slot.get("TIME_VALUE", time))
        keyed.append((time, slot))
    keyed += [(int(slot.get("TIME_VALUE", 0)), slot) for slot in new]
    return [slot for _, slot in sorted(keyed, key=lambda pair: pair[0])]


def _eaf_text(root: Element) -> str:
    """The .eaf as ELAN writes it."""
    ElementTree.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(root, "unicode")}\n'


# Audacity's label track.

_LABEL = re.compile(r"\s*(-?\d+[.,]?\d*)\t\s*(-?\d+[.,]?\d*)(?:\t(.*))?")
"""Start, end and label; a line that begins with a backslash has frequencies, and is none."""


def _is_audacity(path: Path) -> bool:
    try:
        lines = _read_text(path, "a label track").splitlines()
    except UserError:
        return False
    return _LABEL.fullmatch(next(filter(str.strip, lines), "")) is not None


def _audacity_intervals(path: Path) -> Iterator[Interval]:
    for number, line in enumerate(_read_text(path, "a label track").splitlines(), 1):
        if not line.strip() or line.startswith("\\"):
            continue
        if not (found := _LABEL.fullmatch(line)):
            raise UserError(f"line {number} of {path} is not a start, an end and a label; mend it")
        start, end = (float(found[side].replace(",", ".")) for side in (1, 2))
        label, _, speaker = (found[3] or "").partition(AT)
        yield Interval(start, end, label, speaker.strip())
