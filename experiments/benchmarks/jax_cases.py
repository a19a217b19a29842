"""The meta-step in JAX: the product's own path, and the naive form that it replaces."""

from collections.abc import Callable, Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array
from jaxtyping import Scalar

from experiments.benchmarks.workload import (
    CLASSES,
    INNER_LR,
    OUTER_LR,
    SHAPE,
    SIDE,
    TEST_SHAPE,
    Workload,
    make_episodes,
    make_features,
    make_pools,
)
from fmaml_jax.config import Config
from fmaml_jax.convolution import reference_conv
from fmaml_jax.data.episodes import Episodes
from fmaml_jax.learners import find_method
from fmaml_jax.maml import Params, Task, cross_entropy
from fmaml_jax.model import Model, make_model, model_of
from fmaml_jax.training.devices import make_layout, replicated, to_devices
from fmaml_jax.training.evaluate import gather, make_programs, predict_episodes
from fmaml_jax.training.memory import with_chunk
from fmaml_jax.training.train import State, make_update

Step = Callable[[], float]
Gradient = Callable[[], dict[str, np.ndarray]]


def initial_params(workload: Workload) -> dict[str, np.ndarray]:
    """The product's initial parameters, by "layer/leaf"."""
    model = make_model(CLASSES, filters=workload.filters)
    return _flat(model.init(jax.random.key(0)))


def ours(workload: Workload, initial: Mapping[str, np.ndarray]) -> tuple[Step, Gradient]:
    """A meta-step as `fmaml_jax.main` runs it (-> loss), and the last step's gradient."""
    config = Config(
        inner_lr=INNER_LR,
        inner_steps=workload.steps,
        first_order=workload.first_order,
        outer_lr=OUTER_LR,
        task_batch=workload.tasks,
        filters=workload.filters,
        precision=workload.precision,
    )
    learner = find_method(config)[0].make(config, model_of(config, SIDE))
    params = _seeds(initial, workload.seeds)
    features = make_features()
    layout = make_layout(config.task_batch, config.task_chunk)
    layout = with_chunk(layout, learner, params, features, SHAPE, TEST_SHAPE)
    optimizer = optax.adam(config.outer_lr)
    update = make_update(learner, optimizer, layout)
    place = replicated(layout.mesh)
    features = jax.device_put(features, place)
    episodes = make_episodes(workload.tasks)
    episodes = Episodes(*(np.stack([array] * workload.seeds, axis=1) for array in episodes))
    episodes = to_devices(layout.mesh, episodes)
    # Placed whole, as in `train`: a leaf of another placement would be compiled for anew.
    state = jax.device_put(State(params, optimizer.init(params)), place)
    step, gradient = _steps(state, lambda state: update(state, features, episodes))
    return step, lambda: {name: leaf[0] for name, leaf in gradient().items()}


def make_evaluation(
    workload: Workload, initial: Mapping[str, np.ndarray]
) -> Callable[[int], np.ndarray]:
    """Number of episodes -> query logits before adaptation and after each step, as in a run."""
    config = Config(inner_lr=INNER_LR, test_inner_steps=workload.steps, filters=workload.filters)
    layout = make_layout(config.task_batch, config.task_chunk)
    learner = find_method(config)[0].make(config, model_of(config, SIDE))
    programs = make_programs(learner, layout)
    params, features = jax.device_put(
        (_seeds(initial, 1), make_features()), replicated(layout.mesh)
    )

    def evaluate(episodes: int) -> np.ndarray:
        return predict_episodes(
            programs,
            layout,
            params,
            features,
            make_pools(),
            TEST_SHAPE,
            seeds=[0],
            split="test",
            episodes=episodes,
            modes=("transductive",),
        )["transductive"][0].logits

    return evaluate


def naive(workload: Workload, initial: Mapping[str, np.ndarray]) -> tuple[Step, Gradient]:
    """The same with `vmap` of the library's convolution, and reverse over reverse."""
    optimizer = optax.adam(OUTER_LR)
    model = make_model(CLASSES, filters=workload.filters, convolution=reference_conv)
    features = jnp.asarray(make_features())
    tasks = gather(features, make_episodes(workload.tasks))
    gradient = jax.value_and_grad(partial(naive_loss, model, workload))

    @partial(jax.jit, donate_argnums=0)
    def update(state: State, tasks: Task) -> tuple[State, tuple[Scalar]]:
        loss, direction = gradient(state.params, tasks)
        updates, optimizer_state = optimizer.update(direction, state.optimizer)
        return State(optax.apply_updates(state.params, updates), optimizer_state), (loss,)

    params = _nested(initial)
    return _steps(State(params, optimizer.init(params)), lambda state: update(state, tasks))


def naive_loss(model: Model, workload: Workload, params: Params, tasks: Task) -> Scalar:
    """The mean query loss of a batch of tasks after adaptation, as one writes it down."""

    def loss(theta: Params, clips: Array, labels: Array) -> Scalar:
        return cross_entropy(model.apply(theta, clips, None), labels)

    def task_loss(task: Task) -> Scalar:
        theta = params
        for _ in range(workload.steps):
            slope = jax.grad(loss)(theta, task.support, task.support_labels)
            if workload.first_order:
                slope = jax.lax.stop_gradient(slope)
            theta = jax.tree.map(lambda t, s: t - INNER_LR * s, theta, slope)
        return loss(theta, task.query, task.query_labels)

    return jax.vmap(task_loss)(tasks).mean()


def _steps(state: State, update: Callable[[State], tuple[State, tuple]]) -> tuple[Step, Gradient]:
    def step() -> float:
        nonlocal state
        state, (loss, *_) = jax.block_until_ready(update(state))
        return float(loss.sum())

    def gradient() -> dict[str, np.ndarray]:
        # Adam's first moment after its first step is (1 - 0.9) times the gradient.
        return {name: mean / 0.1 for name, mean in _flat(state.optimizer[0].mu).items()}

    return step, gradient


def _flat(params: Params) -> dict[str, np.ndarray]:
    return {name: np.asarray(leaf) for name, leaf in flatten_dict(params, sep="/").items()}


def _nested(params: Mapping[str, np.ndarray]) -> Params:
    return unflatten_dict({name: jnp.asarray(leaf) for name, leaf in params.items()}, sep="/")


def _seeds(params: Mapping[str, np.ndarray], seeds: int) -> Params:
    return jax.tree.map(lambda leaf: jnp.stack([leaf] * seeds), _nested(params))


def transfer(episodes: Episodes) -> None:
    """Puts tasks on the devices, as the training loop does, and waits until they are there."""
    jax.block_until_ready(to_devices(make_layout(len(episodes.query)).mesh, episodes))
