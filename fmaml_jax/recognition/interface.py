"""Labelled clips -> recogniser; recogniser and sound file -> prediction."""

import contextlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from numbers import Real
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from threadpoolctl import threadpool_limits

from fmaml_jax.audio.decoding import AudioError, probe
from fmaml_jax.audio.features import AnyEncoderConfig
from fmaml_jax.audio.memory import IN_MEMORY, Source, as_file, is_one_sound, source_name
from fmaml_jax.audio.quality import FAR_FROM_SPEECH, QUIET, far_from_speech
from fmaml_jax.common.errors import UserError, require_kind
from fmaml_jax.data.scale import scaled
from fmaml_jax.encoder.features import voice_describer, window_describer
from fmaml_jax.recognition.checkpoint import Start, load_start
from fmaml_jax.recognition.formats import FORMATS
from fmaml_jax.recognition.recogniser import (
    Recogniser,
    fit,
    probabilities,
    probabilities_by_speaker,
)
from fmaml_jax.recognition.recordings import writing
from fmaml_jax.recognition.speakers import (
    Turn,
    channel_name,
    labelled,
    require_turns,
    side_by_side,
    speech_of,
    told,
    whole_speaker,
)
from fmaml_jax.recognition.support import LabelledClip, look_over, read_support
from fmaml_jax.recognition.timeline import (
    Describe,
    Features,
    Listened,
    Prediction,
    Samples,
    Stretch,
    Windows,
    label,
    listen,
)
from fmaml_jax.recognition.voices import find_speakers, number_speakers

__all__ = [
    "Heard",
    "Source",
    "enrol",
    "hear",
    "label_together",
    "predict",
    "predict_folder",
    "write",
]

Speakers = Literal["named", "named_by_file", "file", "found", "folder"]


def enrol(
    checkpoint: str | os.PathLike | Start,
    support: str | os.PathLike | Mapping[str, Iterable[Source]] | Sequence[LabelledClip],
    *,
    same_as: Mapping[str, str] | None = None,
    without: Sequence[str] = (),
    tier: str = "",
    speakers: Literal["", "known", "found", "folder"] = "",
    report: Callable[[int, int], Any] = lambda done, total: None,
) -> Recogniser:
    """Adapts a meta-trained network to labelled clips.

    Args:
        checkpoint: a start that comes with the package, "descriptors" or "encoder"; or a start's
            file; or the folder of a finished run; or what `load_start` made of one of these, which
            takes another encoder file too.
        support: a folder that has a folder for each label; or a CSV with the columns file and
            label and, if wanted, start and end (seconds within the file) and speaker; or a Praat
            TextGrid, an ELAN .eaf or Audacity's labels, with the sound beside it; or a mapping of
            each label to its clips, any of what `predict` takes; or clips that have been read with
            their speakers (`read_clip_as`).
        same_as: for a label in your own words, the class of the checkpoint that it means, such as
            {"gniew": "anger"}: it then begins with what the checkpoint knows of anger.
        without: fixed classes that the recogniser is not to answer, such as ("neutral",).
        tier: the tier that has the labels, "" for "emotion"; where it is given, a folder is one of
            TextGrids and .eaf files.
        speakers: "known" or "found" (by the encoder's embedding of each voice, which is not kept)
            takes the clips without what each speaker's have beside their emotions, "folder" without
            what all of them have, as if they were one speaker's; the recogniser is then for
            `predict_folder`.
        report: is told how many clips are read, and of how many, again and again.

    Returns:
        The recogniser, with an estimate of its recall by leaving out clips (stretches of speech,
        speakers) in turn and with warnings. Unequal numbers of clips are evened out.

    Raises:
        UserError: the checkpoint or a clip cannot be used, or there are no two classes to tell
            apart, or parts of a file that overlap have different labels, or a label seems to mean a
            fixed class that is answered too.
    """
    require_kind("same_as", same_as, Mapping | None, "labels and what they mean")
    require_kind("without", without, tuple | list | set | frozenset, "a list of classes")
    require_kind("tier", tier, str, "its name")
    _require_function("report", report)
    _require_choice("speakers", speakers, ("", "known", "found", "folder"))
    start = checkpoint if isinstance(checkpoint, Start) else load_start(checkpoint)
    if isinstance(support, str | os.PathLike | Mapping):
        clips = read_support(support, start, tier, speakers == "found", report)
    elif speakers == "found":
        raise UserError(
            "speakers are found in sound alone; give the folder, the CSV or a mapping of the clips"
        )
    elif isinstance(support, Sequence) and all(isinstance(one, LabelledClip) for one in support):
        clips = support
    else:
        raise UserError(
            f"support is of the type {type(support).__name__} and no labelled clips; give a path, "
            'or a mapping such as {"anger": ["a.wav", (samples, rate)]}'
        )
    if not clips:
        raise UserError("there are no clips; label two or more, best of two or more classes")
    kept, warnings = look_over(clips, start.fixed)
    if not kept:
        raise UserError(f"no clip can be used: {'; '.join(warnings)}")
    if speakers in ("known", "found") and not any(clip.speaker for clip in kept):
        raise UserError(
            "no clip has a speaker; name them in a CSV's column speaker, or let them be found "
            "(--speakers=found)"
        )
    groups = None
    if speakers:
        one = speakers == "folder"
        groups = number_speakers(["folder" if one else clip.speaker for clip in kept])
    return fit(start, kept, same_as or {}, without, warnings, groups)


