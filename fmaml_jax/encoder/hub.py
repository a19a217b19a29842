"""Encoders that people have on disk, as model hubs publish them: samples -> a layer's statistics.

`transformers` (requirements-hub.txt) computes wav2vec2, HuBERT, WavLM and the encoder of Whisper,
on the CPU and clip by clip, so that a vector knows nothing of other clips and of padding. Nothing
is downloaded, no pickle is read, and no code in a folder is run.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32
from threadpoolctl import threadpool_limits

from fmaml_jax.audio.decoding import SAMPLE_RATE
from fmaml_jax.audio.features import HubConfig
from fmaml_jax.common.errors import UserError
from fmaml_jax.common.processes import cores

_CLASSES = {  # by `model_type`: the network, and what prepares its input
    "wav2vec2": ("Wav2Vec2Model", "Wav2Vec2FeatureExtractor"),
    "hubert": ("HubertModel", "Wav2Vec2FeatureExtractor"),
    "wavlm": ("WavLMModel", "Wav2Vec2FeatureExtractor"),
    "whisper": ("WhisperModel", "WhisperFeatureExtractor"),
}
_PACKAGES = ("torch", "transformers", "safetensors")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_LEAST = 400
"""Samples of the shortest clip that gives a frame; what is shorter is padded with zeros to it."""
_WANTED = (
    "give with --encoder a folder as published, which has config.json, preprocessor_config.json "
    "and safetensors"
)


class _Contents(NamedTuple):
    """What a folder holds; `weights` is the hash of all that vectors depend on."""

    architecture: str
    layers: int
    weights: str


def with_weights(config: HubConfig, folder: Path) -> HubConfig:
    """The configuration for what a folder holds; of no layer, for the middle one.

    Raises:
        UserError: there is no such folder or layer, or it cannot be used; PyTorch is not needed.
    """
    found = _contents(folder)
    layer = config.layer or max(1, found.layers // 2)
    if not 1 <= layer <= found.layers:
        raise UserError(
            f"the encoder in {folder} has no layer {layer}; give one from 1 to {found.layers} with "
            "--layer"
        )
    return config._replace(architecture=found.architecture, weights=found.weights, layer=layer)


def encoding(
    config: HubConfig, folder: Path
) -> Callable[[Sequence[Float32[np.ndarray, "_ 1"]]], Float32[np.ndarray, "clips 1 coeffs"]]:
    """What makes the vectors of several clips of their samples, [samples, 1].

    Args:
        config: which layer, and what of it; of `with_weights`.
        folder: of the encoder.

    Raises:
        UserError: a package is missing, or the folder cannot be read.
    """
    model, extractor = _load(folder, config.architecture)
    torch = import_module("torch")
    # Whisper hears every clip padded to 30 s; of its frames those of the clip itself count.
    step = 2 * extractor.hop_length if config.architecture == "whisper" else None

    def vector(samples: Float32[np.ndarray, " samples"]) -> Float32[np.ndarray, " coeffs"]:
        samples = np.pad(samples, (0, max(0, _LEAST - len(samples))))
        made = extractor(samples, sampling_rate=SAMPLE_RATE, return_tensors="pt")
        output = model(made[model.main_input_name], output_hidden_states=True)
        frames = output.hidden_states[config.layer][0].numpy()
        frames = frames[: -(-len(samples) // step)] if step else frames
        deviation = frames.std(axis=0, ddof=min(1, len(frames) - 1))
        return np.concatenate([frames.mean(axis=0), deviation])

    def encode(clips: Sequence[np.ndarray]) -> np.ndarray:
        with _refuse_unreadable(folder), torch.inference_mode(), threadpool_limits(cores()):
            return np.stack([vector(clip[:, 0]) for clip in clips])[:, None]

    return encode


@lru_cache(maxsize=1)
def _contents(folder: Path) -> _Contents:
    settings, prepared = folder / "config.json", folder / "preprocessor_config.json"
    config = _read(settings)
    architecture = str(config.get("model_type"))
    if architecture not in _CLASSES:
        raise UserError(
            f"{folder} holds an encoder of the kind {architecture}, which is unknown here; give "
            f"one of {', '.join(_CLASSES)} with --encoder"
        )
    weights = _weight_files(folder)
    rate = _read(prepared).get("sampling_rate", SAMPLE_RATE)
    if rate != SAMPLE_RATE:
        raise UserError(
            f"the encoder in {folder} hears sound at {rate} Hz, and clips are read at "
            f"{SAMPLE_RATE} Hz; give another with --encoder"
        )
    layers = config.get("encoder_layers" if architecture == "whisper" else "num_hidden_layers")
    if not isinstance(layers, int):
        raise UserError(f"{settings} does not say how many layers there are; {_WANTED}")
    digest = hashlib.sha256()
    for path in (settings, prepared, *weights):
        try:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise UserError(f"cannot read {path} ({error.strerror}); {_WANTED}") from error
    return _Contents(architecture, layers, digest.hexdigest())


def _weight_files(folder: Path) -> list[Path]:
    """What the library reads: one file, or the parts that an index names; safetensors alone."""
    names, index = ["model.safetensors"], folder / "model.safetensors.index.json"
    if not (folder / names[0]).is_file() and index.is_file():
        parts = _read(index).get("weight_map")
        if isinstance(parts, dict) and parts:
            names = sorted({str(part) for part in parts.values()})
    files = [folder / name for name in names]
    lacking = [path.name for path in files if path.suffix != ".safetensors" or not path.is_file()]
    if not lacking:
        return files
    pickles = sorted(path.name for kind in _PICKLES for path in folder.glob(kind))
    if pickles:
        raise UserError(
            f"{folder} has its weights as a pickle alone ({pickles[0]}), which could run code as "
            "it is read; get or make model.safetensors of them"
        )
    raise UserError(f"{folder} has no weights, {lacking[0]}; {_WANTED}")


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        reason = getattr(error, "strerror", None) or "it is damaged"
        raise UserError(f"cannot read {path} ({reason}); {_WANTED}") from error


@lru_cache(maxsize=1)
def _load(folder: Path, architecture: str) -> tuple[Any, Any]:
    """The network and what prepares its input, both of `transformers`."""
    if missing := [name for name in _PACKAGES if find_spec(name) is None]:
        raise UserError(
            f"the encoder in {folder} needs packages that are not there ({', '.join(missing)}); "
            "`pip install -r requirements-hub.txt` installs them, or `pip install 'fmaml-jax[hub]'`"
        )
    os.environ["HF_HUB_OFFLINE"] = "1"  # read when the library is imported
    # By name, since type checkers and most users do without them.
    torch, transformers = import_module("torch"), import_module("transformers")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    network, extractor = (getattr(transformers, name) for name in _CLASSES[architecture])
    local = {"local_files_only": True, "trust_remote_code": False}
    with _refuse_unreadable(folder):
        prepares = extractor.from_pretrained(folder, **local)
        model, report = network.from_pretrained(
            folder,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
            **local,
        )
        # Where the library finds none, it draws weights at random.
        unused = "masked_spec_embed", "decoder."
        lacking = sorted(name for name in report["missing_keys"] if not name.startswith(unused))
        if lacking:
            raise ValueError(f"it lacks {lacking[0]}")
    return model.get_encoder() if architecture == "whisper" else model, prepares


@contextlib.contextmanager
def _refuse_unreadable(folder: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the readers of damaged files document no exceptions
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UserError(f"the encoder in {folder} cannot be used ({reason}); {_WANTED}") from error
