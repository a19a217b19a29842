"""What enrolment starts from: the selected parameters of a run, or a sentence why not."""

import json
import os
import shutil

import numpy as np
import orbax.checkpoint as ocp
import pytest

from fmaml_jax.audio.features import FEATURES
from fmaml_jax.common.console import UserError
from fmaml_jax.recognition.checkpoint import load_start


@pytest.fixture
def folder(tmp_path, trained):
    shutil.copytree(trained[0], tmp_path / "run")
    return tmp_path / "run"


def change(folder, **settings):
    path = folder / "config.json"
    record = json.loads(path.read_text())
    record["config"] |= settings
    path.write_text(json.dumps(record))


def test_the_start_is_what_the_run_selected(trained, start):
    with ocp.CheckpointManager(trained[0] / "checkpoints") as manager:
        stored = manager.restore(manager.latest_step(), args=ocp.args.StandardRestore())
    for name, layer in stored["selected"]["params"].items():
        np.testing.assert_array_equal(start.params[name]["kernel"], layer["kernel"][0])
    np.testing.assert_array_equal(start.scale.matrix, stored["scale"]["matrix"])
    assert start.emotions == ("anger", "fear", "sadness")
    assert start.fixed == ("neutral", "silence")
    assert start.feature_config == FEATURES["descriptors"]
    assert not start.params["Context_0"]["kernel"].any()


def test_paths_of_every_kind(folder, start, monkeypatch):
    monkeypatch.chdir(folder.parent)
    folder.rename(folder.with_name("a żółty run%20"))
    os.symlink("a żółty run%20", "link")
    for path in ("a żółty run%20/../link/", "../" + folder.parent.name + "/link"):
        assert load_start(path).digest == start.digest


def test_another_folder(tmp_path):
    with pytest.raises(UserError, match="is no run folder; give the folder of a run"):
        load_start(tmp_path)


def test_an_unfinished_run(folder):
    (folder / "results.json").unlink()
    with pytest.raises(UserError, match="is not finished"):
        load_start(folder)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"network": "cnn"}, "--method=fmaml --network=cnn, and only fmaml with fourier"),
        ({"method": "protonet"}, "--method=protonet"),
        ({"colour": "red"}, "was written by another version of fmaml_jax.*colour"),
        ({"frequencies": 32}, "other parameters than its settings say"),
    ],
)
def test_runs_that_cannot_be_enrolled(folder, settings, sentence):
    change(folder, **settings)
    with pytest.raises(UserError, match=sentence):
        load_start(folder)


@pytest.mark.parametrize("part", ["manifest.ocdbt", "ocdbt.process_0/d", "d"])
@pytest.mark.parametrize("harm", [lambda file: file.write_bytes(b""), lambda file: file.unlink()])
def test_damage(folder, part, harm, monkeypatch):
    def restore(*args, **kwargs):
        pytest.fail("Orbax leaves the arrays that fail, but for one, to tell of it later")

    monkeypatch.setattr(ocp.CheckpointManager, "restore", restore)
    path = (
        max((folder / "checkpoints").iterdir(), key=lambda step: int(step.name)) / "default" / part
    )
    for file in [path] if path.is_file() else list(path.iterdir()):
        harm(file)
    with pytest.raises(UserError, match="is damaged or of another version"):
        load_start(folder)


@pytest.mark.parametrize("content", ["{", "[]", '{"config": {}}'])
def test_damaged_record(folder, content):
    (folder / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        load_start(folder)


def test_no_checkpoint(folder):
    shutil.rmtree(folder / "checkpoints")
    (folder / "checkpoints").mkdir()
    with pytest.raises(UserError, match="is not finished"):
        load_start(folder)
