"""Meta-training: one loop over meta-steps, which an interrupted run takes up where it stopped."""

import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jaxtyping import Bool, Float, Int, Scalar

from fmaml_jax.common.console import STOP_SIGNALS, progress
from fmaml_jax.config import Config
from fmaml_jax.data.episodes import Episodes, TaskShape, sample_seeds, validation_tasks
from fmaml_jax.data.scale import Scale
from fmaml_jax.data.split import Split
from fmaml_jax.learners.interface import Learner
from fmaml_jax.maml import AnyArray, Params, meta_gradient
from fmaml_jax.training import checkpoints
from fmaml_jax.training.devices import (
    Layout,
    any_process,
    host_share,
    largest_divisor,
    replicated,
    split_tasks,
    to_devices,
)
from fmaml_jax.training.evaluate import Programs, gather, predict_episodes
from fmaml_jax.training.metrics import accuracy, log_loss
from fmaml_jax.training.metrics_log import metrics_logs
from fmaml_jax.training.run_folder import seed_folders

ADVICE = "try a lower --inner_lr or --outer_lr, in another --run_dir"


class NonFiniteLossError(RuntimeError):
    """The loss or its gradient became infinite or NaN; the last good state is saved."""


class InterruptedRunError(RuntimeError):
    """The run was asked to stop (one of `STOP_SIGNALS`) and has saved its state."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.signal_number = signal_number


class State(NamedTuple):
    """What the outer update changes; every leaf of `params` has a leading axis `seeds`."""

    params: Params
    optimizer: optax.OptState


class Selected(NamedTuple):
    """Each seed's trained state chosen on held-out source speakers; NaN where there are none."""

    params: Params
    val_accuracy: Float[AnyArray, " seeds"]
    step: Int[AnyArray, " seeds"]


class Checkpoint(NamedTuple):
    """All that a run continues from, beside its config; the directory's name is the meta-step."""

    state: State
    selected: Selected
    scale: Scale


class StepMetrics(NamedTuple):
    """Means over the tasks of a meta-step, before its update."""

    loss: Float[Array, " seeds"]
    accuracy: Float[Array, " seeds"]
    finite: Bool[Array, ""]


def init_seeds(learner: Learner, seeds: Sequence[int]) -> Params:
    """The learner's first parameters for each seed, with a leading axis `seeds`."""
    # Random numbers are drawn once a run, and take four times as long to compile optimised.
    options = {"xla_backend_optimization_level": "1"}

    def init(seed: Array) -> Params:
        return learner.init(jax.random.key(seed))

    return jax.jit(jax.vmap(init), compiler_options=options)(np.asarray(seeds))


def make_update(
    learner: Learner, optimizer: optax.GradientTransformation, layout: Layout
) -> Callable[..., tuple[State, StepMetrics]]:
    """The jitted outer update (equation 5): (state, features, episodes) -> (state, metrics).

    Each device computes the gradient of its share of the tasks; one all-reduce averages them. The
    given state is donated. Where the loss or its gradient is not finite, the state comes back
    unchanged.

    Seeds are trained side by side: the gradient of the sum of their losses is each one's own.
    """
    task_losses = learner.loss
    assert task_losses is not None

    def share_gradient(
        params: Params, features: Float[Array, "clips time coeffs"], episodes: Episodes
    ) -> tuple[Scalar, tuple[Array, Array], Params]:
        def task_loss(params: Params, episode: Episodes) -> tuple[Scalar, tuple[Array, Array]]:
            losses, accuracies = jax.vmap(task_losses)(params, gather(features, episode))
            return losses.sum(), (losses, accuracies)

        chunk = largest_divisor(len(episodes.query), layout.chunk)
        return meta_gradient(task_loss, params, episodes, chunk)

    batch_gradient = split_tasks(share_gradient, layout.mesh, mean=True)

    @partial(jax.jit, donate_argnums=0)
    def update(
        state: State, features: Float[Array, "clips time coeffs"], episodes: Episodes
    ) -> tuple[State, StepMetrics]:
        total, (losses, accuracies), gradient = batch_gradient(state.params, features, episodes)
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
        stepped = State(optax.apply_updates(state.params, updates), optimizer_state)
        finite = jnp.isfinite(total) & jnp.isfinite(optax.tree.norm((gradient, stepped.params)))
        state = jax.tree.map(partial(jnp.where, finite), stepped, state)
        return state, StepMetrics(losses, accuracies, finite)

    return update


