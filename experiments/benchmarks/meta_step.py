"""How fast a meta-step is, beside what else one could use; one JSON line a case.

    .venv/bin/pip install -r requirements-benchmarks.txt
    .venv/bin/python -m experiments.benchmarks.meta_step --out=bench.jsonl

- `meta-step`: ours and each peer in processes of their own, taking turns, a meta-step each, so that
  both meet the same machine; only one computes at a time. Before any time is taken, query losses
  of the same parameters and tasks have to agree to 1e-4 and the gradients to 3e-3. `ratio` is the
  peer's median over ours. `flops` is counted (`workload.meta_step_flops`), `of_matrix_rate` is the
  rate it makes, as a share of the best that a float32 matrix product reached in the same rounds.
- `memory`: ours with 5 and with 20 inner steps. `peak_mib` is of the whole process.
- `tasks`: ours with other numbers of tasks, at each of --precisions; a picture has them too.
- `seeds`: ours with other numbers of seeds side by side.
- `evaluation`: 1,000 test episodes (25 queries a class, their logits before adaptation and after
  each step), estimated from rounds of 100 that ours and the PyTorch loop take in turns, after their
  answers to the first were the same.
- `sampling`: drawing the tasks and handing them to the device, as a share of ours.
- `cell`: a whole run with the flags of --cell, twice: with an empty compilation cache, and with the
  one that it left. Seconds from its start to the end of its first meta-step, and to its end.

The devices are those that JAX and PyTorch find. Run it on an idle machine.
"""

import contextlib
import json
import os
import platform
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from absl import flags

from experiments.benchmarks.workload import Workload, meta_step_flops
from fmaml_jax.common import console
from fmaml_jax.common.errors import UserError
from fmaml_jax.common.processes import cores
from fmaml_jax.config import PRECISIONS

PEERS = ("torch loop", "torch.func vmap", "naive JAX")
ORDERS = ("second", "first")
MEASURES = ("meta-step", "evaluation", "memory", "tasks", "seeds", "sampling", "cell")
GRADIENT_TOLERANCE = 3e-3
"""Of the norm of the gradient of five inner steps in float32; see the README for its noise."""

EPISODES_A_ROUND = 100

PACKAGES = ("jax", "jaxlib", "torch", "numpy")


class Worker:
    """A `worker` process and its pipes."""

    def __init__(self, case: str, workload: Workload, params: Path):
        self.case = case
        # JAX would take most of a GPU's memory at its start, and PyTorch shall have some too.
        environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "experiments.benchmarks.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.start_mib = self.ask(case=case, params=str(params), **workload._asdict())["start_mib"]

    def ask(self, **request: object) -> dict:
        """The reply to a request.

        Raises:
            UserError: the process ended; its own message stands before.
        """
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(request), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise UserError(
                f"the process of {self.case} failed (see above); take it out of --peers, or "
                "install requirements-benchmarks.txt and give it more memory"
            )
        return json.loads(answer)

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()


