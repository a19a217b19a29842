"""The portable model file: exact, self-contained, and refused where it cannot be trusted."""

import json
import os
import pickle
import pickletools
import stat
import struct
import threading
import tracemalloc
import zipfile

import numpy as np
import pytest

from fmaml_jax.common import archive
from fmaml_jax.common.errors import UserError
from fmaml_jax.recognition import load, save
from fmaml_jax.recognition.recogniser import fit, probabilities
from fmaml_jax.recognition.support import read_clip_as


@pytest.fixture(scope="module")
def recogniser(trained, start):
    _, speech = trained
    rows = zip(speech.paths[:12], speech.speakers, strict=False)
    labels = ["anger", 'ża"l\n'] * 6
    clips = [
        read_clip_as(path, label, start, speaker)
        for (path, speaker), label in zip(rows, labels, strict=True)
    ]
    return fit(start, clips, {}, ("silence",), ("a warning",))


@pytest.fixture
def path(tmp_path, recogniser):
    save(recogniser, tmp_path / "my.model")
    return tmp_path / "my.model"


def rewrite(path, **changes):
    """The file with other arrays, its content hash made anew."""
    arrays, _ = archive.read(path, "")
    archive.write(path, {**arrays, **changes})


def with_entries(path, **entries):
    arrays, _ = archive.read(path, "")
    return np.asarray(json.dumps(json.loads(str(arrays["model"])) | entries))


def test_what_is_loaded_is_what_was_saved(path, recogniser, trained, start):
    loaded = load(path)
    assert loaded.classes == ("anger", 'ża"l', "neutral")
    for name, value in recogniser._asdict().items():
        again = getattr(loaded, name)
        if name in ("scale", "estimate"):
            pairs = zip(value, again, strict=True)
            assert all(np.array_equal(first, second) for first, second in pairs)
        else:
            assert np.array_equal(value, again), name
    features = np.stack([read_clip_as(p, "x", start).features for p in trained[1].paths[12:16]])
    np.testing.assert_array_equal(
        probabilities(loaded, features), probabilities(recogniser, features)
    )
    assert set(loaded.provenance) >= {"checkpoint", "support", "jax", "numpy"}


def test_the_same_bytes_and_no_pickles(path, recogniser, tmp_path):
    save(recogniser, tmp_path / "again.model")
    first, second = (zipfile.ZipFile(tmp_path / n) for n in ("my.model", "again.model"))
    assert first.namelist() == second.namelist()
    for name in first.namelist():
        assert first.read(name) == second.read(name)
        with pytest.raises(ValueError, match=r"opcode|pickle"):
            list(pickletools.genops(first.read(name)))


def test_truncated_damaged_and_foreign_files_are_refused(path, tmp_path):
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(UserError, match=r"not a readable \.npz file.*make one with"):
        load(path)
    path.write_bytes(raw[:1000] + bytes([raw[1000] ^ 1]) + raw[1001:])
    with pytest.raises(UserError, match=r"my\.model is not a readable \.npz file .*CRC"):
        load(path)
    path.write_bytes(b"something else")
    with pytest.raises(UserError, match=r"my\.model is not a readable"):
        load(path)
    np.savez(tmp_path / "other.npz", features=np.ones(3))
    with pytest.raises(UserError, match=r"other\.npz is not a model of fmaml_jax"):
        load(tmp_path / "other.npz")
    with pytest.raises(UserError, match="does not exist"):
        load(tmp_path / "missing.model")


def test_a_small_file_cannot_fill_the_memory(path):
    arrays, _ = archive.read(path, "")
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays, zeros=np.zeros(10**6))
    with pytest.raises(UserError, match="it is compressed"):
        load(path)
    with path.open("wb") as file:
        np.savez(file, **arrays)
    rewrite(path, model=with_entries(path, frequencies=10**9))
    with pytest.raises(UserError, match="too many frequencies"):
        load(path)


def test_another_content_than_its_hash_says_is_refused(path):
    with np.load(path) as file:
        arrays = dict(file)
    with path.open("wb") as file:
        np.savez(file, **{**arrays, "bias": arrays["bias"] + 1})
    with pytest.raises(UserError, match="damaged: its content hash"):
        load(path)


