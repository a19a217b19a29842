"""Sweeps: the grid, and real runs of it on this machine, finished, skipped, resumed and failed."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from fmaml_jax.common.errors import UserError
from fmaml_jax.config import Config
from fmaml_jax.config_flags import flags_from_config
from fmaml_jax.sweep import Run, cells, finished, last_line, reason, steps_done
from fmaml_jax.training.run_folder import settings_of
from tests.commands import run_module
from tests.corpus import EMOTIONS, save_corpora

ROOT = Path(__file__).resolve().parents[1]
BASE = Config(data=("a.npz",), target="cc", run_dir="runs", shots=5, seed=7)


def test_grid_has_every_combination_in_a_folder_of_its_own(tmp_path):
    grid = cells(BASE, str(tmp_path), targets=["aa", "cc"], shots=[1, 5], seeds=[0, 1, 2])
    assert len(grid) == len({config.run_dir for config in grid.values()}) == 12
    assert {(c.target, c.shots, c.seed) for c in grid.values()} == {
        (target, shots, seed) for target in ("aa", "cc") for shots in (1, 5) for seed in (0, 1, 2)
    }
    assert grid["aa_1shot_fmaml_seed2"].run_dir == str(tmp_path / "aa_1shot_fmaml_seed2")


def test_empty_lists_mean_the_flagfiles_values(tmp_path):
    (config,) = cells(BASE, str(tmp_path)).values()
    assert (config.target, config.shots, config.method, config.seed) == ("cc", 5, "fmaml", 7)


def test_every_cell_is_checked(tmp_path):
    with pytest.raises(UserError, match="--shots=0 is too small"):
        cells(BASE, str(tmp_path), shots=[5, 0])
    with pytest.raises(UserError, match="--method=protonets is unknown; choose from"):
        cells(BASE, str(tmp_path), methods=["fmaml", "protonets"])


def test_state_is_read_from_the_run_folder(tmp_path):
    (config,) = cells(BASE, str(tmp_path)).values()
    assert (finished(config), steps_done(config)) == (False, 0)
    folder = Path(config.run_dir)
    folder.mkdir()
    (folder / "metrics.jsonl").write_text('{"step": 3, "loss": 1.0}\n{"step": 4, "los')
    assert steps_done(config) == 0  # a line half written
    (folder / "metrics.jsonl").write_text('{"step": 3, "loss": 1.0}\n{"step": 4, "loss": 1.0}\n')
    assert steps_done(config) == 4
    (folder / "log").write_text("error: so it is\n\n")
    assert last_line(folder / "log") == "error: so it is"


@pytest.mark.parametrize("record", [None, "", "{", "[]", "{}", '{"config": 1}', "\xff"])
def test_a_run_whose_record_is_damaged_or_gone_is_not_finished(tmp_path, record):
    (config,) = cells(BASE, str(tmp_path)).values()
    folder = Path(config.run_dir)
    folder.mkdir()
    (folder / "results.json").write_text("{}")
    (folder / "metrics.jsonl").write_text("[]\n")
    if record is not None:
        (folder / "config.json").write_text(record, encoding="latin-1")
    assert (finished(config), steps_done(config)) == (False, 0)
    (folder / "config.json").write_text(json.dumps({"config": settings_of(config)}))
    assert finished(config)


def test_a_run_that_another_sweep_computes_is_said_to_be_so(tmp_path):
    class Job(NamedTuple):
        result: Callable[[], int]

    log = tmp_path / "a.log"
    run = Run(
        [sys.executable, "-c", "import time; print('a bar', flush=True); time.sleep(60)"], log
    )
    first = threading.Thread(target=run)
    first.start()
    while not (run.process and log.exists() and log.read_text()):
        time.sleep(0.01)
    try:
        other = Run([sys.executable, "-c", "print('never')"], log)
        assert reason(Job(other), log) == "another sweep is at work on it"
    finally:
        run.process.terminate()
        first.join()
    assert reason(Job(other), log) == "never"


def tiny(folder, **changes):
    return replace(
        Config(
            data=save_corpora(folder),
            target="cc",
            run_dir="unused",
            emotions=EMOTIONS,
            shots=2,
            filters=2,
            meta_steps=2,
            task_batch=2,
            inner_steps=1,
            test_inner_steps=1,
            query_per_class=2,
            val_episodes=2,
            episodes=2,
            test_query_per_class=2,
            test_query_per_fixed_class=2,
            first_order=True,
        ),
        **changes,
    )


def sweep(base, out, *arguments, **environment):
    return subprocess.run(
        [
            *(sys.executable, "-m", "fmaml_jax.sweep", *flags_from_config(base)),
            *(f"--out={out}", *arguments),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | environment,
    )


@pytest.mark.slow
def test_runs_on_this_machine_go_past_a_failure_and_are_not_repeated(tmp_path):
    base, out = tiny(tmp_path), tmp_path / "sweep"
    first = sweep(base, out, "--all_shots=500,2")
    assert first.returncode == 1, first.stderr
    assert "1 of 2 runs are finished" in first.stdout
    assert "cc_500shot_fmaml_seed0 failed: error: class anger of language cc" in first.stderr
    assert "cc_2shot_fmaml_seed0: 100%" in first.stderr
    results = out / "cc_2shot_fmaml_seed0" / "results.json"
    assert json.loads(results.read_text())["shots"] == 2
    written = results.stat().st_mtime_ns

    second = sweep(base, out, "--all_shots=500,2")
    assert second.returncode == 1
    assert "cc_2shot_fmaml_seed0: finished before" in second.stdout
    assert results.stat().st_mtime_ns == written


def test_a_disk_without_room_is_named(tmp_path):
    (tmp_path / "a.npz").touch()
    base = replace(BASE, data=(str(tmp_path / "a.npz"),))
    command = [sys.executable, "-m", "fmaml_jax.sweep", *flags_from_config(base)]
    done = subprocess.run(
        ["sh", "-c", 'ulimit -f 0; exec "$@"', "sh", *command, f"--out={tmp_path}/x"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    *_, last = done.stderr.strip().splitlines()
    assert last.startswith(f"error: cannot use --out={tmp_path}/x: File too large; choose a folder")
    assert done.returncode == 3


@pytest.fixture
def slurm(tmp_path):
    """The configuration file of a Slurm that was started for the test."""
    script, folder = ROOT / "tests" / "slurm.sh", tmp_path / "slurm"
    started = subprocess.run([script, "start", folder], capture_output=True, text=True, timeout=300)
    if started.returncode:
        pytest.skip(f"no Slurm: {(started.stdout + started.stderr).strip()}")
    yield str(folder / "slurm.conf")
    subprocess.run([script, "stop", folder], check=True, timeout=300)


@pytest.mark.slow
def test_runs_on_slurm_are_one_array(tmp_path, slurm):
    out = tmp_path / "sweep"
    done = sweep(
        tiny(tmp_path),
        out,
        *("--seeds=0,1", "--cluster=slurm", "--slurm_cpus=1"),
        SLURM_CONF=slurm,
    )
    assert done.returncode == 0, done.stderr
    for seed in (0, 1):
        results = json.loads((out / f"cc_2shot_fmaml_seed{seed}" / "results.json").read_text())
        assert results["seed"] == seed
    submitted = {path.name for path in (out / "logs" / "submitit").glob("*_submitted.pkl")}
    assert submitted == {"1_0_submitted.pkl", "1_1_submitted.pkl"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "--out is missing"),
        (("--out=x", "--seeds=a"), "--seeds has to be whole numbers"),
        (("--out=x",), "a.npz does not exist; make it with"),
    ],
)
def test_bad_flags_are_one_sentence(arguments, sentence):
    done = run_module("fmaml_jax.sweep", *flags_from_config(BASE), *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1
