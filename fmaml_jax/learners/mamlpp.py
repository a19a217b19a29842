"""MAML++ (Antoniou, Edwards and Storkey 2019, arXiv 1810.09502): MAML with what steadies it.

- Multi-step loss: the query counts after every inner step; the weights move to the last step.
- Inner rates are learned, one for each layer and step.
- Normalisation has a scale and bias of its own for each step, which are learned outside and not
  adapted inside. The paper's running averages have no part here: the network keeps none.
- The outer rate falls along a cosine, to zero after the last meta-step.

Derivative-order annealing is left out: in one program for all meta-steps both orders would be
computed in every step, and there would be no time to gain; `--first_order` has the cheap order
throughout.

Steps beyond `config.inner_steps` use the last trained step's rates, scales and biases.
"""

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax
from jaxtyping import Float, Scalar

from fmaml_jax.config import Config
from fmaml_jax.learners.adaptation import (
    make_learner,
    make_support_loss,
    query_logits,
    query_loss,
    start_optimizer,
    with_start,
)
from fmaml_jax.learners.interface import Learner
from fmaml_jax.maml import Params, Task, adapt
from fmaml_jax.model import NORMALISATION, Model

ANNEALED = 0.15
"""Share of meta-training in which the loss weights move; the authors' for Mini-ImageNet."""
LEAST = 0.03
"""What remains then of the weight of a step before the last, relative to equal weights.

As in the authors' code, which leaves these steps out altogether once the annealing is over.
"""


def loss_weights(progress: float | Scalar, steps: int) -> Float[Array, " steps"]:
    """Weights of the query losses after each step: equal at first, of sum 1.

    Args:
        progress: share of meta-training that is done, 0 to 1.
        steps: inner steps.
    """
    before_last = jnp.maximum(1 - progress / ANNEALED, LEAST) / steps
    weights = jnp.full(steps, before_last)
    return weights.at[-1].add(1 - weights.sum())


def make(config: Config, model: Model) -> Learner:
    """The learner; every rate starts at `config.inner_lr`, the norms as the model has them.

    Its parameters are `start` (all layers that are adapted), `norms` and `rates` (a leading axis
    of `config.inner_steps`), and `meta_step`, the number of updates so far.
    """
    support_loss = make_support_loss(config, model)

    def init(key: Array) -> Params:
        network = model.init(key)
        norms = {name: layer for name, layer in network.items() if name.startswith(NORMALISATION)}
        start = {name: layer for name, layer in network.items() if name not in norms}
        each_step = jnp.ones(config.inner_steps)
        return {
            "start": start,
            "norms": jax.tree.map(lambda leaf: jnp.multiply.outer(each_step, leaf), norms),
            "rates": dict.fromkeys(start, config.inner_lr * each_step),
            "meta_step": jnp.zeros(()),
        }

    def adapted(params: Params, task: Task, steps: int) -> tuple[Params, Params]:
        trained = jnp.minimum(jnp.arange(steps), config.inner_steps - 1)
        by_step = jax.tree.map(lambda leaf: leaf[trained], (params["norms"], params["rates"]))

        def inner_step(theta: Params, of_step: tuple[Params, Params]) -> tuple[Params, Params]:
            norms, rates = of_step
            network = theta | norms
            network, _ = adapt(
                support_loss,
                network,
                task.labelled,
                rate=jax.tree.broadcast(rates | dict.fromkeys(norms, 0.0), network),
                steps=1,
                first_order=config.first_order,
            )
            return {name: network[name] for name in theta}, network

        _, path = lax.scan(inner_step, params["start"], by_step)
        start = params["start"] | jax.tree.map(lambda leaf: leaf[0], params["norms"])
        return jax.tree.map(lambda leaf: leaf[-1], path), with_start(start, path)

    def loss(params: Params, task: Task) -> tuple[Scalar, Scalar]:
        """The weighted query losses of all steps, and the accuracy after the last."""

        def after_step(network: Params) -> tuple[Scalar, Scalar]:
            return query_loss(query_logits(model, network, task, config.batch_norm), task)

        _, path = adapted(params, task, config.inner_steps)
        losses, accuracies = lax.map(after_step, jax.tree.map(lambda leaf: leaf[1:], path))
        progress = lax.stop_gradient(params["meta_step"]) / config.meta_steps
        return loss_weights(progress, config.inner_steps) @ losses, accuracies[-1]

    def optimizer(rate: float) -> optax.GradientTransformation:
        """Adam along a cosine; `meta_step` goes up by one, whatever its gradient."""
        cosine = optax.cosine_decay_schedule(rate, config.meta_steps)
        count = optax.stateless(lambda updates, _: jax.tree.map(jnp.ones_like, updates))
        return optax.partition(
            {
                "start": start_optimizer(cosine, config.outer_decay),
                "learned": optax.adam(cosine),
                "counted": count,
            },
            {"start": "start", "norms": "learned", "rates": "learned", "meta_step": "counted"},
        )

    return make_learner(config, model, init, adapted)._replace(loss=loss, optimizer=optimizer)
