"""What a visitor has given, for how long it is kept, and what is done with it."""

import contextlib
import dataclasses
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from fmaml_jax.audio.decoding import AudioError, probe, read_clip
from fmaml_jax.audio.voice_activity import Samples
from fmaml_jax.common.errors import UserError
from fmaml_jax.common.text import name_key, one_spelling, require_name
from fmaml_jax.recognition import Prediction, Recogniser, enrol, load, predict
from fmaml_jax.recognition.checkpoint import Start
from fmaml_jax.recognition.interface import hear, label_together
from fmaml_jax.recognition.support import (
    LONGEST_CLIP,
    ROUNDED,
    LabelledClip,
    clips_of,
    read_clip_as,
)
from fmaml_jax.recognition.timeline import Segment
from fmaml_jax.web.examples import make_examples

LONGEST_RECORDING = 3600.0
"""Seconds."""
MOST_CLIPS = 1000
LARGEST_MODEL = 64 << 20
"""Bytes of a model file that is given; one of 2,048 coefficients has 21 million."""
MOST_SAID = 10
"""Files of which it is said, one by one, why they cannot be used."""
NEW = "a new emotion"
"""What a label means that means nothing which the checkpoint knows."""

Voices = Literal["", "file", "found"]
"""Whose voices are taken out of clips: nobody's, one a recording, or those that are found."""

GRACE = 60.0
"""Seconds for which what a page has given is kept when it has no connection."""
LEFT = 5.0
"""Seconds without a connection after which a page's work ends."""
MOST_PAGES, MOST_PAGES_OF_ADDRESS = 256, 32
HALF_LIFE = 60.0
"""Seconds after which work that was done for a visitor counts half."""


class LeftError(Exception):
    """The page that something is done for is gone."""


@dataclasses.dataclass(eq=False)
class Session:
    """What one page holds; `same_as` has the meanings of labels' keys, `NEW` among them.

    `heard` is what its recording was last answered, until there is another recording. It has
    `connections`, of which some are `listening` for answers, or none since the moment
    `alone`. What changes its clips holds `lock`.
    """

    address: str = ""
    clips: list[LabelledClip] = dataclasses.field(default_factory=list)
    same_as: dict[str, str] = dataclasses.field(default_factory=dict)
    recogniser: Recogniser | None = None
    recording: Path | None = None
    heard: Prediction | None = None
    connections: int = 0
    listening: int = 0
    alone: float = dataclasses.field(default_factory=time.monotonic)
    ended: bool = False
    lock: threading.RLock = dataclasses.field(default_factory=threading.RLock)

    @contextlib.contextmanager
    def connected(self, listening: bool) -> Iterator[None]:
        """While a connection of the page is open."""
        self.connections += 1
        self.listening += listening
        try:
            yield
        finally:
            self.connections -= 1
            self.listening -= listening
            self.alone = time.monotonic()

    def is_left(self, seconds: float = LEFT) -> bool:
        """Whether nobody has waited for so long for what is done for the page."""
        lonely = not self.connections and time.monotonic() - self.alone > seconds
        return self.ended or lonely

    def end(self) -> None:
        """Drops everything; what is still being done for the page ends soon, and leaves nothing."""
        self.ended = True
        keep_recording(self, None)
        self.clips, self.recogniser, self.heard = [], None, None