def predict(
    recogniser: Recogniser,
    source: Source,
    *,
    abstain: float = 0.0,
    channels: Literal["mixed", "split"] = "mixed",
    turns: Sequence[Turn] = (),
    executor: Executor | None = None,
    report: Callable[[float], Any] = lambda seconds: None,
    look: Callable[[float], Any] = lambda seconds: None,
) -> Prediction:
    """Labels a clip, or finds the emotions of a recording over time.

    Args:
        recogniser: from `enrol` or `load`.
        source: a sound file of any format, rate, channel count and length: its path, or a file
            object opened in binary mode. Or samples in memory, (samples, rate): floats of the shape
            [frames] or [frames, channels], full scale at 1, and their number per second. Up to 15 s
            it is one clip; a longer one is cut into segments where there is speech. Sound in memory
            is written to a temporary file meanwhile.
        abstain: probability from 0 to 1 below which the answer is "unsure".
        channels: "mixed" into one, or "split", each of them a speaker of a call.
        turns: who speaks when (`Turn`, `read_turns`): what is labelled are the turns, each for
            itself, and no other speech is looked for. One turn from 0 to infinity says who speaks
            in all of the recording.
        executor: describes stretches of a recording at the same time, such as a
            `fmaml_jax.common.processes.process_pool`; the result is the same. An encoder, which
            has all cores or an accelerator, does without: one thread hears with it.
        report: is told the seconds of the recording that are done, again and again.
        look: is told before it the seconds that have been decoded to learn its level and channels;
            what either raises ends the work.

    Returns:
        Segments with start and end (seconds), label, confidence and calibrated probabilities of
        all classes; of a clip, and of a recording without speech, one. They depend on nothing but
        this file. Its `warnings` say what may be wrong with the sound. Segments have their
        speaker where `channels` or `turns` say who that is, and may overlap then.

    Raises:
        UserError: the file cannot be decoded, or is shorter than a millisecond; or `abstain` is no
            probability; or there is one channel to split, or there are turns of split ones, or
            turns after the recording's end; or what is passed is of another kind.
    """
    _require_probability(abstain)
    heard = hear(
        recogniser,
        source,
        channels=channels,
        turns=turns,
        find_in=partial(probabilities, recogniser),
        executor=executor,
        report=report,
        look=look,
    )
    return _labelled(heard, [part.found for part in heard.parts], abstain)


def predict_folder(
    recogniser: Recogniser,
    sources: Sequence[Source],
    *,
    speakers: Speakers,
    turns: Mapping[Any, Sequence[Turn]] | None = None,
    channels: Literal["mixed", "split"] = "mixed",
    abstain: float = 0.0,
) -> list[Prediction]:
    """Labels files, of each speaker all together: each window has a say in what the others are.

    What somebody's voice adds to all of their clips is taken out of them, beside the emotions that
    they are answered to be (`voices`). It helps speakers of some 5 clips or more. What the network
    hears in each window is in memory until all are heard: 8 kB a second of speech.

    Args:
        recogniser: from `enrol` with `speakers`.
        sources: sounds, see `predict`; their order does not matter.
        speakers: "named" by `turns` or, with split channels, each channel one; "named_by_file" if a
            name is somebody else in each file, as in an RTTM; "file", each file one speaker;
            "folder", all files one; or "found" by the encoder's embedding of each window's voice,
            which is biometric data: it is in memory for this call, and nowhere afterwards.
        turns: who speaks when, by path; see `predict`.
        channels: see `predict`.
        abstain: see `predict`.

    Returns:
        The predictions of the files.

    Raises:
        UserError: see `predict`; or the recogniser is not for this; or speakers are to be found
            without the encoder's weights, or among too many clips.
    """
    _require_probability(abstain)
    _require_choice("speakers", speakers, get_args(Speakers))
    require_kind("turns", turns, Mapping | None, "those of each path, as read_turns returns them")
    if is_one_sound(sources) or not isinstance(sources, Iterable):
        raise UserError("sources is not a list of sounds; give one, such as ['a.wav', 'b.wav']")
    said = {os.fspath(path): spoken for path, spoken in (turns or {}).items()}
    heard = [
        hear(
            *(recogniser, source),
            channels=channels,
            turns=said.get(os.fspath(source), ()) if isinstance(source, str | os.PathLike) else (),
            voices=speakers == "found",
        )
        for source in sources
    ]
    return label_together(recogniser, heard, speakers, abstain)


