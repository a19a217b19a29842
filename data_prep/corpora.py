"""What the folders of emotional speech corpora hold: which file is which clip.

A corpus is a row of `CORPORA`: a pattern for its file names and what the codes in them mean. Two
more corpora fit any audio: `folders` (one folder a label) and `manifest` (a CSV file). Names of
labels, speakers and scenes that look the same are one (`name_key`), spelled as they come first.
"""

import collections
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from fmaml_jax.common.errors import UserError
from fmaml_jax.common.files import is_audio, passed_over, walk
from fmaml_jax.common.text import (
    Row,
    clean_name,
    did_you_mean,
    is_text,
    listed_file,
    name_key,
    one_spelling,
    read_part,
    read_table,
)
from fmaml_jax.data.dataset import NO_LANGUAGE, VIEW
from fmaml_jax.data.shards import Skipped

# EmoFilm's list has "????", "unknown male" and "unknown female" for speakers it does not know.
_UNKNOWN = re.compile(r"\?*$|unknown\b", re.IGNORECASE)
_LOSSY = re.compile(r"\.(mp[234]|og[ga]|opus|m4a|aac|wma|amr|3gp|webm)", re.IGNORECASE)
ROUNDED = 0.1
"""Seconds by which parts of one file may overlap: times in tables are rounded."""


class Corpus(NamedTuple):
    """How one published corpus names its files.

    Attributes:
        pattern: regular expression for the end of a file's path, without its suffix and whatever
            the case; folders before it do not matter. The group `emotion` is the label's code.
        labels: label of each code, which is written in lower case.
        language, speaker, scene: templates over the pattern's groups. Clips of one scene share
            their words (acted corpora) or their film scene.
        take: template of what tells one take from another, whatever its folder, format and rate;
            the group `name` is all that the pattern matches.
        skip: reason to skip a clip, by the value of the pattern's group `kind`.
        label_list: pattern of the name of a published CSV with columns file, speaker and film.
    """

    pattern: str
    labels: Mapping[str, str]
    language: str
    speaker: str = "{speaker}"
    scene: str = "{text}"
    take: str = "{name}"
    skip: Mapping[str, str] = {}
    label_list: str = ""


_ENGLISH = {  # as nEMO and MESD spell their labels
    label: label
    for label in ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")
}

