"""What a task takes of a device's memory, found before anything is compiled or computed."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.experimental import multihost_utils
from jax.extend.core import ClosedJaxpr, Jaxpr, Var
from jaxtyping import Float, PyTree, Scalar

from fmaml_jax.data.episodes import Episodes, TaskShape
from fmaml_jax.learners.interface import Learner
from fmaml_jax.maml import Params
from fmaml_jax.training.devices import Layout
from fmaml_jax.training.evaluate import gather

SHARE = 0.5
"""Of the free memory, what tasks may take by the estimate, which is within a quarter of XLA's."""


def peak_bytes(function: Callable[..., Any], *args: Any) -> int:
    """Bytes that a function's intermediate results hold at its fullest.

    The operations are walked through in the order in which they are traced, a result counting
    from where it is computed to where it is last used. XLA fuses and reorders; `memory_analysis` of
    the compiled program tells it exactly, but compiling takes a minute.

    Args:
        function: a function of arrays.
        args: its arguments, or `jax.ShapeDtypeStruct`s; they do not count.
    """
    return _peak(jax.make_jaxpr(function)(*args).jaxpr)


def _peak(jaxpr: Jaxpr) -> int:
    last_use = {var: i for i, eqn in enumerate(jaxpr.eqns) for var in _variables(eqn.invars)}
    last_use |= dict.fromkeys(_variables(jaxpr.outvars), len(jaxpr.eqns))
    sizes, peak = {}, 0
    for i, eqn in enumerate(jaxpr.eqns):
        sizes |= {var: _bytes(var.aval) for var in eqn.outvars if var in last_use}
        inside = max(map(_peak, _inner(eqn.params.values())), default=0)
        peak = max(peak, sum(sizes.values()) + inside)
        for var in _variables(eqn.invars):
            if last_use[var] == i:
                sizes.pop(var, None)
    return peak


def _variables(atoms: list) -> list[Var]:
    """Without literals."""
    return [atom for atom in atoms if isinstance(atom, Var)]


def _inner(params: Any) -> Iterator[Jaxpr]:
    """The programs among an operation's parameters: a scan's body, a nested function."""
    for value in params:
        if isinstance(value, ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, Jaxpr):
            yield value
        elif isinstance(value, tuple | list):
            yield from _inner(value)


def _bytes(aval: Any) -> int:
    # A random key has no itemsize of NumPy's.
    return math.prod(aval.shape) * getattr(aval.dtype, "itemsize", 8)


def task_bytes(
    learner: Learner,
    params: Params,
    features: Float[Any, "clips time coeffs"],
    training: TaskShape,
    test: TaskShape,
) -> int:
    """The most that a task takes of a device in meta-training or in the test, with all its seeds.

    Args:
        learner: the method.
        params: its parameters, with a leading axis `seeds`.
        features: all clips.
        training: the clips of a training task.
        test: those of a test episode.
    """
    seeds = len(jax.tree.leaves(params)[0])

    def loss(params: Params, features: Array, episode: Episodes) -> Scalar:
        assert learner.loss is not None
        return jax.vmap(learner.loss)(params, gather(features, episode))[0].sum()

    def adapt(params: Params, features: Array, episode: Episodes) -> PyTree:
        return jax.vmap(learner.adapt)(params, gather(features, episode))

    def logits(params: Params, features: Array, episode: Episodes) -> Array:
        of_step = jax.tree.map(lambda leaf: leaf[:, -1], adapt(params, features, episode))
        of_seeds = jax.vmap(lambda state, task: learner.logits(state, task, "inductive"))
        return of_seeds(of_step, gather(features, episode))

    found = [peak_bytes(logits, params, features, _episode(test, seeds))]
    if learner.loss:
        found.append(peak_bytes(jax.grad(loss), params, features, _episode(training, seeds)))
    return max(found)


def _episode(shape: TaskShape, seeds: int) -> Episodes:
    support, query = (
        jax.ShapeDtypeStruct((seeds, sum(clips)), np.int32)
        for clips in (shape.support, shape.query)
    )
    return Episodes(support, support, query, query)


def with_chunk(layout: Layout, *problem: Any) -> Layout:
    """The layout with as many tasks at once as a device's free memory holds, if none are given.

    Args:
        layout: from `make_layout`.
        problem: the arguments of `task_bytes`.
    """
    free = _free_bytes(layout)
    if layout.chunk or free is None:
        return layout
    needed = task_bytes(*problem)
    chunk = max(1, int(SHARE * free) // needed)
    print(
        f"A task takes {needed / 2**20:.1f} MiB; a device, with {free / 2**30:.1f} GiB free, "
        f"computes at most {chunk} at once",
        flush=True,
    )
    return layout._replace(chunk=chunk)


def _free_bytes(layout: Layout) -> int | None:
    """Of the device that has least, on any host; None where a device does not tell."""
    stats = [device.memory_stats() for device in layout.mesh.local_devices]
    free = min((s["bytes_limit"] - s["bytes_in_use"] for s in stats if s), default=-1)
    if jax.process_count() > 1:
        free = int(np.min(multihost_utils.process_allgather(np.int64(free))))
    return None if free < 0 else free
