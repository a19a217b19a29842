"""What a visitor has given, and what is done with it."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fmaml_jax.audio.decoding import AudioError, probe
from fmaml_jax.common.errors import UserError
from fmaml_jax.common.text import name_key, one_spelling
from fmaml_jax.recognition import Prediction, Recogniser, enrol, load, predict
from fmaml_jax.recognition.checkpoint import Start
from fmaml_jax.recognition.support import LabelledClip, read_clip_as
from fmaml_jax.web.examples import make_examples

LONGEST_RECORDING = 3600.0
"""Seconds."""
MOST_CLIPS = 1000
NEW = "a new emotion"
"""What a label means that means nothing which the checkpoint knows."""


@dataclasses.dataclass
class Session:
    """What one page holds; `same_as` has the meanings of labels' keys, `NEW` among them."""

    clips: list[LabelledClip] = dataclasses.field(default_factory=list)
    same_as: dict[str, str] = dataclasses.field(default_factory=dict)
    recogniser: Recogniser | None = None
    recording: Path | None = None


def add_clips(
    session: Session,
    start: Start,
    paths: Sequence[Path],
    label: str,
    meaning: str,
    speaker: str,
) -> tuple[list[LabelledClip], list[str]]:
    """Reads clips of one label into the session, and removes their files.

    Names are spelled as the session has them already.

    Returns:
        The clips, and a sentence for each file that cannot be used.
    """
    *_, label = one_spelling([*(clip.label for clip in session.clips), label])
    *_, speaker = one_spelling([*(clip.speaker for clip in session.clips), speaker])
    added, errors = [], []
    for path in paths:
        try:
            if not name_key(label):
                raise UserError("name the emotion first, then give its clips")
            if len(session.clips) >= MOST_CLIPS:
                raise UserError(f"{MOST_CLIPS} clips are enough; take some out first")
            clip = read_clip_as(path, label, start, speaker=speaker)
        except UserError as error:
            errors.append(str(error))
            continue
        finally:
            path.unlink(missing_ok=True)
        session.clips.append(clip)
        session.same_as[name_key(clip.label)] = meaning
        added.append(clip)
    return added, errors


def add_examples(session: Session, start: Start, folder: str) -> Path:
    """Adds synthetic clips, and a recording below the folder."""
    clips, recording = make_examples(start, folder)
    session.clips += [clip for clip in clips if clip not in session.clips]
    keep_recording(session, recording)
    return recording


def keep_recording(session: Session, recording: Path | None) -> None:
    """The session's recording is this one from now on; the one before it is removed."""
    if session.recording and session.recording != recording:
        session.recording.unlink(missing_ok=True)
    session.recording = recording


def learn(session: Session, start: Start, answered: Sequence[str]) -> Recogniser:
    """Enrols the clips; `answered` are the fixed classes that can be answers.

    Raises:
        UserError: see `enrol`.
    """
    labels = {name_key(clip.label) for clip in session.clips}
    session.recogniser = enrol(
        start,
        session.clips,
        same_as={
            label: meaning
            for label, meaning in session.same_as.items()
            if label in labels and meaning != NEW
        },
        without=[name for name in start.fixed if name not in answered],
    )
    return session.recogniser


def take_model(session: Session, path: str | None) -> Recogniser:
    """Loads a model file, and removes it.

    Raises:
        UserError: none is given, or see `load`.
    """
    if not path:
        raise UserError("give the file of a model first")
    try:
        session.recogniser = load(path)
    except UserError as error:
        raise _of_upload(error, path) from error
    finally:
        Path(path).unlink(missing_ok=True)
    return session.recogniser


def recognise(
    session: Session,
    path: str | None,
    abstain: float,
    report: Callable[[float], Any],
) -> Prediction:
    """What the session's recogniser hears; `report` is told the share that is done.

    Raises:
        UserError: there is no recogniser, no recording, or none of a length that is taken.
    """
    if session.recogniser is None:
        raise UserError("there is nothing to recognise with yet; enrol in step 2")
    if not path:
        raise UserError("give a recording first: drop a file, or record one")
    name = Path(path).name
    try:
        seconds = probe(path).seconds
    except AudioError as error:
        raise UserError(f"{name} cannot be used: {error}") from error
    if seconds > LONGEST_RECORDING:
        raise UserError(
            f"{name} lasts {seconds / 60:,.0f} minutes, and this page takes "
            f"{LONGEST_RECORDING / 60:.0f} at most; cut it, or use python -m fmaml_jax.predict"
        )
    try:
        found = predict(
            session.recogniser,
            path,
            abstain=abstain,
            report=lambda done: report(done / seconds),
        )
    except UserError as error:
        raise _of_upload(error, path) from error
    return found._replace(file=name)


def _of_upload(error: UserError, path: str) -> UserError:
    """The error with the file's own name alone: nobody is to know where uploads are."""
    return UserError(str(error).replace(path, Path(path).name))
