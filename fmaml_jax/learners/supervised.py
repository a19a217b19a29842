"""The paper's first baseline: a network trained from scratch on the target's support alone."""

from functools import partial

import jax
import jax.numpy as jnp
import optax
from jax import lax

from fmaml_jax.config import Config
from fmaml_jax.learners.adaptation import make_support_loss, query_logits
from fmaml_jax.learners.interface import Learner
from fmaml_jax.maml import Params, Task
from fmaml_jax.model import Model


def make(config: Config, model: Model) -> Learner:
    """The learner: `config.meta_steps` steps of Adam, rate `config.outer_lr`, whole support."""
    optimizer = optax.adam(config.outer_lr)
    gradient = jax.grad(make_support_loss(config, model))

    def adapt(params: Params, task: Task) -> Params:
        def step(state: tuple, _: None) -> tuple[tuple, None]:
            theta, moments = state
            slope = gradient(theta, task.labelled)
            updates, moments = optimizer.update(slope, moments)
            return (optax.apply_updates(theta, updates), moments), None

        (trained, _), _ = lax.scan(step, (params, optimizer.init(params)), length=config.meta_steps)
        return jax.tree.map(lambda *states: jnp.stack(states), params, trained)

    return Learner(model.init, None, adapt, partial(query_logits, model))
