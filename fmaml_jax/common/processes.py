"""Processes beside this one, in which clips are made, decoded and described."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor

from fmaml_jax.common.errors import UserError

_ENVIRONMENT = {
    # Processes share the cores among them; a BLAS that starts threads of its own would also make
    # the last bits depend on how many cores there are.
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # Where glibc gives the features' large temporaries back to the system after every clip, a
    # clip takes twice as long.
    "MALLOC_TOP_PAD_": str(64 << 20),
}


def cores() -> int:
    """Cores that this process may use: on a cluster, those of its job."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS


@contextlib.contextmanager
def process_pool(processes: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of so many processes; they start at once and end with the block, or with this one.

    Raises:
        UserError: one of them was killed, as by a system that is out of memory.
    """
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, context, _begin)
    others = set(multiprocessing.active_children())
    try:
        with _inherited():
            # A process starts with a task that finds none idle; the first may be idle soon.
            while len(set(multiprocessing.active_children()) - others) < processes:
                pool.submit(int)
        yield pool
    except (KeyboardInterrupt, SystemExit):
        # The work in hand takes a moment; a second signal in that moment would hang the shutdown.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise
    except BrokenExecutor as error:
        raise UserError("a process was killed; free memory and run the command again") from error
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _inherited() -> Iterator[None]:
    """Processes started within run in `_ENVIRONMENT` and leave Ctrl-C to this one."""
    environment = dict(os.environ)
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(_ENVIRONMENT)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(environment)
        signal.signal(signal.SIGINT, interrupt)


def _begin() -> None:
    """What each process of a pool does first."""
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this process when the one that started it is gone, which may have been killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
