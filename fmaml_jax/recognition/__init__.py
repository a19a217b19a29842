"""Label a few clips in any language, get a classifier: `enrol`, `load` and `predict`.

    from fmaml_jax.recognition import enrol, load, predict, save

    recogniser = enrol("runs/start", "clips/")       # a folder for each emotion, or a CSV
    print(recogniser.estimate.uar, recogniser.warnings)
    save("my.model", recogniser)
    prediction = predict(load("my.model"), "call.wav")
    print(prediction.segments)

Every error that a user can mend is a `fmaml_jax.common.errors.UserError` of one sentence.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fmaml_jax.recognition.interface import (
        Prediction,
        Recogniser,
        enrol,
        load,
        predict,
        predict_folder,
        save,
    )

__all__ = ["Prediction", "Recogniser", "enrol", "load", "predict", "predict_folder", "save"]


def __getattr__(name: str) -> Any:
    """Loads the interface when it is first asked for: --help does not wait for JAX."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("fmaml_jax.recognition.interface"), name)
