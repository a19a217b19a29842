"""`python -m fmaml_jax.sweep --flagfile=FILE --seeds=0,1,2 --out=DIR`: a grid of runs.

Every run is `fmaml_jax.main` with the flagfile's settings, in a folder of its own below `--out`.
The same command again skips what is finished and continues what is not.
"""

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from itertools import product
from pathlib import Path

import submitit
from absl import flags

from fmaml_jax import config_flags
from fmaml_jax.common import console
from fmaml_jax.common.console import STOP_SIGNALS, progress
from fmaml_jax.common.errors import UserError
from fmaml_jax.common.files import require_there, take_lock
from fmaml_jax.config import Config, check
from fmaml_jax.data.shards import expand
from fmaml_jax.training.run_folder import recorded_settings, seed_folders, settings_of

POLL_SECONDS = 1.0
STOPPED = tuple(128 + number for number in STOP_SIGNALS)
"""Exit codes of a run that was asked to stop and has saved its state."""
TAKEN = -1
"""Instead of an exit code: another sweep is at work on the run."""


@dataclass
class Run:
    """One run as a job: called by submitit, on this machine or a node of the cluster.

    Attributes:
        command: the process to start.
        log: file of its output.
    """

    command: Sequence[str]
    log: str
    process: subprocess.Popen | None = None

    def __call__(self) -> int:
        """Runs the command to its end; its exit code, or `TAKEN`."""
        with open(self.log, "a") as log:
            if not take_lock(log):
                return TAKEN
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log)
            try:
                return _wait(self.process)
            finally:
                self._stop()

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """What submitit requeues on preemption: the same command, once the state is saved."""
        self._stop()
        return submitit.helpers.DelayedSubmission(Run(self.command, self.log))

    def _stop(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.terminate()
            _wait(self.process)


def _wait(process: subprocess.Popen) -> int:
    # Not `Popen.wait`: `checkpoint` comes out of a signal handler in the midst of it, and the two
    # would wait for each other's lock.
    while (code := process.poll()) is None:
        time.sleep(POLL_SECONDS / 10)
    return code


def cells(
    base: Config,
    out: str,
    *,
    targets: Sequence[str] = (),
    shots: Sequence[int] = (),
    seeds: Sequence[int] = (),
    methods: Sequence[str] = (),
) -> dict[str, Config]:
    """The grid's configs by name, each checked; an empty list means the base's own value.

    What a method does not read stays at its default, so that the base may be one for all methods.

    Raises:
        UserError: see `config.check` and `learners.find_method`.
    """
    from fmaml_jax.learners import find_method, without_unread  # late: --help has no need of JAX

    grid = {}
    for target, k, method, seed in product(
        targets or (base.target,),
        shots or (base.shots,),
        methods or (base.method,),
        seeds or (base.seed,),
    ):
        name = f"{target}_{k}shot_{method}_seed{seed}"
        folder = str(Path(out).absolute() / name)
        cell = replace(base, target=target, shots=k, method=method, seed=seed, run_dir=folder)
        grid[name] = without_unread(cell)
        check(grid[name])
        find_method(grid[name])
    return grid


def unread(base: Config, grid: Mapping[str, Config]) -> dict[str, list[str]]:
    """Settings of the base that are not those of the grid's runs, since their method reads none."""
    return {
        config.method: names
        for config in grid.values()
        if (
            names := [
                field.name
                for field in fields(Config)
                if field.name not in ("target", "shots", "method", "seed", "run_dir")
                and getattr(config, field.name) != getattr(base, field.name)
            ]
        )
    }


def finished(config: Config) -> bool:
    """Whether the run's folder holds the results of this very config."""
    folder = Path(config.run_dir)
    if not all((each / "results.json").exists() for each in seed_folders(folder, config)):
        return False
    try:
        record = json.loads((folder / "config.json").read_text())
        return recorded_settings(record) == settings_of(config)
    except (OSError, ValueError, KeyError, TypeError):
        return False  # the run itself says what is wrong with it


def steps_done(config: Config) -> int:
    """Meta-steps that the run has written down."""
    try:
        first = seed_folders(Path(config.run_dir), config)[0]
        lines = (first / "metrics.jsonl").read_text().splitlines()
        return json.loads(lines[-1])["step"]
    except (OSError, LookupError, TypeError, ValueError):
        return 0


def last_line(log: Path) -> str:
    """The last line of a run's output, which says why it failed."""
    lines = log.read_text(errors="replace").split("\n") if log.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "no output")


