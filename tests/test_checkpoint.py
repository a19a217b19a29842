"""What enrolment starts from: the selected parameters of a run, or a sentence why not."""

import errno
import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest

from fmaml_jax.audio.features import FEATURES
from fmaml_jax.common import archive
from fmaml_jax.common.errors import UserError
from fmaml_jax.recognition import checkpoint
from fmaml_jax.recognition.checkpoint import SHIPPED, chosen_start, load_start, save_start
from fmaml_jax.training.checkpoints import SUMS, newest_intact
from tests.test_config import ROOT, parse


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
    with pytest.raises(UserError, match=r"config\.json is damaged or unreadable"):
        load_start("x" * 300)
    with pytest.raises(UserError, match="is not a run folder; give the folder of a run"):
        load_start(tmp_path)


def test_an_unfinished_run(folder):
    (folder / "results.json").unlink()
    with pytest.raises(UserError, match="is not finished"):
        load_start(folder)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"network": "cnn"}, "--method=fmaml --network=cnn, and only fmaml with fourier or linear"),
        ({"method": "protonet"}, "--method=protonet"),
        ({"colour": "red"}, "was written by another version of fmaml_jax.*colour"),
        ({"frequencies": 32}, "other parameters than its settings say"),
    ],
)
def test_runs_that_cannot_be_enrolled(folder, settings, sentence):
    change(folder, **settings)
    with pytest.raises(UserError, match=sentence):
        load_start(folder)