def train(
    config: Config,
    learner: Learner,
    layout: Layout,
    programs: Programs,
    params: Params,
    features: Float[Array, "clips time coeffs"],
    scale: Scale,
    split: Split,
    shape: TaskShape,
    folder: Path,
) -> Selected:
    """Meta-trains, from the last checkpoint in `folder` if there is one.

    Args:
        config: the run's settings.
        learner: the method.
        layout: how a batch of tasks is computed.
        programs: of predictions (`evaluate.make_programs`), for validation.
        params: where each seed starts (`init_seeds`).
        features: all clips, standardised, on every device.
        scale: what they were standardised by; kept in the checkpoint, for new clips.
        split: pools of clips.
        shape: clips of a training task.
        folder: run folder; `checkpoints/` and each seed's `metrics.jsonl` are written here.

    Returns:
        The parameters with the best accuracy on held-out source speakers, and where they arose.

    Raises:
        NonFiniteLossError: names the meta-step; the last good state is kept.
        OSError: a file cannot be written; the last checkpoint is whole.
        InterruptedRunError: a signal to stop came; the state is saved.
    """
    # ---- state: new, or as the last checkpoint has it
    optimizer = learner.optimizer(config.outer_lr)
    place = replicated(layout.mesh)
    state = jax.device_put(State(params, jax.jit(optimizer.init)(params)), place)

    seeds = len(config.seeds)
    start = Selected(state.params, np.full(seeds, -1, np.float32), np.zeros(seeds, np.int32))
    selected = jax.device_put(start, place, may_alias=False)  # the update donates its own
    manager = checkpoints.open_manager(folder / "checkpoints")
    # The scale follows from the data, whose hash the run folder has checked.
    step, (state, selected, _) = checkpoints.restore(manager, Checkpoint(state, selected, scale))

    def save_once() -> None:
        if manager.latest_step() != step:
            checkpoints.save(manager, step, Checkpoint(state, selected, scale))

    choose = jax.jit(_choose, out_shardings=place)

    def keep_best(val_accuracies: Sequence[float] | None) -> Selected:
        """The best states so far; without validation the later one is taken for the better."""
        if val_accuracies is None:
            now, better = np.full(seeds, np.nan, np.float32), np.ones(seeds, bool)
        else:
            now = np.asarray(val_accuracies, np.float32)
            better = now > np.asarray(selected.val_accuracy)
        steps = np.full(seeds, step, np.int32)
        return choose(better, Selected(state.params, now, steps), selected)

    # ---- validation on held-out source speakers: the same episodes every time
    val_pools, val_shape = validation_tasks(split.val, shape, split.groups)

    def validate() -> list[tuple[float, float]]:
        of_seeds = predict_episodes(
            programs,
            layout,
            state.params,
            features,
            val_pools,
            val_shape,
            seeds=config.seeds,
            split="val",
            episodes=config.val_episodes,
            modes=(config.batch_norm,),
            groups=split.groups,
            last=True,
        )[config.batch_norm]
        return [(log_loss(p)[:, -1].mean(), accuracy(p)[:, -1].mean()) for p in of_seeds]

    # ---- the loop
    update = make_update(learner, optimizer, layout)

    def tasks(meta_step: int) -> Episodes:
        episodes = sample_seeds(
            split.train,
            shape,
            seeds=config.seeds,
            split="train",
            step=meta_step,
            tasks=host_share(range(config.task_batch)),
        )
        return to_devices(layout.mesh, episodes)

    with (
        metrics_logs(seed_folders(folder, config), step) as log,
        _stop_signals() as received,
        progress("meta-training", config.meta_steps, " steps", done=step) as bar,
        manager,
    ):
        episodes = tasks(step)
        while step < config.meta_steps:
            started = time.perf_counter()
            state, metrics = update(state, features, episodes)
            episodes = tasks(step + 1)  # while the device computes
            if not metrics.finite:
                save_once()
                raise NonFiniteLossError(
                    f"the loss or its gradient is not finite at meta-step {step + 1}; the state "
                    f"after meta-step {step} is saved; {ADVICE}"
                )
            step += 1
            losses, accuracies = np.asarray(metrics.loss), np.asarray(metrics.accuracy)
            log("", step, zip(losses, accuracies, strict=True))
            speed = config.task_batch * seeds / (time.perf_counter() - started)
            bar.set_postfix_str(
                f"loss {losses.mean():.3f}, accuracy {accuracies.mean():.3f}, {speed:.1f} tasks/s",
                refresh=False,
            )
            bar.update()
            if step % config.eval_every == 0 or step == config.meta_steps:
                val_accuracies = None
                if val_pools:
                    validated = validate()
                    if not all(math.isfinite(loss) for loss, _ in validated):
                        # Not saved: a rerun has to validate it again.
                        raise NonFiniteLossError(
                            f"the validation loss is not finite after meta-step {step}; the "
                            f"checkpoint before it is kept; {ADVICE}"
                        )
                    log("val_", step, validated)
                    val_accuracies = [val_accuracy for _, val_accuracy in validated]
                selected = keep_best(val_accuracies)
                save_once()
            if any_process(bool(received)):
                save_once()
                raise InterruptedRunError(
                    f"stopped after meta-step {step}, which is saved; the same command continues",
                    received[0] if received else signal.SIGTERM,
                )
    return selected


def _choose(better: Bool[Array, " seeds"], new: Selected, old: Selected) -> Selected:
    """Each seed's new state where it is the better one, else its old one."""

    def leaf(new: Array, old: Array) -> Array:
        return jnp.where(better.reshape(-1, *[1] * (old.ndim - 1)), new, old)

    return jax.tree.map(leaf, new, old)


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collects the signals to stop instead of dying of them, where this is the main thread."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def note(number: int, _: Any) -> None:
        if not received:
            print("stopping after this meta-step", file=sys.stderr)
        received.append(number)

    previous = {number: signal.signal(number, note) for number in STOP_SIGNALS}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
