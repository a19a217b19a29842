"""Whole runs on small corpora: outputs, resume after every kind of stop, and bad run folders."""

import fcntl
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmaml_jax.common.errors import UserError
from fmaml_jax.config import Config
from fmaml_jax.config_flags import flags_from_config
from fmaml_jax.data.split import load_clips
from fmaml_jax.learners import METHODS, Network, without_unread
from fmaml_jax.model import HEAD, Model
from fmaml_jax.training import checkpoints, devices, held_out
from fmaml_jax.training import evaluate as evaluate_module
from fmaml_jax.training import experiment as run_module
from fmaml_jax.training import run_folder as run_folder_module
from fmaml_jax.training import train as train_module
from fmaml_jax.training.experiment import run
from fmaml_jax.training.metrics_log import learning_curve
from fmaml_jax.training.run_folder import run_folder, write_json
from fmaml_jax.training.train import InterruptedRunError, NonFiniteLossError
from tests.corpus import EMOTIONS, save_corpora

ROOT = Path(__file__).resolve().parents[1]


def linear_model(config, coefficients, body=jnp.ones, through=jnp.multiply):
    """Logits linear in the clip's mean: compiles at once, and enough to learn these corpora."""
    classes = len(config.classes)

    def init(key):
        kernel = jax.random.normal(key, (coefficients, classes)) / 10
        return {
            "body": body(coefficients),
            HEAD: {"kernel": kernel, "bias": jnp.zeros(classes)},
        }

    def features(params, clips, statistics=None):
        centre = statistics if statistics is not None else clips.mean(axis=(0, 1))
        return through(clips.mean(axis=1) - centre, params["body"])

    def apply(params, clips, statistics=None):
        head = params[HEAD]
        return features(params, clips, statistics) @ head["kernel"] + head["bias"]

    return Model(init, apply, lambda _, clips: clips.mean(axis=(0, 1)), features)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return save_corpora(tmp_path_factory.mktemp("corpora"))


@pytest.fixture
def config(data, tmp_path, monkeypatch, request):
    monkeypatch.setattr(run_module, "model_of", linear_model)
    if "pictures" not in request.keywords:  # they are a good part of a run this small
        monkeypatch.setattr(run_module.plots, "convergence", lambda *_: None)
        monkeypatch.setattr(run_module.plots, "confusion", lambda *_: None)
    return Config(
        data=data,
        target="cc",
        run_dir=str(tmp_path / "run"),
        emotions=EMOTIONS,
        shots=3,
        meta_steps=24,
        outer_lr=0.05,
        task_batch=4,
        eval_every=8,
        val_episodes=10,
        episodes=20,
        test_query_per_class=6,
        test_query_per_fixed_class=6,
        seed=3,
    )


def outputs(folder):
    return {name: (Path(folder) / name).read_bytes() for name in ("results.json", "metrics.jsonl")}


@pytest.fixture(scope="module")
def uninterrupted():
    """Outputs of the run of `config` without a stop; made by the first test that needs them."""
    return {}


def reference(config, uninterrupted, tmp_path):
    if not uninterrupted:
        folder = tmp_path / "reference"
        run(replace(config, run_dir=str(folder)))
        uninterrupted.update(outputs(folder))
    return uninterrupted


