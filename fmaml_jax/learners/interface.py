"""What training and evaluation ask of a method."""

from collections.abc import Callable
from typing import NamedTuple

import optax
from jax import Array
from jaxtyping import Float, Scalar

from fmaml_jax.maml import Params, Task


class Learner(NamedTuple):
    """A method as three pure functions of one task; the callers batch, differentiate and jit.

    Attributes:
        init: key -> parameters.
        loss: (parameters, task) -> (query loss to minimise, query accuracy); None where nothing is
            learned before the target's support.
        predict: (parameters, task, batch-norm mode) -> query logits before adaptation and after
            each step of it, without using the query labels. A method that does not adapt returns
            its logits alone, with `steps` = 1.
        optimizer: outer rate -> the outer optimiser. What a loss has to know of the meta-step is a
            parameter that its optimiser counts up; so it is in every checkpoint.
    """

    init: Callable[[Array], Params]
    loss: Callable[[Params, Task], tuple[Scalar, Scalar]] | None
    predict: Callable[[Params, Task, str], Float[Array, "steps queries classes"]]
    optimizer: Callable[[float], optax.GradientTransformation] = optax.adam