@contextlib.contextmanager
def _workers(cases: tuple[str, ...], workload: Workload) -> Iterator[list[Worker]]:
    """A worker a case, started one after the other; the first is ours and makes the parameters."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        workers = []
        for case in cases:
            workers.append(Worker(case, workload, Path(folder) / "params.npz"))
            stack.callback(workers[-1].close)
        yield workers


def assert_equal(ours: Worker, peer: Worker) -> float:
    """The first meta-step of both; their common loss.

    Raises:
        AssertionError: loss or gradient differ.
    """
    losses = [worker.ask()["loss"] for worker in (ours, peer)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4, err_msg=f"loss of {peer.case}")
    gradients = []
    with tempfile.TemporaryDirectory() as folder:
        for worker in (ours, peer):
            path = Path(folder) / "gradient.npz"
            worker.ask(gradient=str(path))
            arrays = dict(np.load(path))
            gradients.append(np.concatenate([arrays[name].ravel() for name in sorted(arrays)]))
    difference = np.linalg.norm(gradients[1] - gradients[0]) / np.linalg.norm(gradients[0])
    assert difference < GRADIENT_TOLERANCE, (
        f"the gradient of {peer.case} differs by {difference:.1e}"
    )
    return losses[0]


def _times(seconds: list[float]) -> dict:
    return {
        "seconds": round(statistics.median(seconds), 4),
        "least": round(min(seconds), 4),
        "most": round(max(seconds), 4),
        "repeats": len(seconds),
    }


def meta_step(workload: Workload, peer_name: str, repeats: int) -> Iterator[dict]:
    """Two lines: ours and the peer's."""
    order = "first" if workload.first_order else "second"
    with _workers(("ours", peer_name, "matrix product"), workload) as (ours, peer, matrix):
        loss = assert_equal(ours, peer)
        replies: dict[str, list[dict]] = {ours.case: [], peer.case: []}
        rates = []
        label = f"{peer_name}, {order} order"
        with console.progress(label, repeats, " rounds") as bar:
            for _ in range(repeats):
                rates.append(matrix.ask())
                for worker in (ours, peer):
                    replies[worker.case].append(worker.ask())
                bar.update()
    best = max(rates, key=lambda rate: rate["flops"])
    medians = {
        case: statistics.median(reply["seconds"] for reply in found)
        for case, found in replies.items()
    }
    for worker in (ours, peer):
        found = replies[worker.case]
        flops = meta_step_flops(workload)
        yield {
            "case": "meta-step",
            "of": worker.case,
            "beside": (peer if worker is ours else ours).case,
            "order": order,
            **_times([reply["seconds"] for reply in found]),
            "ratio": round(medians[worker.case] / medians["ours"], 3),
            "loss": round(loss, 5),
            "peak_mib": round(found[-1]["peak_mib"]),
            "start_mib": round(worker.start_mib),
            "flops": flops,
            "matrix_flops_per_second": round(best["flops"]),
            "matrix_size": best["size"],
            "of_matrix_rate": round(flops / medians[worker.case] / best["flops"], 3),
        }


def _ours_alone(workload: Workload, repeats: int) -> tuple[dict, dict, list[float]]:
    with _workers(("ours",), workload) as (ours,):
        ours.ask()
        replies = [ours.ask() for _ in range(repeats)]
        sampling = [ours.ask(sampling=step)["seconds"] for step in range(repeats + 1)][1:]
    memory = {
        "peak_mib": round(replies[-1]["peak_mib"]),
        "start_mib": round(ours.start_mib),
        "device_gib": round(replies[-1]["device_gib"], 2),
    }
    return _times([reply["seconds"] for reply in replies]), memory, sampling


def memory(workload: Workload) -> Iterator[dict]:
    """A line for 5 and for 20 inner steps, second order."""
    peaks = []
    for steps in (5, 20):
        case = workload._replace(steps=steps)
        _ours_alone(case, 1)  # compiles, which takes more memory than the run, and is kept
        _, found, _ = _ours_alone(case, 1)
        peaks.append(found["peak_mib"])
        ratio = round(peaks[-1] / peaks[0], 3)
        yield {"case": "memory", "inner_steps": steps, **found, "ratio": ratio}


def tasks(
    workload: Workload, counts: list[int], precisions: list[str], repeats: int
) -> Iterator[dict]:
    """A line for each number of tasks and each precision."""
    for precision in precisions:
        for count in counts:
            case = workload._replace(tasks=count, precision=precision)
            times, found, _ = _ours_alone(case, repeats)
            rate = round(count / times["seconds"], 2)
            label = {"case": "tasks", "precision": precision, "tasks": count}
            yield {**label, "tasks_per_second": rate, **times, **found}


def seeds(workload: Workload, counts: list[int], repeats: int) -> Iterator[dict]:
    """A line for each number of seeds; `ratio` is to the first."""
    first = None
    for count in counts:
        times, found, _ = _ours_alone(workload._replace(seeds=count), repeats)
        first = first or times["seconds"]
        ratio = round(times["seconds"] / first, 3)
        yield {"case": "seeds", "seeds": count, "ratio": ratio, **times, **found}


