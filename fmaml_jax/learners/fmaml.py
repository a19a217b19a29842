"""F-MAML (Algorithm 1): emotions adapt on the support, fixed classes appear in the query alone.

What makes it F-MAML is in the tasks (see `episodes`): fixed classes keep the last outputs, are in
every query and in no support. The update itself is MAML's.
"""

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, Scalar

from fmaml_jax.config import Config
from fmaml_jax.learners.interface import Learner
from fmaml_jax.maml import Params, Task, adapt, cross_entropy
from fmaml_jax.model import Model


def make(config: Config, model: Model) -> Learner:
    """The learner for a model with N + F outputs."""

    def support_loss(params: Params, support: tuple[Array, Array]) -> Scalar:
        clips, labels = support
        return cross_entropy(model.apply(params, clips), labels)

    def adapted(params: Params, task: Task, steps: int) -> tuple[Params, Params]:
        return adapt(
            support_loss,
            params,
            (task.support, task.support_labels),
            rate=config.inner_lr,
            steps=steps,
            first_order=config.first_order,
        )

    def query_logits(
        params: Params, task: Task, batch_norm: str
    ) -> Float[Array, "queries classes"]:
        statistics = model.statistics(params, task.support) if batch_norm == "inductive" else None
        return model.apply(params, task.query, statistics)

    def loss(params: Params, task: Task) -> tuple[Scalar, Scalar]:
        theta, _ = adapted(params, task, config.inner_steps)
        logits = query_logits(theta, task, config.batch_norm)
        accuracy = jnp.mean(logits.argmax(axis=-1) == task.query_labels)
        return cross_entropy(logits, task.query_labels), accuracy

    def predict(
        params: Params, task: Task, batch_norm: str
    ) -> Float[Array, "steps queries classes"]:
        _, path = adapted(params, task, config.test_inner_steps)
        path = jax.tree.map(
            lambda start, steps: jnp.concatenate([start[None], steps]), params, path
        )
        return lax.map(lambda theta: query_logits(theta, task, batch_norm), path)

    return Learner(model.init, loss, predict)
