"""The paper's mathematics (sections 2 and 3.1, Algorithm 1): adaptation and the meta-gradient.

Nothing here knows of flags, files, networks or speech: a `Loss` is any function of parameters and
data. Shapes are named once: `tasks`, `shots` (support clips of a task, N * K), `queries` (query
clips of a task), `time`, `coeffs`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float, Int, PyTree, Scalar

AnyArray = Array | np.ndarray
"""What is read from files is NumPy's, and JAX computes with it as well."""
Params = PyTree[Float[AnyArray, "..."]]
Rates = PyTree[float | Float[AnyArray, "..."]]
Data = TypeVar("Data", bound=PyTree)
Loss = Callable[[Params, Data], Scalar]


Labelled = tuple[Array, Array, Array | None]
"""Clips, their labels and weights."""


class Task(NamedTuple):
    """A meta-task T_i. By the N + F rule, labels N..N+F-1 (fixed classes) are in the query only.

    In the support loss a clip may count as more or fewer than one, as `support_weights` says.
    """

    support: Float[Array, "shots time coeffs"]
    support_labels: Int[Array, " shots"]
    query: Float[Array, "queries time coeffs"]
    query_labels: Int[Array, " queries"]
    support_weights: Float[Array, " shots"] | None = None

    @property
    def labelled(self) -> Labelled:
        """What the support loss is of: clips, their labels and weights."""
        return self.support, self.support_labels, self.support_weights


def cross_entropy(
    logits: Float[Array, "clips classes"],
    labels: Int[Array, " clips"],
    weights: Float[Array, " clips"] | None = None,
) -> Float[Array, ""]:
    """Equations (1) and (3), averaged over the clips (by `weights`) instead of summed.

    The sum would multiply the inner rate by the number of clips; the authors' code averages too.
    """
    log_probabilities = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)
    if weights is None:
        return -log_probabilities.mean()
    return -jnp.average(log_probabilities[:, 0], weights=weights)


def twice_differentiable_grad(loss: Loss[Data]) -> Callable[[Params, Data], Params]:
    """`jax.grad(loss)` whose own derivative costs little memory.

    The vector-Jacobian product of a gradient is a Hessian-vector product, and the Hessian is
    symmetric: it is the forward derivative of the gradient along the cotangent. Taking it so
    (forward over reverse; MixFlow-MG, arXiv 2505.00793) keeps only the parameters of each inner
    step, not the activations of its backward pass.

    The result is differentiable in the parameters only: the data count as constants.
    """
    gradient = jax.grad(loss)

    @jax.custom_vjp
    def grad(params: Params, data: Data) -> Params:
        return gradient(params, data)

    def forward(params: Params, data: Data) -> tuple[Params, tuple[Params, Data]]:
        return gradient(params, data), (params, data)

    def backward(residuals: tuple[Params, Data], cotangent: Params) -> tuple[Params, None]:
        params, data = residuals
        _, product = jax.jvp(lambda p: gradient(p, data), (params,), (cotangent,))
        return product, None

    grad.defvjp(forward, backward)
    return grad


def adapt(
    loss: Loss[Data],
    params: Params,
    data: Data,
    *,
    rate: float | Rates,
    steps: int,
    first_order: bool = False,
    metric: Callable[[Params], Params] = lambda gradient: gradient,
) -> tuple[Params, Params]:
    """Equation (2), repeated: theta' <- theta' - alpha * grad L_S(theta').

    The gradient may be taken in a metric: theta' <- theta' - alpha * M grad L_S(theta').

    Args:
        loss: the support loss L_S as a function of parameters and data.
        params: theta, where every task starts.
        data: the support set, handed to `loss`.
        rate: alpha, one number or one for each parameter (Meta-SGD, Li et al. 2017, eq. 1).
        steps: number of gradient steps, at least 1.
        first_order: treat the inner gradient as a constant (FOMAML, Finn et al. 2017, 5.2).
        metric: M, which does not depend on the parameters.

    Returns:
        The adapted parameters theta', and the parameters after each step (a leading axis of
        `steps`); what is not used of the latter costs nothing under `jit`.
    """

    def gradient(theta: Params) -> Params:
        if first_order:
            return jax.grad(loss)(lax.stop_gradient(theta), data)
        return twice_differentiable_grad(loss)(theta, data)

    rates = jax.tree.map(lambda _: rate, params) if isinstance(rate, float) else rate

    def inner_step(theta: Params, _: None) -> tuple[Params, Params]:
        direction = metric(gradient(theta))
        theta = jax.tree.map(lambda t, r, g: t - r * g, theta, rates, direction)
        return theta, theta

    return lax.scan(inner_step, params, length=steps)


def meta_gradient(
    task_loss: Callable[[Params, Data], tuple[Scalar, Any]],
    params: Params,
    tasks: Data,
    chunk: int,
) -> tuple[Scalar, Any, Params]:
    """Equation (5): the mean over the batch of the query losses, and its gradient.

    The batch is cut into chunks: `vmap` within a chunk, one chunk after the other, so that memory
    grows with the chunk and not with the batch. One chunk of the whole batch is plain `vmap`.

    Args:
        task_loss: (parameters, one task) -> (query loss after adaptation, auxiliary outputs).
        params: theta.
        tasks: a pytree with a leading axis `tasks` on every leaf.
        chunk: tasks in a chunk; divides the number of tasks.

    Returns:
        Mean loss, mean auxiliary outputs, and the gradient with respect to theta.
    """

    def chunk_loss(theta: Params, chunk_tasks: Data) -> tuple[Scalar, Any]:
        return _mean(jax.vmap(task_loss, (None, 0))(theta, chunk_tasks))

    def chunk_gradient(chunk_tasks: Data) -> tuple[tuple[Scalar, Any], Params]:
        return jax.value_and_grad(chunk_loss, has_aux=True)(params, chunk_tasks)

    chunks = jax.tree.map(lambda leaf: leaf.reshape(-1, chunk, *leaf.shape[1:]), tasks)
    (loss, auxiliary), gradient = _mean(lax.map(chunk_gradient, chunks))
    return loss, auxiliary, gradient


def _mean(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: leaf.mean(axis=0), tree)
