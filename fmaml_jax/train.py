"""Meta-training: one loop over meta-steps, which an interrupted run takes up where it stopped."""

import json
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from jax import Array
from jaxtyping import Bool, Float, Int, Scalar

from data_prep.console import progress
from fmaml_jax.config import Config
from fmaml_jax.data import Scale, Split
from fmaml_jax.devices import (
    Layout,
    any_process,
    first_process,
    host_share,
    largest_divisor,
    replicated,
    split_tasks,
    to_devices,
)
from fmaml_jax.episodes import Episodes, TaskShape, sample, validation_tasks
from fmaml_jax.evaluate import accuracy, gather, log_loss, predict_episodes
from fmaml_jax.learners.interface import Learner
from fmaml_jax.maml import Params, meta_gradient

ADVICE = "try a lower --inner_lr or --outer_lr, in another --run_dir"


STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
"""What schedulers and Ctrl-C send; SIGUSR2 is what submitit asks Slurm for before preemption."""


class NonFiniteLossError(RuntimeError):
    """The loss or its gradient became infinite or NaN; the last good state is saved."""


class InterruptedRunError(RuntimeError):
    """The run was asked to stop (one of `STOP_SIGNALS`) and has saved its state."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.signal_number = signal_number


class State(NamedTuple):
    """What the outer update changes."""

    params: Params
    optimizer: optax.OptState


class Selected(NamedTuple):
    """The trained state chosen on held-out source speakers."""

    params: Params
    val_accuracy: Float[Array, ""]
    step: Int[Array, ""]


class Checkpoint(NamedTuple):
    """All that a run continues from, beside its config; the directory's name is the meta-step."""

    state: State
    selected: Selected
    scale: Scale


class StepMetrics(NamedTuple):
    """Means over the tasks of a meta-step, before its update."""

    loss: Float[Array, ""]
    accuracy: Float[Array, ""]
    finite: Bool[Array, ""]


def make_update(
    learner: Learner, optimizer: optax.GradientTransformation, layout: Layout
) -> Callable[..., tuple[State, StepMetrics]]:
    """The jitted outer update (equation 5): (state, features, episodes) -> (state, metrics).

    Each device computes the gradient of its share of the tasks; one all-reduce averages them. The
    given state is donated. Where the loss or its gradient is not finite, the state comes back
    unchanged.
    """

    def share_gradient(
        params: Params, features: Float[Array, "clips time coeffs"], episodes: Episodes
    ) -> tuple[Scalar, Scalar, Params]:
        def task_loss(params: Params, episode: Episodes) -> tuple[Scalar, Scalar]:
            return learner.loss(params, gather(features, episode))

        chunk = largest_divisor(len(episodes.query), layout.chunk)
        return meta_gradient(task_loss, params, episodes, chunk)

    batch_gradient = split_tasks(share_gradient, layout.mesh, mean=True)

    @partial(jax.jit, donate_argnums=0)
    def update(
        state: State, features: Float[Array, "clips time coeffs"], episodes: Episodes
    ) -> tuple[State, StepMetrics]:
        loss, task_accuracy, gradient = batch_gradient(state.params, features, episodes)
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
        stepped = State(optax.apply_updates(state.params, updates), optimizer_state)
        finite = jnp.isfinite(loss) & jnp.isfinite(optax.tree.norm((gradient, stepped.params)))
        state = jax.tree.map(partial(jnp.where, finite), stepped, state)
        return state, StepMetrics(loss, task_accuracy, finite)

    return update