class Sessions:
    """Of all pages that are open or were a moment ago, by the number that Gradio gives each.

    So many others have `ended`.
    """

    def __init__(self):
        self._of_pages: dict[str, Session] = {}
        self.ended = 0

    def __len__(self) -> int:
        return len(self._of_pages)

    def __contains__(self, number: str) -> bool:
        return number in self._of_pages

    def find(self, number: str | None) -> Session | None:
        """The session of a page; None where it never began or has ended."""
        return self._of_pages.get(number or "")

    def begin(self, number: str, address: str) -> Session | None:
        """The session of a page, new where there is none; None where too many are open.

        Those that were open a moment ago make room for others.
        """
        if session := self.find(number):
            return session
        own = self.of_address(address)
        if len(own) >= MOST_PAGES_OF_ADDRESS:
            self._end_longest_alone(own)
        elif len(self._of_pages) >= MOST_PAGES:
            self._end_longest_alone(list(self._of_pages))
        own = self.of_address(address)
        if len(self._of_pages) >= MOST_PAGES or len(own) >= MOST_PAGES_OF_ADDRESS:
            return None
        return self._of_pages.setdefault(number, Session(address))

    def _end_longest_alone(self, numbers: list[str]) -> None:
        alone = [number for number in numbers if not self._of_pages[number].connections]
        if alone:
            self.end(min(alone, key=lambda number: self._of_pages[number].alone))

    def end(self, number: str) -> None:
        """Ends one."""
        if session := self._of_pages.pop(number, None):
            session.end()
            self.ended += 1

    def end_those_left(self) -> None:
        """Ends the sessions that have had no connection for `GRACE`."""
        for number, session in list(self._of_pages.items()):
            if session.is_left(GRACE):
                self.end(number)

    def of_address(self, address: str) -> list[str]:
        """The numbers of an address's pages."""
        pages = list(self._of_pages.items())  # at once: another thread may close them meanwhile
        return [number for number, own in pages if own.address == address]

    def recordings(self) -> set[Path]:
        """The files that are still needed."""
        sessions = list(self._of_pages.values())  # at once, as above
        return {session.recording for session in sessions if session.recording}

    def close(self) -> None:
        """Ends all of them."""
        while self._of_pages:
            self._of_pages.popitem()[1].end()


class Turns:
    """Who works: `at_once` pages at a time, next the one that had the least of late.

    A visitor's pages share what an address had, and so do visitors behind one address.
    """

    def __init__(self, at_once: int):
        self._free = at_once
        self._waiting: list[Session] = []
        self._used: dict[Session | str, float] = {}
        self._halved = time.monotonic()
        self._condition = threading.Condition()

    @contextlib.contextmanager
    def turn(self, session: Session) -> Iterator[Callable[[], None]]:
        """While the block runs it is the page's turn.

        It gets a function that long work calls between its windows: others who had less than this
        page are let work before it goes on.

        Raises:
            LeftError: the page is gone; the function raises it too.
        """
        begun: float | None = self._take(session)

        def pass_on() -> None:
            nonlocal begun
            if session.is_left():
                raise LeftError
            if self._waiting and begun is not None:
                with self._condition:  # so that it waits already when others look who is next
                    self._give(session, begun)
                    begun = None
                    begun = self._take(session)

        try:
            yield pass_on
        finally:
            if begun is not None:
                self._give(session, begun)

    def _take(self, session: Session) -> float:
        with self._condition:
            self._waiting.append(session)
            try:
                while not (self._free and self._next() is session):
                    self._condition.wait(1.0)
                    if session.is_left():
                        raise LeftError
            finally:
                self._waiting.remove(session)
            self._free -= 1
            self._condition.notify_all()
            return time.monotonic()

    def _next(self) -> Session:
        def had(session: Session) -> tuple[float, float]:
            return self._used.get(session.address, 0.0), self._used.get(session, 0.0)

        return min(self._waiting, key=had)

    def _give(self, session: Session, begun: float) -> None:
        with self._condition:
            now = time.monotonic()
            if now - self._halved > HALF_LIFE:
                halves = ((key, seconds / 2) for key, seconds in self._used.items())
                self._used = {key: half for key, half in halves if half > 0.01}
                self._halved = now
            for key in (session, session.address):
                self._used[key] = self._used.get(key, 0.0) + now - begun
            self._free += 1
            self._condition.notify_all()


def add_clips(
    session: Session,
    start: Start,
    paths: Sequence[Path],
    label: str,
    meaning: str,
    speaker: str,
    pass_on: Callable[[], None] = lambda: None,
) -> tuple[list[LabelledClip], list[str]]:
    """Reads clips of one label into the session, and removes their files.

    Names are spelled as the session has them already.

    Args:
        session: the visitor's.
        start: what the clips are described for.
        paths: of their files.
        label: of all of them.
        meaning: of the label, or `NEW`.
        speaker: "" where unknown.
        pass_on: is called between two clips, see `Turns`.

    Returns:
        The clips, and a sentence for each of the first files that cannot be used.
    """
    added, errors = [], []
    try:
        with session.lock:
            if not name_key(label):
                raise UserError("name the emotion first, then give its clips")
            *_, label = one_spelling([*(clip.label for clip in session.clips), label])
            *_, speaker = one_spelling([*(clip.speaker for clip in session.clips), speaker])
            require_name(label, "label")
            require_name(speaker, "speaker")
            for path in paths:
                if len(session.clips) >= MOST_CLIPS:
                    raise UserError(f"{MOST_CLIPS} clips are enough; take some out first")
                try:
                    clip = read_clip_as(path, label, start, speaker=speaker)
                except UserError as error:
                    errors.append(str(error))
                else:
                    session.clips.append(clip)
                    session.same_as[name_key(clip.label)] = meaning
                    added.append(clip)
                remove(path)
                pass_on()
    except UserError as error:
        errors.insert(0, str(error))
    finally:
        for path in paths:
            remove(path)
    if (more := len(errors) - MOST_SAID) > 0:
        errors[MOST_SAID:] = [f"{more} more files cannot be used"]
    return added, errors