def flip(file):
    """Changes one bit in the middle of a file."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


def empty(file):
    file.write_bytes(b"")


@pytest.mark.parametrize("harm", [flip, empty, Path.unlink])
def test_damage_to_any_file_is_noticed_before_it_is_read(folder, harm, monkeypatch, capsys):
    newest = folder / "checkpoints" / "20"
    assert newest_intact(newest.parent) == 20
    files = [file for file in newest.rglob("*") if file.is_file() and file.name != SUMS]
    assert {"_METADATA", "_sharding", "manifest.ocdbt"} <= {file.name for file in files}
    for file in files:
        content = file.read_bytes()
        if content or harm is Path.unlink:
            harm(file)
            assert newest_intact(newest.parent) is None, file
            assert capsys.readouterr().err.startswith(f"warning: {newest} is damaged; ")
            file.write_bytes(content)
    flip(newest / SUMS)
    monkeypatch.setattr(ocp, "CheckpointManager", lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(UserError, match="has no intact checkpoint; remove it and run its command"):
        load_start(folder)


def test_the_checkpoint_before_a_damaged_one_serves(folder, start, capsys):
    checkpoints = folder / "checkpoints"
    shutil.copytree(checkpoints / "20", checkpoints / "21")
    flip(max((checkpoints / "21" / "default").rglob("*"), key=lambda file: file.stat().st_size))
    assert load_start(folder).digest == start.digest
    assert "checkpoints/21 is damaged; the checkpoint before it is taken" in capsys.readouterr().err


def test_a_checkpoint_without_checksums_is_read_and_its_damage_is_a_sentence(folder, start):
    newest = folder / "checkpoints" / "20"
    (newest / SUMS).unlink()
    assert load_start(folder).digest == start.digest
    empty(newest / "default" / "manifest.ocdbt")
    with pytest.raises(UserError, match="is damaged or of another version"):
        load_start(folder)


def test_checksums_are_those_of_sha256sum(trained):
    newest = trained[0] / "checkpoints" / "20"
    subprocess.run(["sha256sum", "--check", "--strict", SUMS], cwd=newest, check=True)


def test_checkpoints_that_may_not_be_read_are_a_sentence(folder, monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(UserError, match=r"cannot read .*checkpoints \(Permission denied\)"):
        load_start(folder)


@pytest.mark.parametrize("content", ["{", "[]", '{"config": {}}'])
def test_damaged_record(folder, content):
    (folder / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        load_start(folder)


def test_no_checkpoint(folder):
    shutil.rmtree(folder / "checkpoints")
    (folder / "checkpoints").mkdir()
    with pytest.raises(UserError, match="has no intact checkpoint"):
        load_start(folder)


@pytest.fixture
def file(tmp_path, start):
    save_start(tmp_path / "start.npz", start)
    return tmp_path / "start.npz"


def rewrite(file, entries=(), **changes):
    """The file with other entries or arrays, its content hash made anew."""
    arrays, _ = archive.read(file, "")
    record = json.loads(str(arrays["start"]))
    text = json.dumps({**record, **dict(entries)})
    archive.write(file, {**arrays, "start": np.asarray(text), **changes})


def test_a_file_is_the_start_of_its_run(file, start, tmp_path):
    again = load_start(file)
    assert again.config == replace(start.config, run_dir="")
    for name in ("digest", "feature_config", "versions", "emotions", "fixed"):
        assert getattr(again, name) == getattr(start, name)
    for one, other in zip(again.scale, start.scale, strict=True):
        np.testing.assert_array_equal(one, other)
    save_start(tmp_path / "again.npz", again)
    assert (tmp_path / "again.npz").read_bytes() == file.read_bytes()


def test_damage_to_a_file_is_noticed(file):
    flip(file)
    with pytest.raises(UserError, match=r"content hash does not match|not a readable"):
        load_start(file)


@pytest.mark.parametrize(
    ("entries", "arrays", "sentence"),
    [
        ({"format": 2}, {}, "has format 2 and this code reads format 1"),
        ({"config": {"colour": "red"}}, {}, "another version of fmaml_jax.*colour"),
        ({"config": {"network": "cnn"}}, {}, "only fmaml with fourier or linear"),
        ({"config": {"network": "linear", "emotions": "joy"}}, {}, "its emotions cannot be"),
        ({"config": []}, {}, "does not follow the format"),
        ({}, {"head": np.zeros((3, 5), np.float32)}, "other parameters than its settings say"),
        ({}, {"head": np.full((650, 5), np.nan, np.float32)}, "not finite numbers"),
        ({}, {"mean": np.zeros(3, np.float32)}, "do not fit together"),
        ({}, {"start": np.asarray("[]")}, "is not a start; give the folder of a run"),
    ],
)
def test_a_file_that_is_no_start_is_a_sentence(file, entries, arrays, sentence):
    rewrite(file, entries, **arrays)
    with pytest.raises(UserError, match=sentence):
        load_start(file)


def test_another_file_is_no_start(tmp_path):
    archive.write(tmp_path / "my.model", {"model": np.asarray("{}")})
    with pytest.raises(UserError, match=r"my\.model is not a start; give the folder of a run"):
        load_start(tmp_path / "my.model")


@pytest.mark.parametrize("name", SHIPPED)
def test_starts_that_come_with_the_package(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoint, "describer", lambda *_: None)  # of weights that are elsewhere
    start = load_start(name)
    assert start.emotions == ("anger", "disgust", "fear", "happiness", "sadness")
    assert start.fixed == ("neutral", "silence")
    assert start.config.target == "none"
    sources = {Path(path).stem for path in start.config.data}
    assert sources == {"cremad", "emodb", "silence"}  # whose licences allow it


@pytest.mark.parametrize(("name", "preset"), [("descriptors", "best"), ("encoder", "encoder")])
def test_a_model_card_says_which_file_and_which_preset_it_is_of(name, preset, monkeypatch):
    monkeypatch.chdir(ROOT)
    file = Path(checkpoint.__file__).parents[1] / "starts" / f"{name}.npz"
    card = file.with_suffix(".md").read_text()
    arrays, _ = archive.read(file, "")
    (begins,) = re.findall(r"content hash begins\s+with (\w+)", card)
    assert archive.content_hash(arrays).startswith(begins)
    (said,) = re.findall(r"the preset `experiments/(\w+)\.cfg`", card)
    assert said == preset
    monkeypatch.setattr(checkpoint, "describer", lambda *_: None)  # of weights that are elsewhere
    config = load_start(name).config
    data, run_dir = f"--data={','.join(config.data)}", "--run_dir=runs/start"
    found = parse(f"--flagfile=experiments/{preset}.cfg", "--target=none", data, run_dir)
    assert config == replace(found, run_dir="")


def test_the_start_in_the_box_that_hears_with_an_encoder_asks_for_it(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UserError, match=r"does not exist; get it with .*, or say where it is \(--enc"
    ):
        load_start("encoder")


@pytest.mark.parametrize(
    ("checkpoint", "encoder_given", "name", "said"),
    [
        ("", False, "descriptors", "The start is `descriptors`, which comes with fmaml_jax"),
        ("", True, "encoder", "The start is `encoder`, which comes with fmaml_jax"),
        ("runs/start", True, "runs/start", ""),
    ],
)
def test_the_start_that_is_taken(checkpoint, encoder_given, name, said, capsys):
    assert chosen_start(checkpoint, encoder_given) == name
    assert capsys.readouterr().out.startswith(said)