def make_executor(folder: Path, values: flags.FlagValues) -> submitit.Executor:
    """What starts the jobs: processes of this machine, or Slurm.

    Raises:
        UserError: there is no Slurm here.
    """
    if values.cluster == "local":
        executor = submitit.LocalExecutor(folder)
        executor.update_parameters(timeout_min=60 * 24 * 365)
        return executor
    try:
        executor = submitit.SlurmExecutor(folder, max_num_timeout=1000)
    except RuntimeError as error:
        raise UserError(
            "--cluster=slurm finds no sbatch command; log in to a node of the cluster, or leave "
            "the flag out"
        ) from error
    executor.update_parameters(
        job_name="fmaml",
        time=values.slurm_minutes,
        cpus_per_task=values.slurm_cpus,
        **({"partition": values.slurm_partition} if values.slurm_partition else {}),
        **({"gpus_per_node": values.slurm_gpus} if values.slurm_gpus else {}),
    )
    return executor


def sweep(
    grid: dict[str, Config], executor: submitit.Executor, logs: Path, at_once: int | None
) -> dict[str, str]:
    """Computes the runs that are not finished; why each failed one did, by name.

    Args:
        grid: the runs.
        executor: starts the jobs.
        logs: folder of the runs' output.
        at_once: jobs to submit at a time; None: all, as one array.

    Raises:
        UserError: Slurm refuses the jobs.
    """
    waiting = {name: config for name, config in grid.items() if not finished(config)}
    for name in grid.keys() - waiting.keys():
        print(f"{name}: finished before")

    def job_of(name: str) -> Run:
        command = [
            sys.executable,
            "-m",
            "fmaml_jax.main",
            *config_flags.flags_from_config(waiting[name]),
        ]
        return Run(command, str(logs / f"{name}.log"))

    running: dict[str, submitit.Job] = {}
    failed: dict[str, str] = {}
    with ExitStack() as stack:
        bars = {
            name: stack.enter_context(
                progress(name, config.meta_steps, " steps", done=steps_done(config))
            )
            for name, config in waiting.items()
        }
        queue = list(waiting)
        most = len(queue) if at_once is None else at_once
        if at_once is None and queue:
            try:
                with executor.batch():
                    jobs = [executor.submit(job_of(name)) for name in queue]
            except RuntimeError as error:
                raise UserError(
                    f"Slurm does not take the jobs ({' '.join(str(error).split())}); see the "
                    "--slurm flags"
                ) from error
            running, queue = dict(zip(queue, jobs, strict=True)), []
        try:
            while queue or running:
                while queue and len(running) < most:
                    running[queue[0]] = executor.submit(job_of(queue[0]))
                    queue.pop(0)
                time.sleep(POLL_SECONDS)
                for name, job in list(running.items()):
                    bar = bars[name]
                    bar.update(max(0, steps_done(waiting[name]) - bar.n))
                    if job.done():
                        del running[name]
                        if not finished(waiting[name]):
                            failed[name] = reason(job, logs / f"{name}.log")
        except BaseException:
            for job in running.values():
                job.cancel()
            raise
    return failed