class Heard(NamedTuple):
    """A file that was heard and is not labelled yet.

    Attributes:
        parts: all of it, or each channel.
        turns: who speaks when, where that is known.
        split: whether each channel is a speaker.
    """

    parts: tuple[Listened, ...]
    turns: Sequence[Turn]
    split: bool


def hear(
    recogniser: Recogniser,
    source: Source,
    *,
    channels: Literal["mixed", "split"] = "mixed",
    turns: Sequence[Turn] = (),
    voices: bool = False,
    find_in: Callable[[Features], np.ndarray] = lambda features: features,
    executor: Executor | None = None,
    report: Callable[[float], Any] = lambda seconds: None,
    look: Callable[[float], Any] = lambda seconds: None,
) -> Heard:
    """What is heard in each window of a file, for `label_together`.

    Args:
        recogniser: see `predict`, as of the rest.
        source: of the sound.
        channels: mixed or split.
        turns: who speaks when.
        voices: whether who speaks is heard too: an embedding after each window's features.
        find_in: what is kept of the features.
        executor: describes stretches.
        report: is told the seconds that are done.
        look: is told those that have been decoded before.

    Raises:
        UserError: see `predict`.
    """
    require_kind("recogniser", recogniser, Recogniser, "what enrol or load returns")
    _require_choice("channels", channels, ("mixed", "split"))
    _require_function("report", report)
    _require_function("look", look)
    turns = require_turns(turns)
    if channels == "split" and turns:
        raise UserError("split channels are speakers already; leave out either them or the turns")
    try:
        with as_file(source) as path:
            listen_to = partial(_listen, recogniser, path, voices, find_in, executor, look)
            if channels == "split":
                parts = [*_each_channel(path, listen_to, report)]
            else:
                told_of = turns and not whole_speaker(turns)
                parts = [listen_to(report, find=partial(speech_of, turns) if told_of else None)]
    except AudioError as error:
        raise UserError(f"{source_name(source) or IN_MEMORY} cannot be used: {error}") from error
    file = source_name(source) or IN_MEMORY
    named = (part._replace(prediction=part.prediction._replace(file=file)) for part in parts)
    return Heard(tuple(named), turns, channels == "split")


def label_together(
    recogniser: Recogniser, heard: Sequence[Heard], speakers: Speakers, abstain: float
) -> list[Prediction]:
    """Labels what `hear` heard; see `predict_folder`."""
    if recogniser.means is None:
        raise UserError(
            "the model is not for clips by speaker; enrol again with --speakers=known, found or "
            "folder"
        )
    counts = [[len(found) for part in each.parts for found in part.found] for each in heard]
    every = [found for each in heard for part in each.parts for found in part.found]
    if not every:
        return [_labelled(each, [part.found for part in each.parts], abstain) for each in heard]
    windows, coeffs = np.concatenate(every), len(recogniser.scale.mean)
    groups = (
        find_speakers(windows[:, 0, coeffs:])
        if speakers == "found"
        else number_speakers(
            [name for number, each in enumerate(heard) for name in _names(each, number, speakers)]
        )
    )
    chances = probabilities_by_speaker(recogniser, windows[:, :, :coeffs], groups)
    stretches = iter(np.split(chances, np.cumsum(list(itertools.chain(*counts)))[:-1]))
    return [
        _labelled(each, [[next(stretches) for _ in part.found] for part in each.parts], abstain)
        for each in heard
    ]


def _names(heard: Heard, number: int, speakers: Speakers) -> Iterator[str]:
    """Who speaks in each window of a file, of which the number is given; "" where unknown."""
    whole = whole_speaker(heard.turns)
    for channel, part in enumerate(heard.parts):
        for span, found in zip(part.spans, part.found, strict=True):
            name = channel_name(channel) if heard.split else whole or span.speaker
            if speakers == "folder":
                name = speakers
            elif speakers == "file" or (name and (heard.split or speakers == "named_by_file")):
                name = f"{number}\0{name}"
            yield from itertools.repeat(name, len(found))