@pytest.mark.pictures
def test_run_folder_holds_what_is_promised(config, capsys):
    [results] = run(config)
    folder = Path(config.run_dir)
    assert json.loads((folder / "results.json").read_text()) == results
    assert results["method"] == "fmaml"
    assert (results["target"], results["shots"], results["seed"]) == ("cc", 3, 3)
    assert (results["ways"], results["fixed"], results["episodes"]) == (3, 2, 20)
    assert results["query_per_class"] == 6
    assert results["fixed_class_sources"] == {
        "neutral": ["corpus_cc"],
        "silence": ["corpus_zxx"],
    }
    for mode in ("transductive", "inductive"):
        for figure in ("accuracy", "emotion_accuracy", "uar"):
            assert set(results[mode][figure]) == {"mean", "ci95"}
        assert list(results[mode]["recall"]) == [*EMOTIONS, "neutral", "silence"]
        # These corpora are separable by their means: adaptation must find that out.
        before = results[mode]["before_adaptation"]["emotion_accuracy"]
        after = results[mode]["emotion_accuracy"]
        assert after["mean"] - after["ci95"] > before["mean"] + before["ci95"] + 0.2
        assert after["mean"] > 0.8

    record = json.loads((folder / "config.json").read_text())
    assert record["config"]["outer_lr"] == 0.05
    assert list(record["data_hashes"]) == list(config.data)
    assert record["versions"]["jax"] == jax.__version__
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in metrics if "loss" in line] == list(range(1, 25))
    assert [line["step"] for line in metrics if "val_loss" in line] == [8, 16, 24]
    assert results["selection"]["meta_step"] in (8, 16, 24)
    assert results["selection"]["languages"] == ["aa", "bb"]
    for picture in ("convergence.png", "confusion.png"):
        assert (folder / picture).read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    rows = [line.split("  ")[0] for line in printed.splitlines() if line.startswith("fmaml, cc")]
    assert rows == [f"fmaml, cc, 3-shot, seed 3, {mode}" for mode in ("inductive", "transductive")]
    assert "inductive: an answer depends on its clip" in printed
    assert "without adaptation" in printed
    assert "chance" in printed
    assert not (folder / ".lock").exists()


def few_fast(names, fast):
    """Parameters of which all but a few are slow."""
    return [n if n in fast else pytest.param(n, marks=pytest.mark.slow) for n in sorted(names)]


@pytest.mark.parametrize(
    "method", few_fast(set(METHODS) - {"fmaml"}, {"protonet", "functionals_pooled"})
)
def test_every_method_learns_separable_corpora(method, config, monkeypatch, capsys):
    if method == "boil":  # its body has to be able to exchange classes
        mixing = partial(linear_model, body=jnp.eye, through=jnp.matmul)
        monkeypatch.setattr(run_module, "model_of", mixing)
    config = without_unread(replace(config, method=method, shots=3, query_per_class=3))
    [results] = run(config)
    assert results["support"] == METHODS[method].supports[0]
    assert results["knows_fixed_classes"]
    assert (results["selection"] is None) == (
        method in ("supervised", "functionals", "functionals_fixed", "functionals_pooled")
    )
    if not isinstance(METHODS[method], Network):  # nothing depends on other queries
        assert "transductive" not in capsys.readouterr().out
    least = 0.6 if method in ("relation", "boil") else 0.8  # chance is 1/3
    assert results["transductive"]["emotion_accuracy"]["mean"] > least


@pytest.mark.slow
def test_a_method_that_cannot_know_the_fixed_classes_says_so(config, capsys):
    changes = {"method": "supervised", "support": "emotions", "meta_steps": 40}
    [results] = run(without_unread(replace(config, **changes)))
    assert not results["knows_fixed_classes"]
    assert results["inductive"]["recall"]["silence"] < 0.5
    assert "cannot know the fixed classes" in capsys.readouterr().out
    assert not (Path(config.run_dir) / "metrics.jsonl").exists()


def test_method_and_support_that_do_not_fit_are_refused(config):
    with pytest.raises(UserError, match="--method=fmaml cannot do with --support=all"):
        run(replace(config, support="all"))
    with pytest.raises(UserError, match="--method=magic is unknown; choose from fmaml, metaser"):
        run(replace(config, method="magic"))


@pytest.mark.pictures
def test_without_a_target_nothing_is_tested(config, capsys):
    config = replace(config, target="none")
    [results] = run(config)
    assert "trained on all languages, tested on none" in capsys.readouterr().out
    assert results["selection"]["languages"] == ["aa", "bb", "cc"]
    assert "inductive" not in results
    assert (Path(config.run_dir) / "convergence.png").exists()
    assert not (Path(config.run_dir) / "confusion.png").exists()
    assert run(config) == [results]
    with pytest.raises(UserError, match="--method=functionals_pooled trains no network on the"):
        run(without_unread(replace(config, method="functionals_pooled")))


def test_finished_run_is_not_done_again(config):
    [results] = run(config)
    stamp = (Path(config.run_dir) / "results.json").stat().st_mtime_ns
    assert run(config) == [results]
    assert (Path(config.run_dir) / "results.json").stat().st_mtime_ns == stamp


