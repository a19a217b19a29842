"""The fuzz of `experiments.studies.fuzz`, shortened: nothing crashes, nothing is lost unsaid."""

import numpy as np
import pytest

from experiments.studies import fuzz
from fmaml_jax.recognition import enrol
from fmaml_jax.recognition.support import read_clip_as
from tests.speech import EMOTIONS

SEED = 0


@pytest.fixture(scope="module")
def recogniser(trained, start):
    clips = [
        read_clip_as(path, emotion, start)
        for emotion in EMOTIONS
        for path in trained[1].of(emotion)[:2]
    ]
    return enrol(start, clips)


@pytest.mark.parametrize("count", [24, pytest.param(480, marks=pytest.mark.slow)])
def test_damaged_files_are_refused_or_said(start, recogniser, count):
    ends = fuzz.run(count, SEED, start, recogniser)
    told = {"answered", "warned of", "refused", fuzz.UNSAID}
    assert {end for _, end in ends} <= told
    # Of uncompressed samples only the sound tells that they are others.
    assert not [kind for kind, end in ends if end == fuzz.UNSAID and kind not in ("WAV", "AIFF")]
    assert ends.total() == count


def test_the_judge_of_damage():
    samples = fuzz.speech(np.random.default_rng(1))
    assert not fuzz.is_mostly_damaged(samples.astype(np.float32), samples)
    assert not fuzz.is_mostly_damaged(np.roll(samples, 1105).astype(np.float32), samples)
    noise = np.random.default_rng(2).standard_normal(len(samples)).astype(np.float32)
    assert fuzz.is_mostly_damaged(noise, samples)
    assert fuzz.is_mostly_damaged(samples[: len(samples) // 3].astype(np.float32), samples)
