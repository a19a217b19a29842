"""Samples or energies of clips -> the vectors of any feature configuration, an encoder's too."""

import os
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Float32

from fmaml_jax.audio.features import (
    AnyEncoderConfig,
    FeatureConfig,
    HubConfig,
    extract,
    extract_each,
)
from fmaml_jax.audio.filterbank import EncoderConfig
from fmaml_jax.common.errors import UserError
from fmaml_jax.encoder import campplus, hub, weights

Describe = Callable[[Sequence[Float[np.ndarray, " _"]]], Float32[np.ndarray, "clips frames coeffs"]]


def describer(config: FeatureConfig, encoder: str | os.PathLike) -> Describe:
    """What makes the features of several clips of their samples.

    Args:
        config: a configuration of any kind.
        encoder: the file of the encoder's weights, or its folder; not read where `config` has no
            use for it.

    Raises:
        UserError: the encoder is missing, or is not that of `config`.
    """
    if not isinstance(config, AnyEncoderConfig):
        return partial(extract_each, config=config)
    encode = encoding(config, encoder)
    return lambda clips: encode([extract(samples, config) for samples in clips])


def encoding(config: AnyEncoderConfig, encoder: str | os.PathLike) -> Describe:
    """What makes the vectors of several clips, [clips, 1, coeffs], of what `extract` gives.

    Args:
        config: which layer, and what of it.
        encoder: the file of the encoder's weights, or its folder.

    Raises:
        UserError: the encoder is missing, or is not that of `config`.
    """
    content_hash = with_weights(config, encoder).weights
    if config.weights != content_hash:
        raise UserError(
            f"these features are of an encoder with the content hash {config.weights[:12]}, and "
            f"{encoder} has {content_hash[:12]}; give the other with --encoder"
        )

    if isinstance(config, HubConfig):
        return hub.encoding(config, Path(encoder))
    params, _ = _weights(Path(encoder))

    def encode(energies: Sequence[np.ndarray]) -> np.ndarray:
        groups = campplus.deal([len(clip) for clip in energies])
        found = [
            _vectors(params, campplus.lay([energies[clip] for clip in group]), config)[: len(group)]
            for group in groups
        ]
        return np.concatenate(found)[:, None]

    return encode


def with_weights(config: AnyEncoderConfig, encoder: str | os.PathLike) -> AnyEncoderConfig:
    """The configuration for the weights of a file or folder.

    Raises:
        UserError: it is missing or has none, or not the layer that is asked for.
    """
    if isinstance(config, HubConfig):
        return hub.with_weights(config, Path(encoder))
    return config._replace(weights=_weights(Path(encoder))[1])


@lru_cache(maxsize=1)
def _weights(path: Path) -> tuple[campplus.Params, str]:
    params, content_hash = weights.load(path)
    return jax.device_put(params), content_hash


@partial(jax.jit, static_argnames="config")
def _vectors(
    params: campplus.Params, clips: campplus.Clips, config: EncoderConfig
) -> Float[Array, "clips coeffs"]:
    layer = campplus.layers(params, clips).blocks[int(config.layer.removeprefix("block")) - 1]
    mean, deviation = campplus.over_time(layer, clips)
    return jnp.concatenate([mean, deviation], axis=1) if "deviation" in config.statistics else mean
