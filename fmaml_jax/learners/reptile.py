"""Reptile (Nichol et al. 2018): the start moves towards where plain descent on a task ends.

It knows no split into support and query: a training task's clips, with all of its classes, are
descended on together. On the target it adapts on the support alone, like the others.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Scalar

from fmaml_jax.config import Config
from fmaml_jax.learners import fmaml
from fmaml_jax.learners.adaptation import make_support_loss, query_logits, query_loss
from fmaml_jax.learners.interface import Learner
from fmaml_jax.maml import Params, Task, adapt
from fmaml_jax.model import Model


def make(config: Config, model: Model) -> Learner:
    """The learner; the outer optimiser gets theta - theta' as its gradient."""
    # All classes are in what it descends on, whichever have a support on the target.
    support_loss = make_support_loss(replace(config, inner_outputs="all"), model)

    def loss(params: Params, task: Task) -> tuple[Scalar, Scalar]:
        clips = jnp.concatenate([task.support, task.query])
        labels = jnp.concatenate([task.support_labels, task.query_labels])
        theta, _ = adapt(
            support_loss,
            lax.stop_gradient(params),
            (clips, labels, None),
            rate=config.inner_lr,
            steps=config.inner_steps,
            first_order=True,
        )
        after, accuracy = query_loss(query_logits(model, theta, task, config.batch_norm), task)
        # Of value 0, and with the gradient theta - theta'.
        pull = sum(
            jnp.vdot(lax.stop_gradient(start - end), start - lax.stop_gradient(start))
            for start, end in zip(jax.tree.leaves(params), jax.tree.leaves(theta), strict=True)
        )
        return lax.stop_gradient(after) + pull, accuracy

    return fmaml.make(config, model)._replace(loss=loss)