CORPORA = {
    # f_ans001aen, or f_ans001aen_16k: the letter tells the clips of one scene apart.
    "emofilm": Corpus(
        r"(?P<take>(?P<gender>[fm])_(?P<emotion>[a-z]{3})(?P<text>\d{3})[a-z]"
        r"(?P<language>en|it|es))(_16k)?",
        # "dis" is disprezzo, contempt; the paper calls it disgust.
        {"ans": "fear", "dis": "disgust", "gio": "happiness", "rab": "anger", "tri": "sadness"},
        language="{language}",
        speaker="",
        scene="{gender}_{emotion}{text}",
        take="{take}",
        label_list="EmoFilm_labels*.csv",
    ),
    # 03a01Fa: speaker, text, emotion, version.
    "emodb": Corpus(
        r"(?P<speaker>\d\d)(?P<text>[ab]\d\d)(?P<emotion>[a-z])[a-z]?",
        {
            "w": "anger",
            "l": "boredom",
            "e": "disgust",
            "a": "fear",
            "f": "happiness",
            "t": "sadness",
            "n": "neutral",
        },
        language="de",
    ),
    # dis-f1-b1: emotion, speaker, sentence.
    "emovo": Corpus(
        r"(?P<emotion>[a-z]{3})-(?P<speaker>[fm]\d)-(?P<text>[a-z]\d)",
        {
            "dis": "disgust",
            "gio": "happiness",
            "neu": "neutral",
            "pau": "fear",
            "rab": "anger",
            "sor": "surprise",
            "tri": "sadness",
        },
        language="it",
    ),
    # 03-01-06-01-02-01-12: modality, channel, emotion, intensity, statement, repetition, actor. The
    # modality is 03 for audio and 01 for video, of one take.
    "ravdess": Corpus(
        r"\d\d-(?P<take>(?P<kind>\d\d)-(?P<emotion>\d\d)-\d\d-(?P<text>\d\d)-\d\d"
        r"-(?P<speaker>\d\d))",
        {
            "01": "neutral",
            "02": "calm",
            "03": "happiness",
            "04": "sadness",
            "05": "anger",
            "06": "fear",
            "07": "disgust",
            "08": "surprise",
        },
        language="en",
        take="{take}",
        skip={"02": "song"},
    ),
    # 1001_IEO_ANG_HI: actor, sentence, emotion, level.
    "cremad": Corpus(
        r"(?P<speaker>\d{4})_(?P<text>[a-z]{3})_(?P<emotion>[a-z]{3})_[a-z]{1,2}",
        {
            "ang": "anger",
            "dis": "disgust",
            "fea": "fear",
            "hap": "happiness",
            "neu": "neutral",
            "sad": "sadness",
        },
        language="en",
    ),
    # EB0_anger_14: speaker, emotion, sentence.
    "nemo": Corpus(
        r"(?P<speaker>[a-z]{2}\d)_(?P<emotion>[a-z]+)_(?P<text>\d+)", _ENGLISH, language="pl"
    ),
    # DC/a01 or DC_a01: speaker, emotion, sentence; most sentences belong to one emotion.
    "savee": Corpus(
        r"(?P<speaker>DC|JE|JK|KL)[/_](?P<emotion>[a-z]+)(?P<text>\d+)",
        {
            "a": "anger",
            "d": "disgust",
            "f": "fear",
            "h": "happiness",
            "n": "neutral",
            "sa": "sadness",
            "su": "surprise",
        },
        language="en",
        scene="{emotion}{text}",
        take="{speaker}{emotion}{text}",
    ),
    # OAF_bite_angry: speaker, word, emotion; one published file is misnamed OA_bite_neutral.
    "tess": Corpus(
        r"(?P<actress>[OY]A)F?_(?P<text>[^_/]+)_(?P<emotion>[a-z]+)",
        {
            "angry": "anger",
            "disgust": "disgust",
            "fear": "fear",
            "happy": "happiness",
            "neutral": "neutral",
            "ps": "surprise",  # "pleasant surprise"
            "sad": "sadness",
        },
        language="en",
        speaker="{actress}F",
        take="{actress}_{text}_{emotion}",
    ),
    # Anger_C_A_abajo: emotion, voice, word list, word. No speaker is named; the voice (female,
    # male, child) stands for it, so that a speaker guard keeps too much apart, never too little.
    "mesd": Corpus(
        r"(?P<emotion>[a-z]+)_(?P<speaker>[FMC])_[AB]_(?P<text>[^/]+)", _ENGLISH, language="es"
    ),
    # 01-C-1-1: actor, emotion, intensity, sentence.
    "cafe": Corpus(
        r"(?P<speaker>\d\d)-(?P<emotion>[a-z])-\d-(?P<text>\d)",
        {
            "c": "anger",
            "d": "disgust",
            "j": "happiness",
            "n": "neutral",
            "p": "fear",
            "s": "surprise",
            "t": "sadness",
        },
        language="fr",
    ),
    # a03 (4), or s05 (3)b for another take: emotion, utterance, speaker.
    "aesdd": Corpus(
        r"(?P<emotion>[a-z])(?P<text>\d\d) ?\((?P<speaker>\d+)\) ?(?P<version>[a-z]?)",
        {"a": "anger", "d": "disgust", "f": "fear", "h": "happiness", "s": "sadness"},
        language="el",
        take="{emotion}{text} ({speaker}){version}",
    ),
}
"""Published corpora by the name that --corpus takes."""

KNOWN = (*CORPORA, "folders", "manifest")
"""Every value of --corpus."""


