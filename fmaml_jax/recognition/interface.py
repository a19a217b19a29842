"""Labelled clips -> recogniser; recogniser and sound file -> prediction."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32
from threadpoolctl import threadpool_limits

from fmaml_jax.audio.decoding import AudioError, probe
from fmaml_jax.audio.features import AnyEncoderConfig
from fmaml_jax.audio.quality import FAR_FROM_SPEECH, QUIET, far_from_speech
from fmaml_jax.common.errors import UserError
from fmaml_jax.data.scale import scaled
from fmaml_jax.encoder.features import window_describer
from fmaml_jax.recognition.checkpoint import Start, load_start
from fmaml_jax.recognition.model_file import load, save
from fmaml_jax.recognition.recogniser import Recogniser, fit, probabilities
from fmaml_jax.recognition.speakers import (
    Turn,
    labelled,
    side_by_side,
    speech_of,
    told,
    whole_speaker,
)
from fmaml_jax.recognition.support import LabelledClip, look_over, read_support
from fmaml_jax.recognition.timeline import Prediction, Samples, Stretch, predict_file

__all__ = ["Prediction", "Recogniser", "enrol", "load", "predict", "save"]


def enrol(
    checkpoint: str | os.PathLike | Start,
    support: str | os.PathLike | Sequence[LabelledClip],
    *,
    same_as: Mapping[str, str] | None = None,
    without: Sequence[str] = (),
    tier: str = "",
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
    clips = read_support(support, start, tier) if paths else support
    if not clips:
        raise UserError("there are no clips; label two or more, best of two or more classes")
    kept, warnings = look_over(clips, start.fixed)
    if not kept:
        raise UserError(f"no clip can be used: {'; '.join(warnings)}")
    return fit(start, kept, same_as or {}, without, warnings)


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
    if not 0 <= abstain <= 1:  # false for NaN
        raise UserError(f"abstain={abstain} is no probability; give a number from 0 to 1")
    if channels not in ("mixed", "split"):
        raise UserError(f"channels={channels} is neither mixed nor split; say which")
    if channels == "split" and turns:
        raise UserError("split channels are speakers already; leave out either them or the turns")
    hear = partial(_predict, recogniser, os.fspath(path), abstain, executor, look)
    try:
        if channels == "split":
            return side_by_side([*_each_channel(path, hear, report)])
        if speaker := whole_speaker(turns):
            return labelled(hear(report), speaker)
        found = hear(report, find=partial(speech_of, turns) if turns else None)
    except AudioError as error:
        raise UserError(f"{path} cannot be used: {error}") from error
    return told(found, turns)


def _each_channel(
    path: str | os.PathLike, hear: Callable[..., Prediction], report: Callable[[float], Any]
) -> Iterator[Prediction]:
    """What is heard in each channel; the seconds that are reported are those of one."""
    number = probe(path).channels
    if number == 1:
        raise AudioError("it has one channel, and none to split; leave out --channels=split")
    before = 0.0
    for channel in range(number):

        def report_share(seconds: float, before: float = before) -> None:
            report((before + seconds) / number)

        found = hear(report_share, channel=channel)
        before += found.seconds
        yield found


def _predict(
    recogniser: Recogniser,
    path: str,
    abstain: float,
    executor: Executor | None,
    look: Callable[[float], Any],
    report: Callable[[float], Any],
    channel: int | None = None,
    find: Callable[[Iterable[Samples]], Iterator[Stretch]] | None = None,
) -> Prediction:
    """See `predict_file`; what is far from speech is said.

    Raises:
        AudioError: see `predict_file`.
    """
    encoder = isinstance(recogniser.feature_config, AnyEncoderConfig)
    far: list[bool] = []

    def classify(features: Float32[np.ndarray, "clips time coeffs"]) -> np.ndarray:
        far.extend(far_from_speech(scaled(features, recogniser.scale)).tolist())
        return probabilities(recogniser, features)

    # The products of one window are too small to be shared among cores.
    with (
        threadpool_limits(1),
        _thread() if encoder else contextlib.nullcontext(executor) as executor,
    ):
        found = predict_file(
            path,
            recogniser.classes,
            window_describer(recogniser.feature_config, recogniser.encoder),
            classify,
            abstain=abstain,
            channel=channel,
            find=find,
            executor=executor,
            report=report,
            look=look,
        )
    if QUIET not in found.warnings and 2 * sum(far) > len(far):
        found = found._replace(warnings=(*found.warnings, FAR_FROM_SPEECH))
    return found


@contextlib.contextmanager
def _thread() -> Iterator[Executor]:
    """A thread that takes up nothing more once the block has ended."""
    executor = ThreadPoolExecutor(1)
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)