def test_a_newer_format_is_refused(path):
    rewrite(path, model=with_entries(path, format=5))
    with pytest.raises(UserError, match="has format 5 and this code reads format 4; update"):
        load(path)


def test_descriptors_of_another_version_are_refused(path, recogniser):
    features = recogniser.feature_config._asdict() | {"descriptors": 99}
    rewrite(path, model=with_entries(path, feature_config=features))
    with pytest.raises(UserError, match="version 99"):
        load(path)


def test_entries_of_other_kinds_are_refused(path):
    for entries in ({"feature_config": None}, {"estimate": []}, {"frequencies": float("inf")}):
        rewrite(path, model=with_entries(path, **entries))
        with pytest.raises(UserError, match="does not follow the format"):
            load(path)
    with path.open("wb") as file:
        np.savez(file, model=np.array("{}"), date=np.array(["2020"], "M8[D]"))
    with pytest.raises(UserError, match=r"not a readable \.npz file"):
        load(path)


def test_arrays_that_do_not_fit_together_are_refused(path, recogniser):
    rewrite(path, context=recogniser.context[:-1])
    with pytest.raises(UserError, match="does not follow the format"):
        load(path)


def test_other_results_than_where_it_was_made_are_refused(path, recogniser):
    rewrite(path, probe=np.full((1, 3), 9, np.float32))
    with pytest.raises(UserError, match="gives other results here than where it was made"):
        load(path)


def test_where_a_model_is_not_written(tmp_path, recogniser):
    (tmp_path / "clips.csv").write_text("file,label\n")
    with pytest.raises(UserError, match=r"clips.csv is there and is not a model"):
        save(recogniser, tmp_path / "clips.csv")
    with pytest.raises(UserError, match="is there and is not a model"):
        save(recogniser, tmp_path)
    with pytest.raises(UserError, match="nowhere does not exist; choose another"):
        save(recogniser, tmp_path / "nowhere" / "my.model")
    assert (tmp_path / "clips.csv").read_text() == "file,label\n"


def test_a_model_is_written_where_a_link_leads_and_into_a_pipe(tmp_path, path, recogniser):
    link, pipe = tmp_path / "link.model", tmp_path / "pipe.model"
    link.symlink_to(path)
    save(recogniser, link)
    assert link.is_symlink()
    os.mkfifo(pipe)
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    save(recogniser, pipe)
    reader.join(60)
    (tmp_path / "piped.model").write_bytes(read[0])
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert load(tmp_path / "piped.model").classes == load(link).classes == recogniser.classes


def overlapping(path, entries):
    """Many entries that are the same megabyte of the file."""
    with path.open("wb") as file:
        np.savez(file, a=np.zeros(1 << 17))
    raw = path.read_bytes()
    begin = raw.index(b"PK\1\2")
    entry = raw[begin : raw.index(b"PK\5\6")]
    listed = b"".join(entry.replace(b"a.npy", f"{number:05}".encode()) for number in range(entries))
    count = entries.to_bytes(2, "little")
    end = b"PK\5\6" + bytes(4) + 2 * count + struct.pack("<IIH", len(listed), begin, 0)
    path.write_bytes(raw[:begin] + listed + end)


def test_entries_that_overlap_are_refused_before_one_is_read(tmp_path):
    overlapping(tmp_path / "my.model", 500)
    tracemalloc.start()
    with pytest.raises(UserError, match=r"\(its arrays overlap\); make one with"):
        load(tmp_path / "my.model")
    assert tracemalloc.get_traced_memory()[1] < 1 << 22
    tracemalloc.stop()
    overlapping(tmp_path / "my.model", 1 << 15)
    with pytest.raises(UserError, match="it lists too many arrays"):
        load(tmp_path / "my.model")


def npy(header, content=b""):
    text = repr(header).encode().ljust(117) + b"\n"
    return b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text + content


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"descr": "<f4", "fortran_order": False, "shape": (1 << 40,)}, "another size than its"),
        ({"descr": "<f4", "fortran_order": False, "shape": (-1,)}, "another size than its"),
        ({"descr": "|O", "fortran_order": False, "shape": ()}, "neither numbers nor text"),
        ({"descr": "<f4", "fortran_order": False, "shape": (2,)}, "another size than its"),
    ],
)
def test_arrays_that_are_none_are_said_in_words(tmp_path, content, sentence):
    with zipfile.ZipFile(tmp_path / "my.model", "w") as file:
        file.writestr("mean.npy", npy(content))
    with pytest.raises(
        UserError, match=rf"my.model is not a readable .npz file \(mean .*{sentence}"
    ):
        load(tmp_path / "my.model")


