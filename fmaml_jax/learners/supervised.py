"""The paper's first baseline: a network trained from scratch on the target's support alone."""

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from fmaml_jax.config import Config
from fmaml_jax.learners.adaptation import make_support_loss, query_logits
from fmaml_jax.learners.interface import Learner
from fmaml_jax.maml import Params, Task
from fmaml_jax.model import Model


def make(config: Config, model: Model) -> Learner:
    """The learner: `config.meta_steps` steps of Adam, rate `config.outer_lr`, whole support."""
    optimizer = optax.adam(config.outer_lr)
    gradient = jax.grad(make_support_loss(model))

    def predict(params: Params, task: Task, batch_norm: str) -> Array:
        def step(state: tuple, _: None) -> tuple[tuple, None]:
            theta, moments = state
            slope = gradient(theta, (task.support, task.support_labels))
            updates, moments = optimizer.update(slope, moments)
            return (optax.apply_updates(theta, updates), moments), None

        (trained, _), _ = lax.scan(step, (params, optimizer.init(params)), length=config.meta_steps)
        logits = [query_logits(model, theta, task, batch_norm) for theta in (params, trained)]
        return jnp.stack(logits)

    return Learner(model.init, None, predict)