def cell(arguments: str) -> Iterator[dict]:
    """Two lines: with an empty compilation cache and with a full one.

    Raises:
        UserError: the run fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"XDG_CACHE_HOME": folder}
        for cache in ("empty", "full"):
            run_dir = Path(folder) / cache
            command = [sys.executable, "-m", "fmaml_jax.main", *shlex.split(arguments)]
            start = time.perf_counter()
            run = subprocess.Popen([*command, f"--run_dir={run_dir}"], env=environment)
            first = None
            while run.poll() is None:
                if first is None and any(f.stat().st_size for f in run_dir.rglob("metrics.jsonl")):
                    first = time.perf_counter() - start
                time.sleep(0.05)
            if run.returncode or first is None:
                raise UserError(f"the run of --cell='{arguments}' failed (see above)")
            seconds = {"first_step": first, "seconds": time.perf_counter() - start}
            yield {"case": "cell", "cache": cache, **{k: round(v, 2) for k, v in seconds.items()}}


def evaluation(workload: Workload, repeats: int) -> Iterator[dict]:
    """Two lines: ours and the PyTorch loop's.

    Raises:
        AssertionError: more than one answer in a hundred differs after the last step.
    """
    with _workers(("ours", "torch loop"), workload) as workers, tempfile.TemporaryDirectory() as to:
        answers, seconds = {}, {worker.case: [] for worker in workers}
        for worker in workers:
            path = str(Path(to) / f"{worker.case}.npy")
            worker.ask(evaluate=EPISODES_A_ROUND, logits=path)
            answers[worker.case] = np.load(path)[:, -1].argmax(-1)
        same = np.mean(answers["ours"] == answers["torch loop"])
        assert same > 0.99, f"only {same:.1%} of the answers are the same"
        for _ in range(repeats):
            for worker in workers:
                path = str(Path(to) / "again.npy")
                reply = worker.ask(evaluate=EPISODES_A_ROUND, logits=path)
                seconds[worker.case].append(reply["seconds"] * 1000 / EPISODES_A_ROUND)
    for case, found in seconds.items():
        ratio = statistics.median(found) / statistics.median(seconds["ours"])
        line = {"case": "evaluation", "of": case, "episodes": 1000, **_times(found)}
        yield line | {"ratio": round(ratio, 3), "same_answers": round(float(same), 5)}


def sampling(workload: Workload, repeats: int) -> Iterator[dict]:
    """One line."""
    times, _, seconds = _ours_alone(workload, repeats)
    share = round(statistics.median(seconds) / times["seconds"], 5)
    yield {"case": "sampling", **_times(seconds), "of_meta_step": share}


def machine() -> dict:
    """What the figures depend on beside the code."""
    names = {}
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = dict(line.split("\t: ", 1) for line in lines if "\t: " in line)
    jax_device = "import jax; print(jax.devices()[0].device_kind)"
    return {
        "case": "machine",
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "processor": names.get("model name", platform.processor()).strip(),
        "cores": cores(),
        "load": os.getloadavg()[0],
        "device": subprocess.check_output([sys.executable, "-c", jax_device], text=True).strip(),
        "python": platform.python_version(),
        **_driver(),
        **{package: _version(package) for package in PACKAGES},
    }


def _version(package: str) -> str | None:
    """None where only ours is measured, and the peer is not installed."""
    with contextlib.suppress(PackageNotFoundError):
        return version(package)
    return None


def _driver() -> dict:
    """Of an NVIDIA GPU."""
    if not shutil.which("nvidia-smi"):
        return {}
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return {"driver": subprocess.check_output(query, text=True).split()[0]}


def draw(lines: list[dict], path: Path) -> None:
    """The seconds of each meta-step, as bars with their least and most, on a logarithmic axis."""
    lines = [line for line in lines if line["case"] == "meta-step"]
    figure, panels = plt.subplots(1, len(ORDERS), figsize=(10, 3), layout="constrained")
    for panel, order in zip(panels, ORDERS, strict=True):
        shown = [line for line in lines if line["order"] == order]
        # Ours was measured beside each peer; the bar is the first.
        shown = list({line["of"]: line for line in reversed(shown)}.values())
        shown.sort(key=lambda line: line["seconds"], reverse=True)
        seconds = [line["seconds"] for line in shown]
        spread = [
            [line["seconds"] - line["least"] for line in shown],
            [line["most"] - line["seconds"] for line in shown],
        ]
        names = [line["of"] for line in shown]
        colours = ["C0" if name == "ours" else "0.7" for name in names]
        bars = panel.barh(names, seconds, xerr=spread, color=colours, log=True)
        panel.bar_label(bars, [f" {value:.2f} s" for value in seconds])
        panel.margins(x=0.3)
        panel.set_title(f"{order} order")
        panel.set_xlabel("seconds per meta-step, logarithmic")
        panel.tick_params(axis="x", which="both", bottom=False, labelbottom=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def draw_tasks(lines: list[dict], path: Path) -> None:
    """Tasks a second and GiB of the device against tasks, a line for each precision."""
    lines = [line for line in lines if line["case"] == "tasks"]
    figure, panels = plt.subplots(1, 2, figsize=(10, 3.2), layout="constrained")
    for precision in dict.fromkeys(line["precision"] for line in lines):
        shown = [line for line in lines if line["precision"] == precision]
        counts = [line["tasks"] for line in shown]
        for panel, of in zip(panels, ("tasks_per_second", "device_gib"), strict=True):
            panel.plot(counts, [line[of] for line in shown], marker="o", label=precision)
    for panel, title in zip(panels, ("tasks a second", "GiB of the device"), strict=True):
        panel.set_title(title)
        panel.set_xlabel("tasks a meta-step")
        panel.set_xscale("log", base=2)
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.3)
        panel.xaxis.set_major_formatter("{x:.0f}")
    panels[0].legend()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    """Measures what the flags say.

    Raises:
        UserError: a name is unknown, a file cannot be written, or a process fails.
    """
    args = flags.FLAGS
    for name, given, known in (
        ("peers", args.peers, PEERS),
        ("orders", args.orders, ORDERS),
        ("measures", args.measures, MEASURES),
        ("precisions", args.precisions, PRECISIONS),
    ):
        if unknown := [value for value in given if value not in known]:
            raise UserError(f"--{name}={unknown[0]} is unknown; choose from {', '.join(known)}")
    out = Path(args.out) if args.out else None
    if out and not out.parent.is_dir():
        raise UserError(f"--out={out} is in no folder there is; make {out.parent} first")
    for name in ("task_counts", "seed_counts"):
        if not all(count.isdecimal() and int(count) for count in getattr(args, name)):
            raise UserError(f"--{name} has to be whole numbers from 1, such as 16,64")
    workload = Workload(args.tasks, args.steps)
    lines = []

    if out:
        out.write_text("")

    def emit(found: Iterator[dict]) -> None:
        for line in found:
            lines.append(line)
            print(json.dumps(line), flush=True)
            if out:
                with out.open("a") as file:
                    print(json.dumps(line), file=file)

    emit(iter([machine()]))
    if "meta-step" in args.measures:
        for order in args.orders:
            for peer in args.peers:
                # The naive form takes minutes on a CPU, beside which its spread is nothing.
                repeats = 1 if peer == "naive JAX" else args.repeats
                emit(meta_step(workload._replace(first_order=order == "first"), peer, repeats))
    if "evaluation" in args.measures:
        emit(evaluation(workload, args.repeats))
    if "memory" in args.measures:
        emit(memory(workload))
    if "tasks" in args.measures:
        counts = [int(count) for count in args.task_counts]
        emit(tasks(workload, counts, args.precisions, args.repeats))
    if "seeds" in args.measures:
        emit(seeds(workload, [int(count) for count in args.seed_counts], args.repeats))
    if "sampling" in args.measures:
        emit(sampling(workload, args.repeats))
    if "cell" in args.measures and args.cell:
        emit(cell(args.cell))
    if out:
        if "meta-step" in args.measures:
            draw(lines, out.with_suffix(".png"))
        if "tasks" in args.measures:
            draw_tasks(lines, out.with_name(f"{out.stem}_tasks.png"))


def define_flags() -> None:
    flags.DEFINE_list("measures", list(MEASURES), f"What to measure, of {', '.join(MEASURES)}.")
    flags.DEFINE_list("peers", list(PEERS), "Whom to measure beside ours.")
    flags.DEFINE_list("orders", list(ORDERS), "Orders of the gradient.")
    flags.DEFINE_integer("repeats", 7, "Meta-steps timed, of each.", 1)
    flags.DEFINE_integer("tasks", 16, "Tasks in a meta-step.", 1)
    flags.DEFINE_integer("steps", 5, "Inner steps.", 1)
    flags.DEFINE_list("task_counts", ["16", "64"], "Numbers of tasks for the measure `tasks`.")
    flags.DEFINE_list("seed_counts", ["1", "3"], "Numbers of seeds for the measure `seeds`.")
    flags.DEFINE_list("precisions", ["float32"], "Values of --precision for the measure `tasks`.")
    flags.DEFINE_string("cell", "", "Flags of fmaml_jax.main for the measure `cell`.")
    flags.DEFINE_string("out", None, "File of JSON lines to write; a .png is drawn beside it.")


if __name__ == "__main__":
    define_flags()
    console.run(main)
