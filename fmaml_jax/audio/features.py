"""Samples of one clip -> its features, and the table of the configurations that make them.

Those of a pretrained encoder are made in two steps: the first one, here, needs no JAX.
The same function serves a whole corpus and a single recording, so that a model is fed what it
was trained on; a prepared corpus stores the configuration that made it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Float32

from fmaml_jax.audio.decoding import SAMPLE_RATE
from fmaml_jax.audio.descriptors import DescriptorConfig, describe
from fmaml_jax.audio.filterbank import EncoderConfig, log_mel_energies
from fmaml_jax.audio.mfcc import MfccConfig, mfcc
from fmaml_jax.common.errors import UserError


class HubConfig(NamedTuple):
    """What an encoder of the user's own, in a folder as published, makes of the samples.

    Attributes:
        hub: version of what is computed; another version is another vector.
        architecture: its kind, the `model_type` of its config.json.
        weights: hash of the files of the folder that are read.
        layer: the transformer layer whose output is read, from 1; 0 is the middle one, until the
            folder is known.
        statistics: over time, of that.
        sample_rate: samples per second that it expects.
        clip_seconds: length to which a longer clip is cropped, around its centre.
    """

    hub: int = 1
    architecture: str = ""
    weights: str = ""
    layer: int = 0
    statistics: Literal["mean_deviation"] = "mean_deviation"
    sample_rate: int = SAMPLE_RATE
    clip_seconds: float = 20.0


AnyEncoderConfig = EncoderConfig | HubConfig
FeatureConfig = MfccConfig | DescriptorConfig | AnyEncoderConfig

FEATURES: dict[str, FeatureConfig] = {
    # 40 MFCCs of 30 ms frames every 10 ms, clips of 3-4 s; the rest are the library's defaults.
    "paper": MfccConfig(),
    # The authors' code differs from their paper: the first second only, and a plain DCT of
    # log-mel energies between 20 and 4000 Hz.
    "authors_code": MfccConfig(
        clip_seconds=1.0,
        align="start",
        low_hz=20.0,
        high_hz=4000.0,
        pre_emphasis=0.0,
        lifter=0,
        energy=False,
    ),
    # Not the paper's: one vector of statistics over time for a whole clip.
    "descriptors": DescriptorConfig(),
    # Nor this: what a network that was trained to tell speakers apart hears.
    "campplus": EncoderConfig(),
    "hub": HubConfig(),
}
"""The named configurations of `data_prep.prepare --features`."""


def extract(
    samples: Float[np.ndarray, " samples"], config: FeatureConfig
) -> Float32[np.ndarray, "frames coeffs"]:
    """Features of one clip, of the kind that `config` is.

    Args:
        samples: mono audio at `config.sample_rate`, finite and not all zero, of any length.
        config: see `MfccConfig`, `DescriptorConfig`, `EncoderConfig` and `HubConfig`.

    Returns:
        A matrix whose shape depends on `config` alone; of descriptors, of one frame. For an encoder
        what it reads, as many frames as the clip has: energies, or of `HubConfig` the samples.
    """
    if isinstance(config, MfccConfig):
        return mfcc(samples, config)
    if isinstance(config, DescriptorConfig):
        return describe(samples, config)
    length = round(config.clip_seconds * config.sample_rate)
    start = max(0, len(samples) - length) // 2
    cropped = samples[start : start + length].astype(np.float32)
    return cropped[:, None] if isinstance(config, HubConfig) else log_mel_energies(cropped)


def extract_each(
    clips: Sequence[Float[np.ndarray, " samples"]], config: FeatureConfig
) -> Float32[np.ndarray, "clips frames coeffs"]:
    """Features of several clips: `extract` of each."""
    return np.stack([extract(clip, config) for clip in clips])


def restore_config(stored: Mapping[str, Any]) -> FeatureConfig:
    """The configuration that an .npz holds as plain data, its `feature_config`.

    Raises:
        UserError: these are no entries of any kind of configuration, or are of another version of
            the descriptors or the encoder.
    """
    remake = "prepare the audio again with `python -m data_prep.prepare`"
    kinds = (MfccConfig, DescriptorConfig, EncoderConfig, HubConfig)
    fitting = [kind for kind in kinds if stored.keys() == set(kind._fields)]
    if not fitting:
        raise UserError(
            f"features with the settings {', '.join(sorted(stored))} cannot be made here, since "
            f"they are neither MFCCs, nor descriptors, nor an encoder's of this version; {remake}"
        )
    versioned = {"descriptors": DescriptorConfig(), "encoder": EncoderConfig(), "hub": HubConfig()}
    for name, current in versioned.items():
        version = current._asdict()[name]
        if stored.get(name, version) != version:
            raise UserError(
                f"these features are of version {stored[name]} of the {name} and this code makes "
                f"version {version}; {remake}"
            )
    return fitting[0](**stored)