def train(
    config: Config,
    learner: Learner,
    layout: Layout,
    predict: Callable[..., tuple[Array, Array]],
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
        predict: jitted predictions (`evaluate.make_predict`), for validation.
        features: all clips, standardised, on every device.
        scale: what they were standardised by; kept in the checkpoint, for new clips.
        split: pools of clips.
        shape: clips of a training task.
        folder: run folder; `metrics.jsonl` and `checkpoints/` are written here.

    Returns:
        The parameters with the best accuracy on held-out source speakers, and where they arose.

    Raises:
        NonFiniteLossError: names the meta-step; the last good state is kept.
        InterruptedRunError: a signal to stop came; the state is saved.
    """
    # ---- state: new, or as the last checkpoint has it
    optimizer = optax.adam(config.outer_lr)
    params = learner.init(jax.random.key(config.seed))
    place = replicated(layout.mesh)
    state = jax.device_put(State(params, optimizer.init(params)), place)

    def select(val_accuracy: float, meta_step: int) -> Selected:
        best = Selected(state.params, np.float32(val_accuracy), np.int32(meta_step))
        return jax.device_put(best, place, may_alias=False)  # the update donates its own

    selected = select(-1.0, 0)
    manager = ocp.CheckpointManager(
        folder.absolute() / "checkpoints", options=ocp.CheckpointManagerOptions(max_to_keep=2)
    )
    step = manager.latest_step() or 0
    if step:
        # The scale follows from the data, whose hash the run folder has checked.
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, Checkpoint(state, selected, scale))
        state, selected, _ = manager.restore(step, args=ocp.args.StandardRestore(target))

    def save() -> None:
        if manager.latest_step() != step:
            manager.save(step, args=ocp.args.StandardSave(Checkpoint(state, selected, scale)))
            manager.wait_until_finished()

    # ---- validation on held-out source speakers: the same episodes every time
    val_pools, val_shape = validation_tasks(split.val, shape)

    def validate() -> tuple[float, float]:
        predictions = predict_episodes(
            predict,
            layout,
            state.params,
            features,
            val_pools,
            val_shape,
            seed=config.seed,
            split="val",
            episodes=config.val_episodes,
            batch_norm=config.batch_norm,
        )
        return log_loss(predictions)[:, -1].mean(), accuracy(predictions)[:, -1].mean()

    # ---- the loop
    update = make_update(learner, optimizer, layout)

    def tasks(meta_step: int) -> Episodes:
        episodes = sample(
            split.train,
            shape,
            seed=config.seed,
            split="train",
            step=meta_step,
            tasks=host_share(range(config.task_batch)),
        )
        return to_devices(layout.mesh, episodes)

    with (
        _metrics_log(folder / "metrics.jsonl", step) as log,
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
                save()
                raise NonFiniteLossError(
                    f"the loss or its gradient is not finite at meta-step {step + 1}; the state "
                    f"after meta-step {step} is saved; {ADVICE}"
                )
            step += 1
            loss, task_accuracy = float(metrics.loss), float(metrics.accuracy)
            log({"step": step, "loss": loss, "accuracy": task_accuracy})
            speed = config.task_batch / (time.perf_counter() - started)
            bar.set_postfix_str(
                f"loss {loss:.3f}, accuracy {task_accuracy:.3f}, {speed:.1f} tasks/s",
                refresh=False,
            )
            bar.update()
            if step % config.eval_every == 0 or step == config.meta_steps:
                val_loss, val_accuracy = validate()
                if not math.isfinite(val_loss):  # not saved: a rerun has to validate it again
                    raise NonFiniteLossError(
                        f"the validation loss is not finite after meta-step {step}; the checkpoint "
                        f"before it is kept; {ADVICE}"
                    )
                log({"step": step, "val_loss": val_loss, "val_accuracy": val_accuracy})
                if val_accuracy > selected.val_accuracy:
                    selected = select(val_accuracy, step)
                save()
            if any_process(bool(received)):
                save()
                raise InterruptedRunError(
                    f"stopped after meta-step {step}, which is saved; the same command continues",
                    received[0] if received else signal.SIGTERM,
                )
    return selected


@contextmanager
def _metrics_log(path: Path, step: int) -> Iterator[Callable[[Mapping[str, float]], None]]:
    """Appends to a file of JSON lines, after dropping the lines of steps that are to be redone."""
    if not first_process():
        yield lambda entry: None
        return
    kept = []
    for line in path.read_text().splitlines(keepends=True) if path.exists() else []:
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except json.JSONDecodeError:  # cut short by a kill, so later than the checkpoint
            break
    partial_file = path.with_suffix(".tmp")
    partial_file.write_text("".join(kept))
    partial_file.replace(path)
    with path.open("a") as file:

        def log(entry: Mapping[str, float]) -> None:
            file.write(json.dumps(entry, allow_nan=False) + "\n")
            file.flush()

        yield log


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
