"""Workload M, which ours and the peers compute, and the operations it takes. NumPy alone."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from fmaml_jax.data.episodes import Episodes, TaskShape, sample
from fmaml_jax.data.split import Pool

INNER_LR = 0.1
OUTER_LR = 0.001
CLASSES = 7
SHAPE = TaskShape(ways=5, shots=5, query=(5,) * CLASSES)
TEST_SHAPE = TaskShape(ways=5, shots=5, query=(25,) * CLASSES)
CLIPS_PER_CLASS = 100
SIDE = 40


class Workload(NamedTuple):
    """A meta-step.

    Attributes:
        tasks: tasks in it, of each seed.
        steps: inner steps of each task.
        first_order: whether inner gradients are constants.
        filters: filters of each convolution.
        seeds, precision: as the flags; ours alone has them.
    """

    tasks: int = 16
    steps: int = 5
    first_order: bool = False
    filters: int = 64
    seeds: int = 1
    precision: str = "float32"


def make_features() -> Float32[np.ndarray, "clips time coeffs"]:
    """Seeded noise in the place of standardised clips; no method's speed depends on the values."""
    shape = (CLASSES * CLIPS_PER_CLASS, SIDE, SIDE)
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def make_episodes(tasks: int, step: int = 0) -> Episodes:
    """The tasks of a meta-step, by the product's own sampling."""
    return sample(make_pools(), SHAPE, seed=0, split="train", step=step, tasks=range(tasks))


def make_test_episodes(episodes: int) -> Episodes:
    """The episodes of an evaluation."""
    return sample(make_pools(), TEST_SHAPE, seed=0, split="test", step=0, tasks=range(episodes))


def make_pools() -> dict[str, Pool]:
    """Clips of each class, of one language."""
    return {"en": tuple(np.arange(CLASSES * CLIPS_PER_CLASS).reshape(CLASSES, -1))}


def meta_step_flops(workload: Workload) -> int:
    """Operations of the matrix products of a meta-step, a multiplication and an addition as two.

    A layer's forward pass is one product P of its inputs and weights. A gradient takes 3 P, for the
    outputs and for the derivatives by inputs and by weights. The reverse pass through a gradient
    adds twice as much, 6 P: each of its three products has two factors to differentiate. The first
    layer's inputs are data, which takes away one of 3 and four of 6. What a method computes anew to
    save memory, and all that is no matrix product, is not counted.
    """
    side, channels, products = SIDE, 1, []
    for _ in range(4):
        side = (side + 1) // 2
        products.append(2 * side**2 * 9 * channels * workload.filters)
        channels = workload.filters
    products.append(2 * side**2 * channels * CLASSES)
    first, rest = products[0], sum(products[1:])
    gradient = 2 * first + 3 * rest
    through_gradient = 0 if workload.first_order else 2 * first + 6 * rest
    support = SHAPE.ways * SHAPE.shots * workload.steps * (gradient + through_gradient)
    return workload.tasks * (support + sum(SHAPE.query) * gradient)
