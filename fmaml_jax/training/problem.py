"""What a run is asked to do: its clips, its tasks, and whether these can be drawn."""

from fmaml_jax.common.errors import UserError
from fmaml_jax.config import NO_TARGET, Config
from fmaml_jax.data.episodes import TaskShape, require_division, validation_tasks
from fmaml_jax.data.split import Clips, Split, load_clips, require_clips, split_clips
from fmaml_jax.learners import Network, find_method
from fmaml_jax.model import input_frames


def task_shapes(config: Config) -> tuple[TaskShape, TaskShape]:
    """The clips of a training task and of a test episode."""
    ways, fixed = len(config.emotions), len(config.fixed)
    method, support = find_method(config)
    shuffles = isinstance(method, Network) and method.shuffles and config.positions == "shuffled"
    training = TaskShape(
        ways,
        config.shots,
        query=(config.query_per_class,) * (ways + fixed),
        fixed_shots=config.shots if support == "all" else 0,
        shuffled=shuffles * (ways + fixed if support == "all" else ways),
    )
    test = training._replace(
        query=(config.test_query_per_class,) * ways + (config.test_query_per_fixed_class,) * fixed
    )
    return training, test


def load_split(config: Config) -> tuple[Clips, Split]:
    """Loads the data of a run and checks that every task it asks for can be drawn.

    Raises:
        UserError: see `load_clips`, `split_clips`, `require_clips` and `require_division`.
    """
    method, _ = find_method(config)
    clips = load_clips(config.data)
    split = split_clips(
        clips,
        target=None if config.target == NO_TARGET else config.target,
        emotions=config.emotions,
        fixed=config.fixed,
        val_fraction=config.val_fraction,
        leak_guard=config.leak_guard,
        task_domain=config.task_domain,
    )
    training, test = task_shapes(config)
    frames = clips.features.shape[1]
    if isinstance(method, Network) and (frames > 1) != (input_frames(config.network) > 1):
        raise UserError(
            f"--network={config.network} cannot read features of {frames} frames a clip: "
            "fourier and linear are for one, which `data_prep.prepare --features=descriptors` "
            "makes, the other networks for more"
        )
    if split.groups is None:
        require_clips(split.test, config.classes, test.clips, "--shots or the --test_query flags")
    else:
        require_division(split.test, config.classes, test, split.groups, config.leak_guard)
    if not method.uses_sources:
        return clips, split
    flags = "--shots or --query_per_class"
    if split.groups is not None:
        flags += (
            f" (--leak_guard={config.leak_guard} left out each {config.leak_guard} of the target)"
        )
    require_clips(
        split.train, config.classes, training.clips, flags, len(config.emotions) * method.lacking
    )
    if split.val and not validation_tasks(split.val, training, split.groups)[0]:
        apart = "" if split.groups is None else f", without a common {config.leak_guard},"
        raise UserError(
            f"no source language has two held-out clips of every class with support{apart} and one "
            "of every other class to select on; raise --val_fraction or add speakers"
        )
    return clips, split
