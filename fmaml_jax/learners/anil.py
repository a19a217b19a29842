"""ANIL (Raghu et al. 2020) and BOIL (Oh et al. 2021): only the head, or only the body, adapts."""

from typing import Any

import jax

from fmaml_jax.config import Config
from fmaml_jax.learners import fmaml
from fmaml_jax.learners.interface import Learner
from fmaml_jax.maml import Rates
from fmaml_jax.model import HEAD, Model


def make_anil(config: Config, model: Model) -> Learner:
    """The learner whose output layer alone adapts."""
    return fmaml.make(config, model, _rates(model, head=config.inner_lr, body=0.0))


def make_boil(config: Config, model: Model) -> Learner:
    """The learner whose output layer stays as it is."""
    return fmaml.make(config, model, _rates(model, head=0.0, body=config.inner_lr))


def _rates(model: Model, head: float, body: float) -> Rates:
    def rate(path: tuple, _: Any) -> float:
        return head if path[0].key == HEAD else body

    return jax.tree_util.tree_map_with_path(rate, jax.eval_shape(model.init, jax.random.key(0)))
