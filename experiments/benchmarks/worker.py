"""A process that computes one case of `meta_step`, a request at a time, over its pipes.

Standard input has one JSON object a line, each a request; the reply is one on standard output:

- first `{"case", "params"}` (the file of the initial parameters) and the fields of a `Workload` ->
  `{"start_mib"}`, the peak memory once all is imported;
- then `{}` for a meta-step -> `{"seconds", "loss", "peak_mib", "device_gib"}`, the last of them the
  peak on ours' accelerator;
- `{"gradient": FILE}` writes the last meta-step's gradient -> `{}`;
- `{"evaluate": EPISODES, "logits": FILE}` evaluates and writes the logits -> `{"seconds"}`;
- `{"sampling": STEP}` -> `{"seconds"}` of sampling a step's tasks and their transfer (ours alone).
"""

import json
import resource
import sys
import time

import numpy as np
from absl import flags

from experiments.benchmarks.workload import Workload, make_episodes

MATRIX_SIZES = (1024, 2048, 4096)


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _device_gib() -> float:
    import jax

    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("peak_bytes_in_use", 0) / 2**30


def _matrix_product():
    """The best rate of float32 products by JAX with its own settings, as a case."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_default_matmul_precision", "float32")
    product = jax.jit(jnp.matmul)
    squares = [jnp.ones((size, size)) for size in MATRIX_SIZES]

    def step() -> tuple[float, int]:
        rates = []
        for square in squares:
            for _ in range(3):
                start = time.perf_counter()
                product(square, square).block_until_ready()
                rates.append((2 * len(square) ** 3 / (time.perf_counter() - start), len(square)))
        return max(rates)

    return step


def serve() -> None:
    """Answers requests until standard input ends."""
    requests = map(json.loads, sys.stdin)
    answers, sys.stdout = sys.stdout, sys.stderr  # nothing else may stand between the replies

    def reply(**fields: object) -> None:
        print(json.dumps(fields), file=answers, flush=True)

    request = next(requests)
    case, path = request.pop("case"), request.pop("params")
    if case == "matrix product":
        step = _matrix_product()
        reply(start_mib=_peak_mib())
        for _ in requests:
            rate, size = step()
            reply(flops=rate, size=size)
        return
    workload = Workload(**request)
    if case in ("ours", "naive JAX"):
        import jax

        from experiments.benchmarks import jax_cases
        from fmaml_jax.training.devices import set_up
        from fmaml_jax.training.experiment import PRODUCTS

        make, make_evaluation = jax_cases.naive, jax_cases.make_evaluation
        if case == "ours":
            flags.FLAGS(sys.argv[:1])  # the product's flags, at their defaults
            set_up()
            make = jax_cases.ours
            np.savez(path, **jax_cases.initial_params(workload))
        jax.config.update("jax_default_matmul_precision", PRODUCTS[workload.precision])
    else:
        from experiments.benchmarks import torch_peers

        make_evaluation = torch_peers.make_evaluation

        def make(workload, initial):
            return torch_peers.make_step(case, workload, initial)

    initial = dict(np.load(path))
    step, gradient = make(workload, initial)
    evaluate = make_evaluation(workload, initial)
    reply(start_mib=_peak_mib())
    for request in requests:
        if "gradient" in request:
            np.savez(request["gradient"], **gradient())
            reply()
        elif "evaluate" in request:
            start = time.perf_counter()
            logits = evaluate(request["evaluate"])
            seconds = time.perf_counter() - start
            np.save(request["logits"], logits)
            reply(seconds=seconds)
        elif "sampling" in request:
            start = time.perf_counter()
            jax_cases.transfer(make_episodes(workload.tasks, request["sampling"]))
            reply(seconds=time.perf_counter() - start)
        else:
            start = time.perf_counter()
            loss = step()
            seconds = time.perf_counter() - start
            found = {"peak_mib": _peak_mib(), "device_gib": _device_gib() if case == "ours" else 0}
            reply(seconds=seconds, loss=loss, **found)


if __name__ == "__main__":
    serve()
