"""The .npz schema: what is written is read back, the same bytes each time, or refused."""

import io
import shutil
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest

from fmaml_jax.common.errors import UserError
from fmaml_jax.data.dataset import Dataset, Shard, load, save

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def dataset():
    return Dataset(
        corpus="toy",
        feature_config={"align": "centre", "clip_seconds": 3.5, "energy": True},
        features=np.random.default_rng(0).standard_normal((3, 5, 4)).astype(np.float32),
        labels=np.array(["anger", "neutral", "silence"]),
        languages=np.array(["it", "it", "zxx"]),
        speakers=np.array(["f1", "", ""]),
        scenes=np.array(["", "b1", ""]),
        names=np.array(["è/a", "b", "c"]),
        seconds=np.array([1, 2, 3], np.float32),
    )


def npz(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def test_round_trip(tmp_path, dataset):
    content_hash = save(tmp_path / "a.npz", dataset)
    loaded = load(tmp_path / "a.npz")
    assert loaded.content_hash == content_hash == dataset.content_hash
    for name, ours, theirs in zip(dataset._fields, loaded, dataset, strict=True):
        np.testing.assert_array_equal(ours, theirs, err_msg=name)
    assert loaded.features.dtype == loaded.seconds.dtype == np.float32


def test_a_shard_says_so(tmp_path, dataset):
    shard = Shard(2, 5, "abc")
    save(tmp_path / "a.npz", dataset._replace(shard=shard))
    assert load(tmp_path / "a.npz").shard == shard
    assert load(tmp_path / "a.npz").content_hash != dataset.content_hash


def test_the_documented_arrays_without_pickle(tmp_path, dataset):
    save(tmp_path / "a.npz", dataset)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        arrays = {*dataset._fields, "schema_version", "content_hash"} - {"shard"}
        assert set(file.files) == arrays
        assert file["schema_version"] == 1
        assert file["labels"].dtype.kind == "U"


def test_same_content_same_bytes(tmp_path, dataset):
    save(tmp_path / "a.npz", dataset)
    save(tmp_path / "b.npz", dataset)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "b.npz"]


@pytest.mark.parametrize("field", ["features", "labels", "names", "feature_config"])
def test_the_hash_covers_every_array(dataset, field):
    other = {"align": "start"} if field == "feature_config" else getattr(dataset, field)[::-1]
    assert dataset._replace(**{field: other}).content_hash != dataset.content_hash


def test_every_cut_is_refused(tmp_path, dataset):
    path = tmp_path / "a.npz"
    save(path, dataset)
    whole = path.read_bytes()
    for length in range(0, len(whole), 211):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"a\.npz is not a readable"):
            load(path)


def test_changed_bytes_never_change_what_is_loaded(tmp_path, dataset):
    path = tmp_path / "a.npz"
    save(path, dataset)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(200):
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole))] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            assert load(path).content_hash == dataset.content_hash
        except UserError:
            refused += 1
    assert refused > 100


def foreign_zip():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("readme.txt", "hello")
    return file.getvalue()


def plain_npy():
    file = io.BytesIO()
    np.save(file, np.ones(3))
    return file.getvalue()


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (b"", "not a readable .npz"),
        (b"label,path\n", "not a readable .npz"),
        (plain_npy(), "not a readable .npz"),
        (npz(x=np.array([{}], object)), "not a readable .npz"),
        (foreign_zip(), "not written by data_prep"),
        (npz(features=np.ones(3)), "not written by data_prep"),
        (npz(schema_version=np.asarray(0)), "schema version 0, not 1"),
        (npz(schema_version=np.asarray("x")), "schema version x, not 1"),
        (npz(schema_version=np.asarray(1)), "does not follow the schema"),
    ],
)
def test_foreign_files_are_refused_with_the_remedy(tmp_path, raw, sentence):
    path = tmp_path / "a.npz"
    path.write_bytes(raw)
    with pytest.raises(UserError, match=sentence) as caught:
        load(path)
    assert "make it with `python -m data_prep.prepare`" in str(caught.value)


def test_wrong_hash_is_refused(tmp_path, dataset):
    path = tmp_path / "a.npz"
    save(path, dataset)
    with np.load(path) as file:
        arrays = dict(file)
    path.write_bytes(npz(**{**arrays, "labels": arrays["labels"][::-1]}))
    with pytest.raises(UserError, match="damaged"):
        load(path)


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match="does not exist; make it with"):
        load(tmp_path / "a.npz")


def test_what_a_preset_lacks_is_made_by_its_target(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path, remedy in (
        ("data/emovo.npz", "make public_data CORPORA=DIR"),
        ("data/descriptors/nemo.npz", "make descriptors CORPORA=DIR"),
        ("data/campplus/silence.npz", "make campplus CORPORA=DIR"),
        ("data/emofilm.npz", "make emofilm EMOFILM=DIR"),
        ("data/mine.npz", "python -m data_prep.prepare"),
    ):
        with pytest.raises(UserError, match=f"{path} does not exist; make it with `{remedy}`"):
            load(path)


@pytest.mark.parametrize(
    ("target", "variable"),
    [
        ("public_data", "CORPORA"),
        ("descriptors", "CORPORA"),
        ("emofilm", "EMOFILM"),
        ("paper", "EMOFILM"),
    ],
)
def test_a_target_without_its_corpora_says_which_variable(tmp_path, target, variable):
    for name in ("Makefile", "requirements.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "installed").touch()
    done = subprocess.run(
        ["make", "--silent", target], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stdout.startswith("error: there is no folder corpora/emo")
    assert done.stdout.endswith(f"say where it is: make {target} {variable}=DIR\n")