class Clip(NamedTuple):
    """One recording; "" is an unknown field.

    Attributes:
        file: its path below the corpus folder.
        part: where it begins and ends in the file, in seconds; None is the file's end.
        copies: other files of the same take, the best first.
        view: 0 for the clip as it is, else which of its random views.
    """

    file: str
    label: str
    language: str
    speaker: str = ""
    scene: str = ""
    part: tuple[float, float | None] = (0.0, None)
    copies: tuple[str, ...] = ()
    view: int = 0


class Listing(NamedTuple):
    """What a corpus folder holds: clips, skipped files, and what else lies there."""

    clips: list[Clip]
    skipped: list[Skipped]
    ignored: str = ""


def list_clips(
    corpus: str, audio_dir: Path, language: str | None = None, manifest: Path | None = None
) -> Listing:
    """Lists the clips of a corpus by their names alone, without opening any audio.

    Of a published corpus each take is one clip, whose copies are told by their names.

    Args:
        corpus: one of `KNOWN`.
        audio_dir: the corpus folder; folders within it are searched.
        language: ISO 639 code that overrides the corpus's own; `folders` needs it, and so does a
            manifest without that column. Silence is always `NO_LANGUAGE`.
        manifest: the CSV of the corpus `manifest` (see `read_table`), by default manifest.csv in
            `audio_dir`.

    Raises:
        UserError: the corpus is unknown, the language is missing or no code, the folder or the
            manifest cannot be read, or an option does not go with the corpus.
    """
    if corpus not in KNOWN:
        raise UserError(
            f"there is no corpus {corpus!r}; --corpus is one of {', '.join(KNOWN)}"
            f"{did_you_mean(corpus, KNOWN)}"
        )
    if language is not None and not _is_code(language):
        raise UserError(f"--language={language} is not an ISO 639 code; write one such as en or de")
    if manifest is not None and corpus != "manifest":
        raise UserError(f"--manifest does not go with --corpus={corpus}; use --corpus=manifest")
    if not os.path.isdir(audio_dir):
        state = "is not a folder" if os.path.exists(audio_dir) else "does not exist"
        raise UserError(f"--audio_dir={audio_dir} {state}; give the folder of the corpus")

    if corpus == "manifest":
        found = _read_manifest(manifest or audio_dir / "manifest.csv", audio_dir, language)
        return _sort(_apart(found))
    files = sorted(walk(audio_dir))
    audio = [file for file in files if is_audio(file)]
    if corpus == "folders":
        if language is None:
            raise UserError("folders do not say which language is spoken; add --language=CODE")
        found = [_parse_folder(file, language) for file in audio]
    else:
        row = CORPORA[corpus]
        found = _join_takes(row, [parse(row, file) for file in audio], audio_dir)
        if row.label_list:
            lists = [f for f in files if PurePosixPath(f).match(row.label_list)]
            found = _join(found, _read_label_lists(audio_dir / file for file in lists))
    if language is not None:
        found = [
            item._replace(language=language) if isinstance(item, Clip) else item for item in found
        ]
    return _sort(found, passed_over(files))


def parse(row: Corpus, file: str) -> Clip | Skipped:
    """Reads a clip's label, language, speaker and scene from its posix path."""
    match = _match(row, file)
    if match is None:
        return Skipped(file, "the name matches nothing of this corpus")
    parts = match.groupdict()
    if reason := row.skip.get(parts.get("kind", "")):
        return Skipped(file, reason)
    label = row.labels.get(parts["emotion"].lower())
    if label is None:
        return Skipped(file, f"the label code {parts['emotion']!r} is unknown")
    return Clip(
        file,
        label,
        row.language.format(**parts).lower(),
        row.speaker.format(**parts),
        row.scene.format(**parts).lower(),
    )


def take_of(row: Corpus, file: str) -> str:
    """What a file that `parse` knows has in common with other files of the same take."""
    match = _match(row, file)
    return row.take.format(**match.groupdict()).lower() if match else file


