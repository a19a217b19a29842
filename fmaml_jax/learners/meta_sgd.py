"""Meta-SGD (Li et al. 2017): the inner rate of each parameter is learned beside its start."""

import jax
import jax.numpy as jnp
import optax
from jax import Array

from fmaml_jax.config import Config
from fmaml_jax.learners.adaptation import (
    make_learner,
    make_support_loss,
    start_optimizer,
    with_start,
)
from fmaml_jax.learners.interface import Learner
from fmaml_jax.maml import Params, Task, adapt
from fmaml_jax.model import Model


def make(config: Config, model: Model) -> Learner:
    """The learner; every rate starts at `config.inner_lr`."""
    support_loss = make_support_loss(config, model)

    def init(key: Array) -> Params:
        start = model.init(key)
        rates = jax.tree.map(lambda leaf: jnp.full_like(leaf, config.inner_lr), start)
        return {"start": start, "rates": rates}

    def adapted(params: Params, task: Task, steps: int) -> tuple[Params, Params]:
        theta, path = adapt(
            support_loss,
            params["start"],
            task.labelled,
            rate=params["rates"],
            steps=steps,
            first_order=config.first_order,
        )
        return theta, with_start(params["start"], path)

    def optimizer(rate: float) -> optax.GradientTransformation:
        return optax.partition(
            {"start": start_optimizer(rate, config.outer_decay), "rates": optax.adam(rate)},
            {"start": "start", "rates": "rates"},
        )

    return make_learner(config, model, init, adapted)._replace(optimizer=optimizer)
