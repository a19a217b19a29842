"""One classifier of all source clips: as it is (zero-shot), or fine-tuned on the support.

Positions keep their meaning in training, and a training task is no more than a batch of clips.
"""

import jax.numpy as jnp
from jaxtyping import Scalar

from fmaml_jax.config import Config
from fmaml_jax.learners import fmaml
from fmaml_jax.learners.adaptation import query_loss, unadapted
from fmaml_jax.learners.interface import Learner
from fmaml_jax.maml import Params, Task
from fmaml_jax.model import Model


def make_finetune(config: Config, model: Model) -> Learner:
    """The classifier, fine-tuned by `config.test_inner_steps` steps of rate `config.inner_lr`."""

    def loss(params: Params, task: Task) -> tuple[Scalar, Scalar]:
        clips = jnp.concatenate([task.support, task.query])
        labels = jnp.concatenate([task.support_labels, task.query_labels])
        return query_loss(
            model.apply(params, clips, None), task._replace(query=clips, query_labels=labels)
        )

    return fmaml.make(config, model)._replace(loss=loss)


def make(config: Config, model: Model) -> Learner:
    """The classifier without adaptation; the support serves inductive statistics alone."""
    return make_finetune(config, model)._replace(adapt=unadapted)