def _match(row: Corpus, file: str) -> re.Match[str] | None:
    return re.fullmatch(rf"(?:.*/)?(?P<name>{row.pattern})", stem(file), re.IGNORECASE)


def _join_takes(
    row: Corpus, found: Sequence[Clip | Skipped], audio_dir: Path
) -> list[Clip | Skipped]:
    """Makes the files of each take one clip, of its best file."""
    takes = collections.defaultdict(list)
    for item in found:
        if isinstance(item, Clip):
            takes[take_of(row, item.file)].append(item)
    joined: list[Clip | Skipped] = [item for item in found if isinstance(item, Skipped)]
    for clips in takes.values():
        best, *others = sorted(clips, key=lambda clip: _quality(audio_dir, clip.file), reverse=True)
        joined.append(best._replace(copies=tuple(clip.file for clip in others)))
    return joined


def _quality(audio_dir: Path, file: str) -> tuple[bool, int, str]:
    """What sorts the copies of a take: lossless, large (of a high rate), last in name.

    The last of RAVDESS's names is that of the sound which is not taken from a video.
    """
    path = audio_dir / file
    size = os.path.getsize(path) if os.path.exists(path) else 0
    return not _LOSSY.fullmatch(path.suffix), size, path.name


def stem(file: str) -> str:
    """A posix path without the suffix of its last part."""
    return PurePosixPath(file).with_suffix("").as_posix()


def _parse_folder(file: str, language: str) -> Clip | Skipped:
    folder = PurePosixPath(file).parent.name
    if not folder:
        return Skipped(file, "it lies in no label's folder")
    return Clip(file, clean_name(folder).lower(), language)


def _sort(found: Iterable[Clip | Skipped], ignored: str = "") -> Listing:
    """Splits and sorts by name, makes names one that look the same, gives silence its language."""
    clips, skipped = [], []
    for item in found:
        if not isinstance(item, Clip):
            skipped.append(item)
        elif no_text := [
            name for name in (item.label, item.speaker, item.scene) if not is_text(name)
        ]:
            skipped.append(Skipped(item.file, f"{no_text[0]!r} is not text in UTF-8; rename it"))
        else:
            clips.append(item)
    clips.sort(key=lambda clip: (stem(clip.file), clip.file, clip.part[0]))
    names = (
        one_spelling(getattr(clip, field) for clip in clips)
        for field in ("label", "speaker", "scene")
    )
    clips = [
        clip._replace(
            label=label,
            language=NO_LANGUAGE if label == "silence" else clip.language,
            speaker=speaker,
            scene=scene,
        )
        for clip, label, speaker, scene in zip(clips, *names, strict=True)
    ]
    return Listing(clips, sorted(skipped), ignored)


def _is_code(language: str) -> bool:
    return re.fullmatch("[a-z]{2,3}", language) is not None


def _read_manifest(path: Path, audio_dir: Path, language: str | None) -> list[Clip | Skipped]:
    if not os.path.isfile(path):
        raise UserError(f"{path} does not exist; name the CSV file with --manifest=CSV")
    rows = read_table(path, "path")
    if not rows:
        raise UserError(f"{path} lists no clip; write a line for each, below the header")
    columns = rows[0].cells
    label = "emotion" if "emotion" in columns and "label" not in columns else "label"
    if label not in columns:
        raise UserError(f"{path} has no column label; it has {', '.join(columns)}")
    if language is None and "language" not in columns:
        raise UserError(f"{path} has no column language; add it, or --language=CODE")
    return [_parse_row(row, label, audio_dir, language) for row in rows]


