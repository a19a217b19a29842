"""One run of two real processes, which think that they are a Slurm step: `--distributed`."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from fmaml_jax.config import Config
from fmaml_jax.config_flags import flags_from_config
from fmaml_jax.model import HEAD
from fmaml_jax.training.checkpoints import newest_intact
from tests.corpus import EMOTIONS, save_corpora

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow

# The command, with a network that compiles at once; one process may be killed at a meta-step.
SCRIPT = """
import os, signal
from absl import flags
from fmaml_jax.common import console
from fmaml_jax import main
from fmaml_jax.training import devices, train
from fmaml_jax.training import experiment as run
from tests.test_run import linear_model, stop_at
run.model_of = linear_model
devices.PEER_TIMEOUT = int(os.environ["PATIENCE"])
if step := os.environ.get("KILLED_AT"):
    train.sample_seeds = stop_at(int(step), signal.SIGKILL)
main.define_flags()
console.run(main.main)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return save_corpora(tmp_path_factory.mktemp("corpora"))


def small(data, folder, **changes):
    return Config(
        data=data,
        target="cc",
        run_dir=str(folder),
        emotions=EMOTIONS,
        shots=3,
        outer_lr=0.05,
        task_batch=4,
        val_episodes=6,
        episodes=10,
        test_query_per_class=6,
        test_query_per_fixed_class=6,
        **changes,
    )


def start(config, processes, patience=100, killed_at=""):
    """Starts the processes of a run, each with two devices; the second may be killed at a step."""
    arguments = flags_from_config(config) + ["--distributed"] * (processes > 1)
    job = str(10_000 + os.getpid() % 10_000)  # the port follows from it
    return [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, *arguments],
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={
                **os.environ,
                "JAX_NUM_CPU_DEVICES": "2",
                "SLURM_JOB_ID": job,
                "SLURM_STEP_NODELIST": "127.0.0.1",
                "SLURM_NTASKS": str(processes),
                "SLURM_PROCID": str(process),
                "SLURM_LOCALID": str(process),
                "PATIENCE": str(patience),
                "KILLED_AT": killed_at * process,
            },
        )
        for process in range(processes)
    ]


def finish(processes):
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    return [process.returncode for process in processes], outputs


def parameters(folder, step):
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with ocp.CheckpointManager(
        folder / "checkpoints", item_handlers=ocp.StandardCheckpointHandler()
    ) as manager:
        target = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here),
            dict(manager.item_metadata(step).items()),
        )
        return manager.restore(step, args=ocp.args.StandardRestore(target))["state"]["params"]


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_two_processes_come_to_the_parameters_of_one(data, tmp_path):
    folders = {count: tmp_path / str(count) for count in (1, 2)}
    for count, folder in folders.items():
        codes, outputs = finish(start(small(data, folder, meta_steps=8, eval_every=4), count))
        assert codes == [0] * count, outputs
        # Only the first process speaks.
        assert [("Results and pictures" in output) for output in outputs] == [True, False][:count]
    one, two = (parameters(folder, 8) for folder in folders.values())
    for name in ("kernel", "bias"):
        np.testing.assert_allclose(one[HEAD][name], two[HEAD][name], rtol=1e-4, atol=1e-6)
    one, two = (json.loads((folder / "results.json").read_text()) for folder in folders.values())
    for figure in ("accuracy", "uar"):
        assert one["inductive"][figure]["mean"] == pytest.approx(
            two["inductive"][figure]["mean"], abs=0.01
        )


def test_a_killed_process_ends_the_other_and_the_rerun_resumes_alone(data, tmp_path):
    folder = tmp_path / "run"
    config = small(data, folder, meta_steps=30, eval_every=10)
    (code, killed), (output, _) = finish(start(config, 2, patience=10, killed_at="17"))
    assert killed == -signal.SIGKILL, output
    assert code not in (0, -signal.SIGKILL)
    assert "another process of this run is gone" in output or "another task died" in output
    assert not (folder / "results.json").exists()
    assert newest_intact(folder / "checkpoints") == 10

    (code,), (output,) = finish(start(config, 1))
    assert code == 0, output
    assert [line["step"] for line in metrics(folder) if "loss" in line] == list(range(1, 31))
    assert (folder / "results.json").exists()


def test_a_refusal_ends_every_process(data, tmp_path):
    (tmp_path / "other_file").write_text("")
    codes, outputs = finish(start(small(data, tmp_path, meta_steps=4), 2))
    assert codes == [2, 2], outputs
    assert "holds other files" in outputs[0]
    assert "another process of this run refused" in outputs[1]
