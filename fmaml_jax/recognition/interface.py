"""Labelled clips -> recogniser; recogniser and sound file -> prediction."""

import contextlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from fmaml_jax.audio.decoding import AudioError, probe
from fmaml_jax.audio.features import AnyEncoderConfig
from fmaml_jax.audio.quality import FAR_FROM_SPEECH, QUIET, far_from_speech
from fmaml_jax.common.errors import UserError
from fmaml_jax.data.scale import scaled
from fmaml_jax.encoder.features import voice_describer, window_describer
from fmaml_jax.recognition.checkpoint import Start, load_start
from fmaml_jax.recognition.model_file import load, save
from fmaml_jax.recognition.recogniser import (
    Recogniser,
    fit,
    probabilities,
    probabilities_by_speaker,
)
from fmaml_jax.recognition.speakers import (
    Turn,
    channel_name,
    labelled,
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

__all__ = ["Prediction", "Recogniser", "enrol", "load", "predict", "predict_folder", "save"]

Speakers = Literal["named", "named_by_file", "file", "found"]


def enrol(
    checkpoint: str | os.PathLike | Start,
    support: str | os.PathLike | Sequence[LabelledClip],
    *,
    same_as: Mapping[str, str] | None = None,
    without: Sequence[str] = (),
    tier: str = "",
    speakers: Literal["", "known", "found"] = "",
) -> Recogniser:
    """Adapts a meta-trained network to labelled clips.

    Args:
        checkpoint: the folder of a finished run of `experiments/start.cfg`, or what `load_start`
            made of it, which takes another encoder file too.
        support: a folder that has a folder for each label; or a CSV with the columns file and
            label and, if wanted, start and end (seconds within the file) and speaker; or a Praat
            TextGrid, an ELAN .eaf or Audacity's labels, with the sound beside it; or clips that
            have been read (`support.read_clip_as`).
        same_as: for a label in your own words, the class of the checkpoint that it means, such as
            {"gniew": "anger"}: it then begins with what the checkpoint knows of anger.
        without: fixed classes that the recogniser is not to answer, such as ("neutral",).
        tier: the tier that has the labels, "" for "emotion"; where it is given, a folder is one of
            TextGrids and .eaf files.
        speakers: "known" or "found" (by the encoder's embedding of each voice, which is not kept)
            takes the clips without what each speaker's have beside their emotions, and the
            recogniser is then for `predict_folder`.

    Returns:
        The recogniser, with an estimate of its recall by leaving out clips (stretches of speech,
        speakers) in turn and with warnings. Unequal numbers of clips are evened out.

    Raises:
        UserError: the checkpoint or a clip cannot be used, or there are no two classes to tell
            apart, or parts of a file that overlap have different labels, or a label seems to mean a
            fixed class that is answered too.
    """
    start = checkpoint if isinstance(checkpoint, Start) else load_start(checkpoint)
    paths = isinstance(support, str | os.PathLike)
    if speakers == "found" and not paths:
        raise UserError(
            "speakers are found in sound alone; give the folder or the CSV of the clips"
        )
    clips = read_support(support, start, tier, speakers == "found") if paths else support
    if not clips:
        raise UserError("there are no clips; label two or more, best of two or more classes")
    kept, warnings = look_over(clips, start.fixed)
    if not kept:
        raise UserError(f"no clip can be used: {'; '.join(warnings)}")
    if speakers and not any(clip.speaker for clip in kept):
        raise UserError(
            "no clip has a speaker; name them in a CSV's column speaker, or let them be found "
            "(--speakers=found)"
        )
    return fit(start, kept, same_as or {}, without, warnings, bool(speakers))


def predict(
    recogniser: Recogniser,
    path: str | os.PathLike,
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
        path: a sound file of any format, rate, channel count and length. Up to 15 s it is one clip;
            a longer one is cut into segments where there is speech. Memory does not grow with it.
        abstain: probability from 0 to 1 below which the answer is "unsure".
        channels: "mixed" into one, or "split", each of them a speaker of a call.
        turns: who speaks when (`speakers.read_turns`): what is labelled are the turns, each for
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
            turns after the recording's end.
    """
    _require_probability(abstain)
    heard = hear(
        recogniser,
        path,
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
    paths: Sequence[str | os.PathLike],
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
        paths: sound files, see `predict`; their order does not matter.
        speakers: "named" by `turns` or, with split channels, each channel one; "named_by_file" if a
            name is somebody else in each file, as in an RTTM; "file", each file one speaker; or
            "found" by the encoder's embedding of each window's voice, which is biometric data: it
            is in memory for this call, and nowhere afterwards.
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
    heard = [
        hear(
            *(recogniser, path),
            channels=channels,
            turns=(turns or {}).get(path, ()),
            voices=speakers == "found",
        )
        for path in paths
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
    path: str | os.PathLike,
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
        path: of the file.
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
    if channels not in ("mixed", "split"):
        raise UserError(f"channels={channels} is neither mixed nor split; say which")
    if channels == "split" and turns:
        raise UserError("split channels are speakers already; leave out either them or the turns")
    listen_to = partial(_listen, recogniser, os.fspath(path), voices, find_in, executor, look)
    try:
        if channels == "split":
            return Heard((*_each_channel(path, listen_to, report),), (), split=True)
        told_of = turns and not whole_speaker(turns)
        heard = listen_to(report, find=partial(speech_of, turns) if told_of else None)
    except AudioError as error:
        raise UserError(f"{path} cannot be used: {error}") from error
    return Heard((heard,), turns, split=False)


def label_together(
    recogniser: Recogniser, heard: Sequence[Heard], speakers: Speakers, abstain: float
) -> list[Prediction]:
    """Labels what `hear` heard; see `predict_folder`."""
    if recogniser.means is None:
        raise UserError(
            "the model is not for clips by speaker; enrol again with --speakers=known or found"
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
            if speakers == "file" or (name and (heard.split or speakers == "named_by_file")):
                name = f"{number}\0{name}"
            yield from itertools.repeat(name, len(found))


def _labelled(heard: Heard, found: Sequence[Sequence[np.ndarray]], abstain: float) -> Prediction:
    predictions = [label(*both, abstain) for both in zip(heard.parts, found, strict=True)]
    if heard.split:
        return side_by_side(predictions)
    (prediction,) = predictions
    if speaker := whole_speaker(heard.turns):
        return labelled(prediction, speaker)
    return told(prediction, heard.turns)


def _require_probability(abstain: float) -> None:
    if not 0 <= abstain <= 1:  # false for NaN
        raise UserError(f"abstain={abstain} is no probability; give a number from 0 to 1")


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
        describe = _side_by_side(describe, voice_describer(recogniser.encoder))
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


def _side_by_side(first: Describe, second: Callable[..., np.ndarray]) -> Describe:
    def describe(sounds: Sequence[Samples], windows: Sequence[Windows]) -> Features:
        both = first(sounds, windows), second(sounds, windows)[:, None]
        return np.concatenate(both, axis=2)

    return describe


@contextlib.contextmanager
def _thread() -> Iterator[Executor]:
    """A thread that takes up nothing more once the block has ended."""
    executor = ThreadPoolExecutor(1)
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)