def write(predictions: Iterable[Prediction], path: str | os.PathLike) -> None:
    """Writes predictions into one file, whole or not at all; its suffix says the format.

    Raises:
        UserError: the suffix is of no format, or the format holds one recording and there are
            several, or the file cannot be written.
    """
    require_kind("path", path, str | os.PathLike, "the file to write")
    require_kind("predictions", predictions, Iterable, "a list of what predict returned")
    path, predictions = Path(path), list(predictions)
    for prediction in predictions:
        require_kind("what is written", prediction, Prediction, "a list of what predict returned")
    suffixes = {form.suffix.lower(): form for form in FORMATS.values()}
    form = suffixes.get(path.suffix.lower())
    if form is None:
        raise UserError(
            f"{path} has a suffix of no format; name it with one of "
            f"{', '.join(form.suffix for form in FORMATS.values())}"
        )
    if form.single and len(predictions) != 1:
        raise UserError(
            f"{path} holds one recording, and there are {len(predictions)}; write a file for each"
        )
    with writing(path) as file:
        form.write(predictions, file)


def _labelled(heard: Heard, found: Sequence[Sequence[np.ndarray]], abstain: float) -> Prediction:
    predictions = [label(*both, abstain) for both in zip(heard.parts, found, strict=True)]
    if heard.split:
        return side_by_side(predictions)
    (prediction,) = predictions
    if speaker := whole_speaker(heard.turns):
        return labelled(prediction, speaker)
    return told(prediction, heard.turns)


def _require_choice(name: str, value: object, choices: Sequence[str]) -> None:
    if value not in choices:
        raise UserError(f"{name}={value!r} is none of {', '.join(map(repr, choices))}; choose one")


def _require_function(name: str, value: object) -> None:
    if not callable(value):
        raise UserError(f"{name} is of the type {type(value).__name__}; give a function")


def _require_probability(abstain: float) -> None:
    require_kind("abstain", abstain, Real, "a number from 0 to 1")
    if not 0 <= abstain <= 1:  # false for NaN
        raise UserError(f"abstain={abstain} is not a probability; give a number from 0 to 1")


def _each_channel(
    path: str | os.PathLike, listen_to: Callable[..., Listened], report: Callable[[float], Any]
) -> Iterator[Listened]:
    """What is heard in each channel; the seconds that are reported are those of one."""
    number = probe(path).channels
    if number == 1:
        raise AudioError("it has one channel, and none to split; leave out --channels=split")
    before = 0.0
    for channel in range(number):

        def report_share(seconds: float, before: float = before) -> None:
            report((before + seconds) / number)

        heard = listen_to(report_share, channel=channel)
        before += heard.prediction.seconds
        yield heard


def _listen(
    recogniser: Recogniser,
    path: str,
    voices: bool,
    find_in: Callable[[Features], np.ndarray],
    executor: Executor | None,
    look: Callable[[float], Any],
    report: Callable[[float], Any],
    channel: int | None = None,
    find: Callable[[Iterable[Samples]], Iterator[Stretch]] | None = None,
) -> Listened:
    """See `listen`; what is far from speech is said.

    Raises:
        AudioError: see `listen`.
    """
    encoder = voices or isinstance(recogniser.feature_config, AnyEncoderConfig)
    coeffs = len(recogniser.scale.mean)
    describe = window_describer(recogniser.feature_config, recogniser.encoder)
    if voices:
        describe = _with_voices(describe, voice_describer(recogniser.encoder))
    far: list[bool] = []

    def look_at(features: Features) -> np.ndarray:
        far.extend(far_from_speech(scaled(features[:, :, :coeffs], recogniser.scale)).tolist())
        return find_in(features)

    # The products of one window are too small to be shared among cores.
    with (
        threadpool_limits(1),
        _thread() if encoder else contextlib.nullcontext(executor) as executor,
    ):
        found = listen(
            path,
            recogniser.classes,
            describe,
            look_at,
            channel=channel,
            find=find,
            executor=executor,
            report=report,
            look=look,
        )
    if QUIET not in found.prediction.warnings and 2 * sum(far) > len(far):
        warnings = (*found.prediction.warnings, FAR_FROM_SPEECH)
        found = found._replace(prediction=found.prediction._replace(warnings=warnings))
    return found


def _with_voices(describe: Describe, embed: Callable[..., np.ndarray]) -> Describe:
    """What puts the embedding of who speaks in each window after its features."""

    def both(sounds: Sequence[Samples], windows: Sequence[Windows]) -> Features:
        parts = describe(sounds, windows), embed(sounds, windows)[:, None]
        return np.concatenate(parts, axis=2)

    return both


@contextlib.contextmanager
def _thread() -> Iterator[Executor]:
    """A thread that takes up nothing more once the block has ended."""
    executor = ThreadPoolExecutor(1)
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)
