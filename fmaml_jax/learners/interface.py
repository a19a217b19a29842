"""What training and evaluation ask of a method."""

from collections.abc import Callable
from typing import NamedTuple

import optax
from jax import Array
from jaxtyping import Float, PyTree, Scalar

from fmaml_jax.maml import Params, Task


class Learner(NamedTuple):
    """A method as four pure functions of one task; the callers batch, differentiate and jit.

    Attributes:
        init: key -> parameters.
        loss: (parameters, task) -> (query loss to minimise, query accuracy); None where nothing is
            learned before the target's support.
        adapt: (parameters, task) -> states before adaptation to the support and after each step
            of it, with a leading axis `steps`; 1 where the method does not adapt. Neither query nor
            query labels are used.
        logits: (one of these states, task, batch-norm mode) -> query logits, without using the
            query labels.
        optimizer: outer rate -> the outer optimiser. What a loss has to know of the meta-step is a
            parameter that its optimiser counts up; so it is in every checkpoint.
    """

    init: Callable[[Array], Params]
    loss: Callable[[Params, Task], tuple[Scalar, Scalar]] | None
    adapt: Callable[[Params, Task], PyTree[Float[Array, "steps ..."]]]
    logits: Callable[[PyTree[Float[Array, "..."]], Task, str], Float[Array, "queries classes"]]
    optimizer: Callable[[float], optax.GradientTransformation] = optax.adam
