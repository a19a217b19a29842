"""Where tasks are computed: the devices of one or many hosts, and what suits each backend."""

import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax import Array
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import PyTree

from fmaml_jax.common.errors import UserError
from fmaml_jax.common.files import cache_folder
from fmaml_jax.common.processes import cores

TASKS = "tasks"

CPU_CHUNK = 1
"""Tasks that a core computes at once; what an accelerator does, its memory says (`memory`)."""

PEER_TIMEOUT = 30
"""Seconds without a sign of life after which a process counts as gone."""


class Layout(NamedTuple):
    """How a batch of tasks is computed: split over `mesh`, at most `chunk` at once on a device.

    Without a chunk (0) a device computes its whole share at once.
    """

    mesh: Mesh
    chunk: int


def make_layout(
    tasks: int,
    chunk: int = 0,
    # JAX exports the class as a variable.
    devices: Sequence[jax.Device] | None = None,  # pyright: ignore[reportInvalidTypeForm]
) -> Layout:
    """The layout of a batch of `tasks`: as many devices as get equal shares, alike on each host.

    Args:
        tasks: tasks in a batch.
        chunk: the most tasks that a device computes at once; 0: what suits a CPU, and elsewhere
            all, unless `memory.with_chunk` chooses.
        devices: devices to choose from; all of them by default.

    Raises:
        UserError: the hosts cannot get equal shares.
    """
    devices = jax.devices() if devices is None else devices
    hosts = [[d for d in devices if d.process_index == p] for p in range(jax.process_count())]
    if tasks % len(hosts):
        raise UserError(
            f"--task_batch={tasks} cannot be split evenly over {len(hosts)} processes; "
            "give a multiple of their number"
        )
    used = largest_divisor(tasks // len(hosts), min(map(len, hosts)))
    mesh = Mesh(np.array([host[:used] for host in hosts]).ravel(), TASKS, (AxisType.Auto,))
    return Layout(mesh, chunk or CPU_CHUNK * (devices[0].platform == "cpu"))


def largest_divisor(number: int, limit: int) -> int:
    """The largest divisor of `number` that is at most `limit`; 0 is no limit."""
    return next(n for n in range(min(number, limit or number), 0, -1) if number % n == 0)


def tasks_at_once(layout: Layout, tasks: int) -> int:
    """How many of a batch's tasks a device computes at once."""
    return largest_divisor(tasks // layout.mesh.size, layout.chunk)


def split_tasks(function: Callable[..., PyTree], mesh: Mesh, mean: bool) -> Callable[..., PyTree]:
    """Runs `function(params, features, episodes)` on each device's share of the episodes.

    Args:
        function: a function of replicated parameters and clips, and of a share of the tasks.
        mesh: the devices.
        mean: whether the results are means over the share, which one all-reduce makes means over
            all tasks; otherwise they have a leading axis `tasks` and stay where they are.
    """

    def share(params: PyTree, features: Array, episodes: PyTree) -> PyTree:
        # Marked as different on each device, so that nothing is reduced but the result.
        params, features = jax.lax.pcast((params, features), TASKS, to="varying")
        result = function(params, features, episodes)
        return jax.lax.pmean(result, TASKS) if mean else result

    return jax.shard_map(
        share, mesh=mesh, in_specs=(P(), P(), P(TASKS)), out_specs=P() if mean else P(TASKS)
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """The placement of what every device has a copy of."""
    return NamedSharding(mesh, P())


def host_share(tasks: range) -> range:
    """The part of the tasks that this host samples."""
    share = len(tasks) // jax.process_count()
    return tasks[share * jax.process_index() : share * (jax.process_index() + 1)]


def to_devices(mesh: Mesh, tasks: PyTree) -> PyTree:
    """The batch of which each host holds its share [tasks, ...], split over the devices."""
    return jax.make_array_from_process_local_data(NamedSharding(mesh, P(TASKS)), tasks)


def first_process() -> bool:
    """Whether this process is the one that writes and prints."""
    return jax.process_index() == 0


def any_process(condition: bool) -> bool:
    """Whether the condition holds in any process; all have to ask."""
    if jax.process_count() == 1:
        return condition
    return bool(np.any(multihost_utils.process_allgather(np.asarray(condition))))


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Ends all processes where one of them refuses the block, instead of leaving them waiting.

    Raises:
        UserError: this or another process refused.
    """
    refusal = None
    try:
        yield
    except UserError as error:
        refusal = error
    if any_process(refusal is not None):
        raise refusal or UserError("another process of this run refused; see its message")


@contextlib.contextmanager
def within_memory(layout: Layout, tasks: int) -> Iterator[None]:
    """Refuses in one sentence where a device's memory is too small for a batch of so many tasks.

    Raises:
        UserError: the device is out of memory.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        chunk = tasks_at_once(layout, tasks)
        remedy = f"give --task_chunk={chunk // 2} or less" if chunk > 1 else "choose smaller tasks"
        raise UserError(
            f"the device is out of memory with --task_chunk={chunk} (tasks that it computes at "
            f"once); {remedy}, in another --run_dir, or free memory that others use"
        ) from error


@contextlib.contextmanager
def ends_with_its_peers() -> Iterator[None]:
    """Ends this process with exit code 1 and one sentence when it fails to reach another one."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        print(
            "error: another process of this run is gone; the same command continues from the last "
            f"checkpoint ({' '.join(str(error).split())[:160]})",
            file=sys.__stderr__,
            flush=True,
        )
        os._exit(1)  # an orderly end would wait for the others


@contextlib.contextmanager
def one_voice() -> Iterator[None]:
    """Silences the progress and messages of every process but the first; errors still get out."""
    if first_process():
        yield
        return
    with (
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield


def set_up(distributed: bool = False) -> None:
    """Finds the devices of a run, of all its hosts where it is `distributed`, before their use.

    Raises:
        UserError: there are none.
    """
    # Every core as a device of its own, which a task has to itself; measured in
    # experiments/benchmarks. No number of devices depends on it where there is an accelerator.
    if "JAX_NUM_CPU_DEVICES" not in os.environ:
        jax.config.update("jax_num_cpu_devices", cores())
    if distributed:
        with _finding_devices():
            jax.distributed.initialize(
                heartbeat_timeout_seconds=PEER_TIMEOUT, shutdown_timeout_seconds=PEER_TIMEOUT
            )
    set_up_device()


def set_up_device() -> None:
    """Finds a device; products of float32 in full, and compiled programs kept for later runs.

    Raises:
        UserError: there is none.
    """
    # On a GPU, trying Triton's kernels for every product takes a minute of compiling, and brings
    # 6% of a meta-step.
    given = os.environ.get("XLA_FLAGS", "")
    if "xla_gpu_enable_triton_gemm" not in given:
        os.environ["XLA_FLAGS"] = f"--xla_gpu_enable_triton_gemm=false {given}".rstrip()
    with _finding_devices():
        jax.devices()
    # Products are rounded to fewer bits on GPU and TPU otherwise, and results differ.
    jax.config.update("jax_default_matmul_precision", "float32")
    # A program that is quick to compile, on a quick machine, is still quicker to read. (What XLA
    # found by trying kernels on a GPU is kept beside them: JAX does so by itself.)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    # What another process has not written to its end is compiled here too, as if it were not there.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
    # Without a home that can be written, every run compiles anew.
    with contextlib.suppress(OSError, RuntimeError):
        jax.config.update("jax_compilation_cache_dir", str(cache_folder()))


@contextlib.contextmanager
def _finding_devices() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, AssertionError) as error:  # the second for CUDA without a GPU
        reason = f" ({' '.join(str(error).split())})" if str(error) else ""
        raise UserError(
            f"JAX finds no device{reason}; install the plugin that JAX_PLATFORMS names, or unset it"
        ) from error