def stop_at(step_to_stop, number):
    """A sampler that sends this process a signal when it prepares the tasks after that step."""
    sample = train_module.sample_seeds

    def stopping_sample(*args, step, split, **kwargs):
        if split == "train" and step == step_to_stop:
            os.kill(os.getpid(), number)
        return sample(*args, step=step, split=split, **kwargs)

    return stopping_sample


@pytest.mark.parametrize(
    ("number", "step"),
    [pytest.param(signal.SIGTERM, 11, marks=pytest.mark.slow), (signal.SIGINT, 24)],
)
def test_stop_signal_saves_and_the_same_command_continues(
    number, step, config, uninterrupted, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(train_module, "sample_seeds", stop_at(step, number))
        with pytest.raises(InterruptedRunError, match=f"after meta-step {step}, which is saved"):
            run(config)
    assert not (Path(config.run_dir) / "results.json").exists()
    run(config)
    assert outputs(config.run_dir) == reference(config, uninterrupted, tmp_path)


@pytest.mark.slow
def test_what_depends_on_the_meta_step_continues_too(config, tmp_path, monkeypatch):
    config = replace(config, method="mamlpp")
    whole = replace(config, run_dir=str(tmp_path / "whole"))
    run(whole)
    with monkeypatch.context() as patch:
        patch.setattr(train_module, "sample_seeds", stop_at(11, signal.SIGTERM))
        with pytest.raises(InterruptedRunError):
            run(config)
    run(config)
    assert outputs(config.run_dir) == outputs(whole.run_dir)


@pytest.mark.slow
def test_the_run_goes_on_from_the_checkpoint_before_a_damaged_one(
    config, uninterrupted, tmp_path, monkeypatch, capsys
):
    with monkeypatch.context() as patch:
        patch.setattr(train_module, "sample_seeds", stop_at(19, signal.SIGTERM))
        with pytest.raises(InterruptedRunError):
            run(config)
    newest = Path(config.run_dir) / "checkpoints" / "19"
    arrays = max((newest / "default").rglob("*"), key=lambda file: file.stat().st_size)
    content = bytearray(arrays.read_bytes())
    content[len(content) // 2] ^= 4
    arrays.write_bytes(content)
    run(config)
    assert f"{newest} is damaged; the checkpoint before it is taken" in capsys.readouterr().err
    assert outputs(config.run_dir) == reference(config, uninterrupted, tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax's threads
def test_a_disk_that_fills_loses_nothing(config, uninterrupted, tmp_path, monkeypatch):
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    whole = checkpoints.save

    def fill(manager, step, content):
        if step == 16:  # from now on files of over 2 kB do not fit
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, most))
        whole(manager, step, content)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save", fill)
        try:
            with pytest.raises(OSError, match="File too large"):
                run(config)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    run(config)
    assert outputs(config.run_dir) == reference(config, uninterrupted, tmp_path)


@pytest.mark.slow
def test_a_run_folder_that_lost_its_metrics_is_evaluated_without_a_curve(config):
    config = replace(config, meta_steps=2, val_episodes=2, episodes=2)
    [results] = run(config)
    folder = Path(config.run_dir)
    (folder / "metrics.jsonl").unlink()
    (folder / "results.json").unlink()
    assert run(config) == [results | {"curve": None}]


@pytest.mark.slow
def test_kill_9_loses_only_the_steps_since_the_last_checkpoint(config, uninterrupted, tmp_path):
    script = (
        "import sys, time\n"
        "from fmaml_jax.training import experiment as run, train\n"
        "from fmaml_jax.config import Config\n"
        "from tests.test_run import linear_model\n"
        "run.model_of = linear_model\n"
        "sample = train.sample_seeds\n"
        "def slow(*args, step, **kwargs):\n"
        "    if step == 19: print('step 19', flush=True); time.sleep(60)\n"
        "    return sample(*args, step=step, **kwargs)\n"
        "train.sample_seeds = slow\n"
        "run.run(eval(sys.argv[1]))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, repr(config)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert "step 19\n" in process.stdout  # reads until it comes, or the process ends
        process.kill()
    folder = Path(config.run_dir)
    # What a kill in mid-write leaves behind: a checkpoint under its temporary name, half a line.
    cut_short = folder / "checkpoints" / "18.orbax-checkpoint-tmp"
    shutil.copytree(folder / "checkpoints" / "16", cut_short)
    for file in cut_short.rglob("*"):
        if file.is_file():
            os.truncate(file, file.stat().st_size // 2)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 19, "lo')
    run(config)
    assert outputs(folder) == reference(config, uninterrupted, tmp_path)


@pytest.mark.slow
def test_another_seed_gives_another_run(config, uninterrupted, tmp_path):
    other = replace(config, seed=4, run_dir=str(tmp_path / "other"))
    run(other)
    expected = reference(config, uninterrupted, tmp_path)
    assert outputs(other.run_dir)["metrics.jsonl"] != expected["metrics.jsonl"]


@pytest.mark.slow
def test_seeds_at_once_are_the_runs_of_each(config, uninterrupted, tmp_path, monkeypatch):
    """Seeds 3 and 4 in one program, stopped on the way: the same as each alone."""
    both = replace(config, seeds_at_once=2, run_dir=str(tmp_path / "both"))
    with monkeypatch.context() as patch:
        patch.setattr(train_module, "sample_seeds", stop_at(11, signal.SIGTERM))
        with pytest.raises(InterruptedRunError):
            run(both)
    run(both)
    reference(config, uninterrupted, tmp_path)
    run(replace(config, seed=4, run_dir=str(tmp_path / "alone")))
    alone = {3: uninterrupted, 4: outputs(tmp_path / "alone")}
    for seed, expected in alone.items():
        found = outputs(Path(both.run_dir) / f"seed{seed}")
        for ours, theirs in zip(
            found["metrics.jsonl"].splitlines(), expected["metrics.jsonl"].splitlines(), strict=True
        ):
            assert json.loads(ours) == pytest.approx(json.loads(theirs), rel=1e-4)
        ours, theirs = (json.loads(each["results.json"]) for each in (found, expected))
        assert ours["seed"] == seed
        assert ours["selection"]["meta_step"] == theirs["selection"]["meta_step"]
        assert ours["inductive"]["accuracy"] == pytest.approx(theirs["inductive"]["accuracy"])


def test_run_folder_of_another_config_is_refused_with_the_difference(config):
    run(config)
    before = outputs(config.run_dir)
    with pytest.raises(UserError, match=r"shots was 3, now 4") as error:
        run(replace(config, shots=4))
    assert "outer_lr" not in str(error.value)
    assert outputs(config.run_dir) == before


def test_folder_with_other_files_is_refused(config):
    folder = Path(config.run_dir)
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="holds other files"):
        run(config)
    assert (folder / "thesis.txt").read_text() == "mine"
    with pytest.raises(UserError, match="cannot use --run_dir"):
        run(replace(config, run_dir=str(folder / "thesis.txt" / "below")))


@pytest.mark.slow
def test_folder_in_use_is_refused(config):
    folder = Path(config.run_dir)
    folder.mkdir()
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process is at work"):
            run(config)
    run(config)


def test_a_lock_lasts_as_long_as_the_work(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    description = {"config": {}, "data_hashes": {}, "feature_config": {}}
    with run_folder(folder, description):
        assert (folder / ".lock").exists()
        with (
            pytest.raises(UserError, match="another process is at work"),
            run_folder(folder, description),
        ):
            pass
        assert (folder / ".lock").exists()
    assert [path.name for path in folder.iterdir()] == ["config.json"]

    def ended_before(file):  # between the file's opening and its lock
        (folder / ".lock").unlink()
        return True

    monkeypatch.setattr(run_folder_module, "take_lock", ended_before)
    with (
        pytest.raises(UserError, match="another process is at work"),
        run_folder(folder, description),
    ):
        pass


@pytest.mark.parametrize("content", ["{}", "[]", '"x"', "{", "\xff"])
def test_damaged_record_is_refused(config, content):
    folder = Path(config.run_dir)
    folder.mkdir()
    (folder / "config.json").write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match="is damaged"):
        run(config)


@pytest.mark.slow
def test_a_problem_without_fixed_classes_runs(config):
    [results] = run(replace(config, fixed=(), meta_steps=8))
    assert (results["ways"], results["fixed"]) == (3, 0)
    assert results["inductive"]["accuracy"] == results["inductive"]["emotion_accuracy"]


def test_class_with_too_few_clips_stops_before_any_work(config):
    with pytest.raises(UserError, match=r"class anger of language cc has 24 clips .* needs 26"):
        run(replace(config, shots=20))
    assert not Path(config.run_dir).exists()


@pytest.mark.parametrize("method", few_fast({"fmaml", "functionals"}, {"functionals"}))
def test_leak_guard_keeps_speakers_apart_in_test_and_validation(method, config, monkeypatch):
    apart = {}

    def noting(sampler):
        def note(*args, split, **kwargs):
            episodes = sampler(*args, split=split, **kwargs)
            shape = (-1, episodes.support.shape[-1]), (-1, episodes.query.shape[-1])
            sides = episodes.support.reshape(shape[0]), episodes.query.reshape(shape[1])
            shared = [
                set(speakers[s]) & set(speakers[q]) - {""} for s, q in zip(*sides, strict=True)
            ]
            apart[split] = apart.get(split, True) and not any(shared)
            return episodes

        return note

    speakers = load_clips(config.data).speakers
    monkeypatch.setattr(held_out, "sample", noting(held_out.sample))
    monkeypatch.setattr(evaluate_module, "sample_seeds", noting(evaluate_module.sample_seeds))
    config = without_unread(replace(config, method=method, meta_steps=8))
    for guard in ("none", "speaker"):
        apart.clear()
        folder = str(Path(config.run_dir) / guard)
        [results] = run(replace(config, leak_guard=guard, run_dir=folder))
        assert results["leak_guard"] == guard
        assert set(apart) == ({"test", "val"} if method == "fmaml" else {"test"})
        assert set(apart.values()) == {guard == "speaker"}


def test_leak_guard_that_leaves_too_few_shots_stops_before_any_work(config):
    # Six queries take two speakers of four clips a class; the other four have sixteen.
    sentence = (
        r"class anger of language cc has 24 clips in 6 speaker groups; .* lower --shots to 16"
    )
    with pytest.raises(UserError, match=sentence):
        run(replace(config, leak_guard="speaker", shots=17))
    assert not Path(config.run_dir).exists()


def test_non_finite_loss_keeps_the_last_good_state(config, monkeypatch):
    def breaking_model(*args):
        model = linear_model(*args)

        def apply(params, clips, statistics=None):
            # Infinite once the bias has moved, after some steps of training.
            moved = jnp.abs(params[HEAD]["bias"]).max() > 0.5
            return model.apply(params, clips, statistics) / jnp.where(moved, 0.0, 1.0)

        return model._replace(apply=apply)

    monkeypatch.setattr(run_module, "model_of", breaking_model)
    with pytest.raises(NonFiniteLossError, match=r"at meta-step (\d+); .* is saved") as error:
        run(config)
    step = int(str(error.value).split("meta-step ")[1].split(";")[0])
    assert 1 < step <= 24
    checkpoints = Path(config.run_dir) / "checkpoints"
    assert (checkpoints / str(step - 1)).is_dir()
    metrics = (Path(config.run_dir) / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line) for line in metrics if "val" not in line]
    assert losses[-1]["step"] == step - 1
    assert all(np.isfinite(line["loss"]) for line in losses)
    # The same command takes up the good state and meets the same step again.
    with pytest.raises(NonFiniteLossError, match=f"at meta-step {step};"):
        run(config)


def test_non_finite_validation_stops_the_run_every_time(config, monkeypatch):
    def broken_log_loss(predictions):
        return np.full(predictions.logits.shape[:2], np.nan)

    monkeypatch.setattr(train_module, "log_loss", broken_log_loss)
    for _ in range(2):
        with pytest.raises(NonFiniteLossError, match=r"validation loss .* after meta-step 8;"):
            run(config)
    assert not (Path(config.run_dir) / "results.json").exists()
    assert "val" not in (Path(config.run_dir) / "metrics.jsonl").read_text()


@pytest.mark.parametrize("first_order", [True, False])
@pytest.mark.slow
def test_paper_network_compiles_only_at_the_first_step(
    first_order, data, tmp_path, caplog, monkeypatch
):
    config = Config(
        data=data,
        target="cc",
        run_dir=str(tmp_path / "run"),
        emotions=EMOTIONS,
        shots=2,
        meta_steps=4,
        inner_steps=1,
        test_inner_steps=1,
        task_batch=2,
        filters=2,
        first_order=first_order,
        query_per_class=2,
        eval_every=2,
        val_episodes=10,
        episodes=10,
        test_query_per_class=2,
        test_query_per_fixed_class=2,
    )
    compiled_by_step = {}

    def note_compilations(*args, step, split, **kwargs):
        if split == "train":
            compiled_by_step[step] = sum("Compiling" in r.getMessage() for r in caplog.records)
        return sample(*args, step=step, split=split, **kwargs)

    sample = train_module.sample_seeds
    with jax.log_compiles(), caplog.at_level("WARNING"), monkeypatch.context() as patch:
        patch.setattr(train_module, "sample_seeds", note_compilations)
        [results] = run(config)
    # Step 1 compiles the update, the validation after step 2 the predictions; then all is there.
    assert compiled_by_step[1] > compiled_by_step[0]
    assert compiled_by_step[3] == compiled_by_step[4]
    assert results["chance"] == pytest.approx(1 / 5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "code", "sentence"),
    [
        ({}, 0, ""),
        ({"inner_lr": 1e30}, 1, "error: the loss or its gradient is not finite"),
        ({"leak_guard": "speaker", "shots": 17}, 2, "error: class anger of language cc has 24"),
    ],
)
def test_exit_codes(config, change, code, sentence):
    script = (
        "import sys\n"
        "from absl import flags\n"
        "from fmaml_jax import main\n"
        "from fmaml_jax.common import console\n"
        "from fmaml_jax.training import experiment as run\n"
        "from tests.test_run import linear_model\n"
        "run.model_of = linear_model\n"
        "main.define_flags()\n"
        "console.run(main.main)\n"
    )
    arguments = flags_from_config(replace(config, meta_steps=2, **change))
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == code, done.stderr
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("start", [devices.set_up, devices.set_up_device])
@pytest.mark.parametrize("error", [RuntimeError("no such\nbackend"), AssertionError()])
def test_a_platform_that_is_not_there_is_one_sentence(start, error, monkeypatch):
    def find():  # the second is what JAX raises for CUDA without a GPU
        raise error

    monkeypatch.setattr(jax, "devices", find)
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "8")
    with pytest.raises(UserError, match=r"finds no device( \(no such backend\))?; install the"):
        start()