def test_files_that_are_no_archive_are_said_in_words(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(9))
    (tmp_path / "b.npy").write_bytes(pickle.dumps({"a": 1}) + bytes(99))
    for name in ("a.npy", "b.npy"):
        with pytest.raises(UserError, match=r"\(it is not an archive of arrays, or was cut off\)"):
            load(tmp_path / name)


def test_depths_of_json_are_refused(path):
    deep = "[" * 100_000 + "]" * 100_000
    rewrite(path, model=np.asarray(deep))
    with pytest.raises(UserError, match="is not a model of fmaml_jax"):
        load(path)


@pytest.mark.parametrize(
    "entries",
    [
        *({"temperature": value} for value in (0, -1, "1", True, float("nan"))),
        *({"classes": value} for value in (["a", "A", "b"], ["a", "b", "x" * 81], "abc", [])),
        *(
            {"classes": ["a", "unsure", "b"]},
            {"classes": ["a", "b"]},
            {"classes": ["a", "b", "\n"]},
        ),
        *({"counts": value} for value in ([1, 2], [1, 2, -1], [1, 2, 0.5])),
        *({"known_as": [1, 2, 3]}, {"warnings": "none"}, {"warnings": [{}]}),
        *({"frequencies": value} for value in (0, -1, 63, "64")),
        *({"provenance": value} for value in ([], {"numpy": {}})),
        *({"estimate": value} for value in ({}, [], None)),
    ],
    ids=repr,
)
def test_entries_that_cannot_be_are_refused_when_loaded(path, entries):
    rewrite(path, model=with_entries(path, **entries))
    with pytest.raises(UserError, match="does not follow the format"):
        load(path)


@pytest.mark.parametrize(
    "estimate",
    [
        {"confusion": np.ones((300, 300), int).tolist()},
        {"confusion": [[1, 2, 3], [1, 2]]},
        {"confusion": [[1, 2, -3]]},
        {"left_out": "house"},
        {"interval": [0.5]},
        {"interval": [0.9, 0.1]},
    ],
    ids=lambda estimate: next(iter(estimate)),
)
def test_estimates_of_other_shapes_are_refused(path, estimate):
    arrays, _ = archive.read(path, "")
    stored = json.loads(str(arrays["model"]))["estimate"]
    rewrite(path, model=with_entries(path, estimate=stored | estimate))
    with pytest.raises(UserError, match="does not follow the format"):
        load(path)


@pytest.mark.parametrize("seconds", [-1.0, 0, 1e9, float("nan"), "20"])
def test_lengths_of_clips_that_cannot_be_are_refused(path, recogniser, seconds):
    features = recogniser.feature_config._asdict() | {"clip_seconds": seconds}
    rewrite(path, model=with_entries(path, feature_config=features))
    with pytest.raises(UserError, match="its clip_seconds cannot be"):
        load(path)


def test_settings_that_nobody_makes_features_with_are_refused(path, recogniser):
    features = recogniser.feature_config._asdict() | {"fft_size": 1 << 30}
    rewrite(path, model=with_entries(path, feature_config=features))
    with pytest.raises(UserError, match="its features are none that are made here"):
        load(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda array: array[..., :-1],
        lambda array: np.full_like(array, np.nan),
        lambda array: array.astype("U9"),
        lambda array: array[None],
    ],
    ids=["shorter", "NaN", "text", "deeper"],
)
def test_every_array_is_looked_at(path, change):
    arrays, _ = archive.read(path, "")
    arrays["matrix"] = np.eye(len(arrays["mean"]), dtype=np.float32)
    for name in set(arrays) - {"model"}:
        archive.write(path, {**arrays, name: change(arrays[name])})
        with pytest.raises(UserError, match="does not follow the format"):
            load(path)
    for name in set(arrays) - {"model"}:
        archive.write(path, {other: arrays[other] for other in arrays if other != name})
        with pytest.raises(UserError, match=f"it has no {name}"):
            load(path)
