"""F-MAML (Algorithm 1), and MetaSER (Chopra et al. 2021): the same update on other tasks.

What makes it F-MAML is in the tasks (see `episodes`): fixed classes keep the last outputs, are in
every query and in no support. With all classes in the support, and all positions shuffled, it is
MAML on a plain (N + F)-way problem, which is MetaSER.
"""

from collections.abc import Callable, Set

import jax
import jax.numpy as jnp
from jax import Array

from fmaml_jax.config import Config
from fmaml_jax.learners.adaptation import make_learner, make_support_loss, with_start
from fmaml_jax.learners.interface import Learner
from fmaml_jax.maml import Params, Task, adapt
from fmaml_jax.model import CONTEXT, Model


def make(config: Config, model: Model, adapting: Set[str] | None = None) -> Learner:
    """The learner for a model with N + F outputs.

    Args:
        config: the run's settings.
        model: the network.
        adapting: the layers that adapt, at the rate `config.inner_lr`; by default all of them or,
            where the network has context parameters, these alone.
    """
    layers = layers_of(model)
    if adapting is None:
        adapting = {CONTEXT} & layers or layers
    rates = {name: config.inner_lr if name in adapting else 0.0 for name in layers}
    support_loss = make_support_loss(config, model)
    measured = config.inner_metric == "sources"

    def adapted(params: Params, task: Task, steps: int) -> tuple[Params, Params]:
        metric = {"metric": inner_metric(model, task)} if measured else {}
        theta, path = adapt(
            support_loss,
            params,
            task.labelled,
            rate=jax.tree.broadcast(rates, params),
            steps=steps,
            first_order=config.first_order,
            **metric,
        )
        return theta, with_start(params, path)

    return make_learner(config, model, model.init, adapted)


def layers_of(model: Model) -> Set[str]:
    """The names of a network's layers."""
    return jax.eval_shape(model.init, jax.random.key(0)).keys()


def inner_metric(model: Model, task: Task) -> Callable[[Params], Params]:
    """M of equation (2): (1 - A A') / s of the context parameters' gradient, A the model's axes.

    The scale s is the mean of x' (1 - A A') x over the support, so that a rate means the same
    whatever the number of coefficients and however far apart a language's clips lie.
    """
    axes = model.axes
    assert axes is not None

    def damped(columns: Array) -> Array:
        return columns - axes @ (axes.T @ columns)

    vectors = model.features({}, task.support, None)[:, -len(axes) :]
    sizes = (vectors * damped(vectors.T).T).sum(axis=1)
    scale = jnp.average(sizes, weights=task.support_weights)

    def metric(gradient: Params) -> Params:
        context = jax.tree.map(lambda columns: damped(columns) / scale, gradient[CONTEXT])
        return {**gradient, CONTEXT: context}

    return metric
