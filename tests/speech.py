"""Synthetic speech as files and as corpora, and a small network that was meta-trained on it."""

from typing import NamedTuple

import numpy as np
import soundfile

from fmaml_jax.audio.decoding import read_clip
from fmaml_jax.audio.descriptors import DescriptorConfig
from fmaml_jax.audio.features import extract
from fmaml_jax.config import Config
from fmaml_jax.data.dataset import Dataset, save
from fmaml_jax.synthesis.speech import emofilm_clips, neutral_clips, render, silence_clips
from fmaml_jax.training.experiment import run

EMOTIONS = ("anger", "fear", "sadness")
FIXED = ("neutral", "silence")


class Speech(NamedTuple):
    """Clips of one language, as paths; speakers are the synthesiser's voices."""

    paths: list
    labels: list
    speakers: list

    def of(self, label):
        """The clips of one label."""
        return [path for path, own in zip(self.paths, self.labels, strict=True) if own == label]


def make_speech(folder, language, clips=6):
    """Writes `clips` clips of each emotion and of neutral, or noise for the language "zxx"."""
    planned = (
        silence_clips(5 * clips)
        if language == "zxx"
        else [
            *(clip for clip in emofilm_clips([language], clips) if clip.label in EMOTIONS),
            *neutral_clips([language], clips),
        ]
    )
    folder.mkdir()
    paths = []
    for number, clip in enumerate(planned):
        samples, rate = render(clip, seed=0)
        paths.append(folder / f"{clip.label}{number:03}.wav")
        soundfile.write(paths[-1], samples, rate)
    return Speech(paths, [clip.label for clip in planned], [clip.speaker for clip in planned])


def save_speech(path, language, speech):
    """The described clips as a prepared corpus."""
    config = DescriptorConfig()
    features = np.stack([extract(read_clip(clip).samples, config) for clip in speech.paths])
    save(
        path,
        Dataset(
            corpus=path.stem,
            feature_config=config._asdict(),
            features=features,
            labels=np.array(speech.labels),
            languages=np.repeat(language, len(features)),
            speakers=np.array(speech.speakers),
            scenes=np.repeat("", len(features)),
            names=np.array([clip.stem for clip in speech.paths]),
            seconds=np.ones(len(features), np.float32),
        ),
    )
    return str(path)


def speech_config(data, run_dir, **settings):
    """A small run like experiments/best.cfg with Spanish held out."""
    return Config(
        **{
            **{"data": tuple(data), "target": "es", "run_dir": str(run_dir)},
            **{"emotions": EMOTIONS, "fixed": FIXED, "shots": 2, "positions": "known"},
            **{"network": "fourier", "frequencies": 64, "scaling": "whiten"},
            **{"batch_norm": "inductive", "inner_outputs": "supported", "support_loss": "sum"},
            **{"inner_lr": 1.0, "fixed_bias": 1.0, "start_weight": 0.5, "outer_lr": 0.02},
            **{"meta_steps": 20, "task_batch": 2, "query_per_class": 3, "val_fraction": 0.0},
            **{"episodes": 2, "test_query_per_class": 2, "test_query_per_fixed_class": 2},
        }
        | settings
    )


def make_run(folder):
    """Speech of three languages, noise, and a finished run: (run folder, Spanish speech)."""
    speech = {language: make_speech(folder / language, language) for language in ("en", "it", "es")}
    noise = make_speech(folder / "zxx", "zxx")
    data = [
        save_speech(folder / f"{language}.npz", language, clips)
        for language, clips in (*speech.items(), ("zxx", noise))
    ]
    run(speech_config(data, folder / "run"))
    return folder / "run", speech["es"]