def reason(job: submitit.Job, log: Path) -> str:
    """Why a job that has ended did not finish its run."""
    try:
        code = job.result()
    except Exception as error:  # whatever the cluster did to the job
        return " ".join(str(error).split())[-200:]
    if code == TAKEN:
        return "another sweep is at work on it"
    return "stopped, its state is saved" if code in STOPPED else last_line(log)


def main() -> int:
    """Runs the grid of the flags; the exit code is 1 where a run failed.

    Raises:
        UserError: a flag cannot be used.
    """
    values = flags.FLAGS
    if not values.out:
        raise UserError("--out is missing; for example --out=runs/sweep")
    values.run_dir = values.run_dir or values.out
    numbers = {}
    for name in ("all_shots", "seeds"):
        if not all(value.isdecimal() for value in getattr(values, name)):
            raise UserError(f"--{name} has to be whole numbers, such as --{name}=5,10")
        numbers[name] = [int(value) for value in getattr(values, name)]
    values.target = values.target or ",".join(values.targets[:1])
    base = config_flags.config_from_flags(values)
    grid = cells(
        base,
        values.out,
        targets=values.targets,
        shots=numbers["all_shots"],
        seeds=numbers["seeds"],
        methods=values.methods,
    )
    for path in expand(base.data):
        require_there(path, "make it with `python -m data_prep.prepare`")
    for method, names in unread(base, grid).items():
        print(f"{method} does not read {', '.join(names)}: left at the defaults")
    logs = Path(values.out).absolute() / "logs"
    try:
        logs.mkdir(parents=True, exist_ok=True)
        executor = make_executor(logs / "submitit", values)
        at_once = values.jobs if values.cluster == "local" else None
        failed = sweep(grid, executor, logs, at_once)
    except OSError as error:
        raise UserError(
            f"cannot use --out={values.out}: {error.strerror}; choose a folder that can be written "
            "and has room"
        ) from error
    print(f"{len(grid) - len(failed)} of {len(grid)} runs are finished, in {values.out}/")
    for name, why in failed.items():
        print(f"{name} failed: {why} ({logs / name}.log)", file=sys.stderr)
    return 1 if failed else 0


def define_flags() -> None:
    """The settings that the runs share, the grid, and where it is computed."""
    config_flags.define_flags()
    flags.adopt_module_key_flags(config_flags)  # so that --help lists them
    flags.DEFINE_list("targets", [], "values of --target; without it, the flagfile's")
    flags.DEFINE_list("all_shots", [], "values of --shots; without it, the flagfile's")
    flags.DEFINE_list("seeds", [], "values of --seed; without it, the flagfile's")
    flags.DEFINE_list("methods", [], "values of --method; without it, the flagfile's")
    flags.DEFINE_string("out", "", "folder of the runs' folders")
    flags.DEFINE_enum("cluster", "local", ["local", "slurm"], "where the runs are computed")
    flags.DEFINE_integer("jobs", 1, "runs at a time on this machine", lower_bound=1)
    flags.DEFINE_string("slurm_partition", None, "Slurm's partition; without it, the default one")
    flags.DEFINE_integer("slurm_minutes", 120, "time of a Slurm job, requeued when it is up", 1)
    flags.DEFINE_integer("slurm_gpus", 0, "GPUs of a Slurm job", lower_bound=0)
    flags.DEFINE_integer("slurm_cpus", 2, "CPU cores of a Slurm job", lower_bound=1)


def command() -> None:
    """The whole command, as it is installed."""
    define_flags()
    console.run(
        main,
        example="--flagfile=experiments/best.cfg --targets=emodb,emovo --all_shots=5,20 "
        "--out=runs/best",
        required=("data", "out"),
        groups={
            "The grid": ("targets", "all_shots", "seeds", "methods", "out"),
            "Where it is computed": (
                *("cluster", "jobs", "slurm_partition", "slurm_minutes", "slurm_gpus"),
                "slurm_cpus",
            ),
            **config_flags.groups(),
        },
    )


if __name__ == "__main__":
    command()