def set_meaning(session: Session, label: str, meaning: str) -> None:
    """Says what a label means whose clips there are."""
    with session.lock:
        if name_key(label) in {name_key(clip.label) for clip in session.clips}:
            session.same_as[name_key(label)] = meaning


def take_out(session: Session, chosen: Sequence[str]) -> None:
    """Takes out clips by their digest, or "all LABEL"."""
    with session.lock:
        session.clips = [
            clip
            for clip in session.clips
            if clip.digest not in chosen and f"all {clip.label}" not in chosen
        ]


def remove(path: Path) -> None:
    """Removes a file, and the folder that it was alone in."""
    path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        path.parent.rmdir()


def add_examples(session: Session, start: Start, folder: str) -> Path:
    """Adds synthetic clips, and a recording below the folder."""
    clips, recording = make_examples(start, folder)
    with session.lock:
        digests = {clip.digest for clip in session.clips}
        session.clips += [clip for clip in clips if clip.digest not in digests]
        keep_recording(session, recording)
    return recording


def keep_recording(session: Session, recording: Path | None) -> None:
    """The session's recording is this one from now on; the one before it is removed."""
    if session.recording != recording:
        session.heard = None
        if session.recording:
            remove(session.recording)
    session.recording = recording
    if session.ended and recording:  # while the page was being closed
        remove(recording)


def excerpt(session: Session, number: int) -> Samples:
    """What is heard in a segment of the session's recording; of a long one the first minute.

    Raises:
        UserError: there is no such segment, or it is silent.
    """
    path, segment = _segment(session, number)
    try:
        return read_clip(
            path, segment.start, min(segment.end, segment.start + LONGEST_CLIP)
        ).samples
    except AudioError as error:
        raise UserError(f"this segment cannot be played: {error}") from error


def correct(
    session: Session,
    start: Start,
    labels: Mapping[str, str],
    pass_on: Callable[[], None] = lambda: None,
) -> None:
    """Makes segments of the session's recording labelled clips, in place of what they were before.

    Args:
        session: the visitor's.
        start: what the clips are described for.
        labels: of segments, by their numbers; of "" for what is not to be a clip after all.
        pass_on: is called between two clips, see `Turns`.

    Raises:
        UserError: there is no such segment, a label cannot be used, or there are clips enough.
    """
    with session.lock:
        for number, label in labels.items():
            path, segment = _segment(session, int(number))
            before = corrections(session, segment)
            *_, label = one_spelling([*(clip.label for clip in session.clips), label])
            require_name(label, "label")
            if label and _is_said(segment, label, before):
                continue
            parts = clips_of(segment.start, segment.end) if label else []
            if len(session.clips) - len(before) + len(parts) > MOST_CLIPS:
                raise UserError(f"{MOST_CLIPS} clips are enough; take some out first")
            said = []
            for part in parts:
                said.append(read_clip_as(path, label, start, segment.speaker, part))
                pass_on()
            session.clips = [
                clip for clip in session.clips if all(clip is not other for other in before)
            ] + said
            if said:
                session.same_as.setdefault(name_key(label), NEW)


def corrections(session: Session, segment: Segment) -> list[LabelledClip]:
    """The session's clips that share some of its recording with a segment."""
    file = os.path.realpath(session.recording) if session.recording else ""
    return [
        clip
        for clip in session.clips
        if clip.file == file
        and min(segment.end, clip.part[1]) - max(segment.start, clip.part[0]) > ROUNDED
    ]


def _is_said(segment: Segment, label: str, clips: Sequence[LabelledClip]) -> bool:
    """Whether the clips are the segment with this label."""
    edges = [edge for clip in clips for edge in clip.part]
    return (
        {clip.label for clip in clips} == {label}
        and abs(min(edges) - segment.start) < ROUNDED
        and abs(max(edges) - segment.end) < ROUNDED
    )