def test_queries_are_the_same_for_every_method_and_shots_and_others_for_every_seed(config):
    def query_hash(name, **changes):
        folder = str(Path(config.run_dir) / name)
        [results] = run(without_unread(replace(config, run_dir=folder, **changes)))
        return results["query_hash"]

    first = query_hash("a", method="functionals", shots=2)
    assert query_hash("b", method="functionals_pooled", shots=3) == first
    assert query_hash("c", method="functionals", shots=2, seed=1) != first


def test_setting_that_is_newer_than_the_run_folder_had_its_default(config, capsys):
    config = without_unread(replace(config, method="functionals"))
    run(config)
    record = Path(config.run_dir) / "config.json"
    content = json.loads(record.read_text())
    del content["config"]["leak_guard"]
    record.write_text(json.dumps(content))
    run(config)
    assert "is finished" in capsys.readouterr().out
    with pytest.raises(UserError, match="leak_guard was none, now speaker"):
        run(replace(config, leak_guard="speaker"))


def test_learning_curve_is_of_window_means(tmp_path):
    assert learning_curve(tmp_path) is None
    lines = [{"step": i + 1, "loss": float(i), "accuracy": i / 100} for i in range(100)]
    lines.insert(50, {"step": 50, "val_loss": 2.0, "val_accuracy": 0.5})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    curve = learning_curve(tmp_path)
    assert curve["step"] == [2 * i + 1.5 for i in range(50)]
    assert curve["loss"] == [2 * i + 0.5 for i in range(50)]
    assert curve["val_step"] == [50]
    assert curve["val_accuracy"] == [0.5]


def test_json_is_read_back_as_it_was_and_lists_of_numbers_are_one_line(tmp_path):
    content = {"a": [1, -2.5e-07, 3], "b": [[0.5, 1], [2, 3]], "c": ["x", "[1,\n 2]"], "d": []}
    write_json(tmp_path / "a.json", content)
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text) == content
    assert '"a": [1, -2.5e-07, 3],' in text
    assert "    [0.5, 1]," in text
