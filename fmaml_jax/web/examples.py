"""Synthetic speech to try the page with."""

import tempfile
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import soundfile

from fmaml_jax.audio.decoding import SAMPLE_RATE, read_clip
from fmaml_jax.recognition.checkpoint import Start
from fmaml_jax.recognition.support import LabelledClip, read_clip_as
from fmaml_jax.synthesis.speech import emofilm_clips, render

_SPEAKING = threading.Lock()
"""The synthesiser speaks in one thread at a time."""


def make_examples(start: Start, folder: str) -> tuple[list[LabelledClip], Path]:
    """Six clips of each emotion that speech can be synthesised for, and a recording of others.

    Args:
        start: what the clips are described for.
        folder: the recording gets a folder of its own below it.
    """
    planned = emofilm_clips(["en"], 8)
    wanted = [clip for clip in planned if clip.label in start.emotions] or planned
    support, pieces, voices = [], [], Counter()
    with tempfile.TemporaryDirectory() as spoken:
        for clip in wanted:
            with _SPEAKING:
                samples, rate = render(clip, seed=0)
            path = Path(spoken, Path(clip.path).name)
            soundfile.write(path, samples, rate)
            voices[clip.label] += 1
            if voices[clip.label] <= 6:
                support.append(read_clip_as(path, clip.label, start, speaker=clip.speaker))
            else:
                pieces += [read_clip(path).samples, np.zeros(SAMPLE_RATE, np.float32)]
    recording = Path(tempfile.mkdtemp(dir=folder), "synthetic_recording.wav")
    soundfile.write(recording, np.concatenate(pieces), SAMPLE_RATE)
    return support, recording
