"""Samples of one clip -> its features, and the table of the configurations that make them.

Those of a pretrained encoder are made in two steps: the first one, here, needs no JAX.
The same function serves a whole corpus and a single recording, so that a model is fed what it
was trained on; a prepared corpus stores the configuration that made it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from fmaml_jax.audio.descriptors import DescriptorConfig, describe
from fmaml_jax.audio.filterbank import EncoderConfig, log_mel_energies
from fmaml_jax.audio.mfcc import MfccConfig, mfcc
from fmaml_jax.common.errors import UserError

FeatureConfig = MfccConfig | DescriptorConfig | EncoderConfig

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
}
"""The named configurations of `data_prep.prepare --features`."""


def extract(
    samples: Float[np.ndarray, " samples"], config: FeatureConfig
) -> Float32[np.ndarray, "frames coeffs"]:
    """Features of one clip, of the kind that `config` is.

    Args:
        samples: mono audio at `config.sample_rate`, finite and not all zero, of any length.
        config: see `MfccConfig`, `DescriptorConfig` and `EncoderConfig`.

    Returns:
        A matrix whose shape depends on `config` alone; of descriptors, of one frame. For an encoder
        the energies that it reads, as many frames as the clip has.
    """
    if isinstance(config, MfccConfig):
        return mfcc(samples, config)
    if isinstance(config, DescriptorConfig):
        return describe(samples, config)
    length = round(config.clip_seconds * config.sample_rate)
    start = max(0, len(samples) - length) // 2
    return log_mel_energies(samples[start : start + length].astype(np.float32))


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
    kinds = (MfccConfig, DescriptorConfig, EncoderConfig)
    fitting = [kind for kind in kinds if stored.keys() == set(kind._fields)]
    if not fitting:
        raise UserError(
            f"features with the settings {', '.join(sorted(stored))} cannot be made here, since "
            f"they are neither MFCCs, nor descriptors, nor an encoder's of this version; {remake}"
        )
    for name, current in (("descriptors", DescriptorConfig()), ("encoder", EncoderConfig())):
        version = current._asdict()[name]
        if stored.get(name, version) != version:
            raise UserError(
                f"these features are of version {stored[name]} of the {name} and this code makes "
                f"version {version}; {remake}"
            )
    return fitting[0](**stored)
