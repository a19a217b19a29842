"""Label a few clips in any language, get a classifier: `enrol`, `load` and `predict`.

    from fmaml_jax.recognition import enrol, load, predict, save, write

    recogniser = enrol("descriptors", "clips/")      # a folder for each emotion, or a CSV
    recogniser = enrol("descriptors", {"anger": ["a.wav", (samples, 16000)], "joy": ["b.wav"]})
    print(recogniser.estimate.uar, recogniser.warnings)
    save(recogniser, "my.model")
    prediction = predict(load("my.model"), "call.wav")
    print(prediction.label, prediction.segments)
    write([prediction], "call.TextGrid")

Every error that a user can mend is a `UserError` of one sentence.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fmaml_jax.common.errors import UserError
    from fmaml_jax.recognition.checkpoint import Start, load_start
    from fmaml_jax.recognition.estimate import Estimate
    from fmaml_jax.recognition.interface import Source, enrol, predict, predict_folder, write
    from fmaml_jax.recognition.model_file import load, save
    from fmaml_jax.recognition.recogniser import Recogniser
    from fmaml_jax.recognition.speakers import Turn, read_turns
    from fmaml_jax.recognition.support import LabelledClip, read_clip_as
    from fmaml_jax.recognition.timeline import Prediction, Segment

_HOMES = {
    "common.errors": ("UserError",),
    "recognition.checkpoint": ("Start", "load_start"),
    "recognition.estimate": ("Estimate",),
    "recognition.interface": ("Source", "enrol", "predict", "predict_folder", "write"),
    "recognition.model_file": ("load", "save"),
    "recognition.recogniser": ("Recogniser",),
    "recognition.speakers": ("Turn", "read_turns"),
    "recognition.support": ("LabelledClip", "read_clip_as"),
    "recognition.timeline": ("Prediction", "Segment"),
}

__all__ = [
    "Estimate",
    "LabelledClip",
    "Prediction",
    "Recogniser",
    "Segment",
    "Source",
    "Start",
    "Turn",
    "UserError",
    "enrol",
    "load",
    "load_start",
    "predict",
    "predict_folder",
    "read_clip_as",
    "read_turns",
    "save",
    "write",
]

MAKE = "make one with `python -m fmaml_jax.enrol`"
"""What to do where there is no model: the end of a sentence."""


def __getattr__(name: str) -> Any:
    """Loads what is asked for, and no more: --help does not wait for JAX."""
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"fmaml_jax.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