def _segment(session: Session, number: int) -> tuple[Path, Segment]:
    """The session's recording, and a segment of it."""
    path, heard = session.recording, session.heard
    if path is None or heard is None or not 0 <= number < len(heard.segments):
        raise UserError("there is no such segment any more; recognise the recording again")
    return path, heard.segments[number]


def learn(
    session: Session, start: Start, answered: Sequence[str], by_speaker: bool = False
) -> Recogniser:
    """Enrols the clips.

    Args:
        session: the visitor's.
        start: what they are enrolled in.
        answered: the fixed classes that can be answers.
        by_speaker: whether the recogniser is for clips by speaker.

    Raises:
        UserError: see `enrol`; or it is by speaker, and no clip has the name of its speaker.
    """
    with session.lock:
        clips, meanings = list(session.clips), dict(session.same_as)
    if by_speaker and clips and not any(clip.speaker for clip in clips):
        raise UserError(
            "no speakers are named; take the clips out and give them again with names, or leave "
            "voices out"
        )
    labels = {name_key(clip.label) for clip in clips}
    recogniser = enrol(
        start,
        clips,
        same_as={
            label: meaning
            for label, meaning in meanings.items()
            if label in labels and meaning != NEW
        },
        without=[name for name in start.fixed if name not in answered],
        speakers="known" if by_speaker else "",
    )
    return _hold(session, recogniser)


def _hold(session: Session, recogniser: Recogniser) -> Recogniser:
    session.recogniser = None if session.ended else recogniser
    return recogniser


def take_model(session: Session, start: Start, path: str | None) -> Recogniser:
    """Loads a model file, and removes it; its encoder, if it has one, is that of the start.

    Raises:
        UserError: none is given, or see `load`.
    """
    if not path:
        raise UserError("give the file of a model first")
    try:
        if Path(path).stat().st_size > LARGEST_MODEL:
            raise UserError(f"{Path(path).name} is larger than any model; choose another file")
        return _hold(session, load(path, start.encoder))
    except UserError as error:
        raise _of_upload(error, path) from error
    finally:
        remove(Path(path))


def recognise(
    session: Session,
    path: str | None,
    abstain: float,
    report: Callable[[float], Any],
    speakers: Voices = "",
) -> Prediction:
    """What the session's recogniser hears.

    Args:
        session: the visitor's.
        path: of the recording.
        abstain: see `predict`.
        report: is told the share that is done, often.
        speakers: for a recogniser by speaker: see `predict_folder`.

    Raises:
        UserError: there is no recogniser, no recording, or none of a length that is taken.
    """
    recogniser = session.recogniser
    if recogniser is None:
        raise UserError("there is nothing to recognise with yet; enrol in step 2")
    if not path:
        raise UserError("give a recording first: drop a file, or record one")
    name = Path(path).name
    try:
        seconds = probe(path).seconds
    except AudioError as error:
        raise UserError(f"{name} cannot be used: {error}") from error

    longest = f"{LONGEST_RECORDING / 60:.0f}"
    remedy = "cut it, or use python -m fmaml_jax.predict"
    if seconds > LONGEST_RECORDING:
        raise UserError(
            f"{name} lasts {seconds / 60:,.0f} minutes, and this page takes {longest} at most; "
            f"{remedy}"
        )

    def look(decoded: float) -> None:
        if decoded > LONGEST_RECORDING:  # of which its header says nothing, or something else
            raise UserError(f"{name} lasts more than {longest} minutes; {remedy}")
        report(0.0)

    told: dict[str, Any] = {
        "report": lambda done: report(min(1.0, done / seconds) if seconds else 0.0),
        "look": look,
    }
    try:
        if speakers:
            heard = hear(recogniser, path, voices=speakers == "found", **told)
            (found,) = label_together(recogniser, [heard], speakers, abstain)
        else:
            found = predict(recogniser, path, abstain=abstain, **told)
    except UserError as error:
        raise _of_upload(error, path) from error
    found = found._replace(file=name)
    if session.recording == Path(path) and not session.ended:
        session.heard = found
    return found


def _of_upload(error: UserError, path: str) -> UserError:
    """The error with the file's own name alone: nobody is to know where uploads are."""
    return UserError(str(error).replace(path, Path(path).name))