def _parse_row(row: Row, label: str, audio_dir: Path, language: str | None) -> Clip | Skipped:
    cells = row.cells
    if not cells["path"]:
        return Skipped("(no path)", f"{row.place} has an empty path")
    file = Path(os.path.relpath(listed_file(audio_dir, cells["path"]), audio_dir)).as_posix()
    clip = Clip(
        file,
        clean_name(cells[label]).lower(),
        language or cells["language"].lower(),
        cells.get("speaker", ""),
        cells.get("scene", ""),
        read_part(row),
    )
    if file.startswith("../"):
        return Skipped(cells["path"], "its path leaves --audio_dir")
    if not os.path.isfile(audio_dir / file):
        return Skipped(file, "the manifest lists it, but there is no such file")
    if not name_key(clip.label):
        return Skipped(file, "the manifest gives it no label")
    if clip.label != "silence" and not _is_code(clip.language):
        return Skipped(file, f"the language {clip.language!r} is not an ISO 639 code such as en")
    return clip


def _apart(found: Iterable[Clip | Skipped]) -> list[Clip | Skipped]:
    """Skips what overlaps an earlier part of its file, as it would be in support and query.

    Equal parts stay: they are copies, which are left out by their sound.
    """
    kept: list[Clip | Skipped] = []
    last: dict[str, Clip] = {}
    for item in sorted(found, key=lambda item: item.part[0] if isinstance(item, Clip) else 0.0):
        if isinstance(item, Clip):
            earlier = last.get(item.file, item)
            if item.part != earlier.part and _overlap(earlier, item):
                kept.append(
                    Skipped(item.file, f"its part {_times(item)} overlaps that {_times(earlier)}")
                )
                continue
            last[item.file] = item
        kept.append(item)
    return kept


def _overlap(first: Clip, second: Clip) -> bool:
    """Whether the second, which begins no earlier, begins before the first has ended."""
    end = first.part[1]
    return end is None or second.part[0] < end - ROUNDED


def _times(clip: Clip) -> str:
    begin, end = clip.part
    return f"from {begin:.9g} s on" if end is None else f"from {begin:.9g} to {end:.9g} s"


def _read_label_lists(paths: Iterable[Path]) -> dict[str, tuple[str, str]]:
    """Speaker and film by file name, of every label list."""
    known = {}
    for path in paths:
        for row in read_table(path, "file", "speaker", "film"):
            speaker = "" if _UNKNOWN.match(row.cells["speaker"]) else row.cells["speaker"]
            known[_plain(row.cells["file"])] = (speaker, row.cells["film"])
    return known


def _plain(file: str) -> str:
    return PurePosixPath(stem(file)).name.lower().removesuffix("_16k")


def _join(
    found: Iterable[Clip | Skipped], known: dict[str, tuple[str, str]]
) -> list[Clip | Skipped]:
    """Adds speaker and film to the clips that a label list names."""
    joined = []
    for item in found:
        if isinstance(item, Clip) and (entry := known.get(_plain(item.file))):
            speaker, film = entry
            item = item._replace(speaker=speaker, scene=f"{film}/{item.scene}")
        joined.append(item)
    return joined


def clip_names(clips: Iterable[Clip]) -> list[str]:
    """Unique names: paths without suffix, except where files differ by it alone, and the part.

    Views have the name of their clip with `VIEW` and a number.
    """
    clips = list(clips)
    count = collections.Counter(stem(file) for file in {clip.file for clip in clips})
    return [
        written(clip.file if count[stem(clip.file)] > 1 else stem(clip.file))
        + ("" if clip.part == (0.0, None) else f" {_times(clip)}")
        + (f"{VIEW}{clip.view}" if clip.view else "")
        for clip in clips
    ]


def written(path: str) -> str:
    """A path as text: bytes that are no UTF-8 become escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def namesakes(clips: Sequence[Clip]) -> list[tuple[str, str]]:
    """Pairs of files that may be of one take: their names, labels and speakers are equal."""
    first: dict[tuple[str, str, str], str] = {}
    pairs = {}
    for clip in clips:
        name = name_key(PurePosixPath(stem(clip.file)).name)
        other = first.setdefault((name, clip.label, clip.speaker), clip.file)
        if other != clip.file:
            pairs[clip.file] = other
    return [(other, file) for file, other in pairs.items()]
