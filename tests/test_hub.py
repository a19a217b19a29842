"""Encoders on disk: their vectors beside the library's hidden states, and folders that are refused.

What needs PyTorch is skipped where requirements-hub.txt is not installed.
"""

import json
from importlib.util import find_spec

import numpy as np
import pytest
import soundfile

from data_prep.pipeline import choose_features, prepare
from fmaml_jax.audio.features import HubConfig, restore_config
from fmaml_jax.common.errors import UserError
from fmaml_jax.data.scale import Scale
from fmaml_jax.encoder import features, hub
from fmaml_jax.model import CONTEXT, HEAD
from fmaml_jax.recognition import enrol, load, predict, save
from fmaml_jax.recognition.support import read_clip_as

LAYERS = 3
HIDDEN = 16
CONVOLUTIONS = {"conv_dim": (8, 8), "conv_kernel": (10, 4), "conv_stride": (5, 64)}
SMALL = {
    **{"hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": 2},
    **{"intermediate_size": 24, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2},
}
STABLE = {"do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True}
WHISPER = {
    **{"d_model": HIDDEN, "encoder_layers": LAYERS, "encoder_attention_heads": 2},
    **{"encoder_ffn_dim": 24, "decoder_layers": 1, "decoder_attention_heads": 2},
    **{"decoder_ffn_dim": 24, "num_mel_bins": 80, "max_source_positions": 100, "vocab_size": 20},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1},
}
KINDS = {
    "wav2vec2": ("Wav2Vec2ForCTC", "Wav2Vec2FeatureExtractor", {"vocab_size": 5}),
    "hubert": ("HubertModel", "Wav2Vec2FeatureExtractor", STABLE),
    "wavlm": ("WavLMModel", "Wav2Vec2FeatureExtractor", {}),
    "whisper": ("WhisperForConditionalGeneration", "WhisperFeatureExtractor", WHISPER),
}


needs_packages = pytest.mark.skipif(
    not all(find_spec(name) for name in ("torch", "transformers", "safetensors")),
    reason="requirements-hub.txt is not installed",
)


def sound(seconds, seed=0):
    """A glide in noise; `seed` is its pitch too."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * 16_000)) / 16_000
    glide = np.sin(2 * np.pi * (200 + 900 * seed) * time * (1 + time / 3))
    return (0.3 * glide + 0.05 * rng.normal(size=len(time))).astype(np.float32)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Saves a small encoder of a kind with random weights, and returns its folder."""
    import torch
    import transformers

    folders = {}

    def saved(kind):
        if kind not in folders:
            network, extractor, settings = KINDS[kind]
            network = getattr(transformers, network)
            settings = settings if kind == "whisper" else SMALL | CONVOLUTIONS | settings
            torch.manual_seed(0)
            folders[kind] = tmp_path_factory.mktemp(kind)
            network(network.config_class(**settings)).save_pretrained(folders[kind])
            prepares = getattr(transformers, extractor)
            short = {"chunk_length": 2} if kind == "whisper" else {}
            prepares(**short).save_pretrained(folders[kind])
        return folders[kind]

    return saved


def library(folder, kind, samples, layer):
    """The library's own hidden states, [positions, channels], of one clip."""
    import torch
    import transformers

    prepares = transformers.AutoFeatureExtractor.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    network = model.encoder if kind == "whisper" else model
    made = prepares(samples, sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        states = network(next(iter(made.values())), output_hidden_states=True).hidden_states
    assert len(states) == LAYERS + 1
    return states[layer][0].numpy()


@needs_packages
@pytest.mark.parametrize("kind", KINDS)
def test_a_vector_is_of_the_librarys_hidden_states_and_of_its_clip_alone(saved, kind):
    folder = saved(kind)
    clips = [sound(1.0), sound(0.51, seed=1), sound(0.02)]
    for layer in (1, LAYERS):
        config = features.with_weights(HubConfig(layer=layer), folder)
        found = features.describer(config, folder)(clips)
        assert found.shape == (len(clips), 1, 2 * HIDDEN)
        assert found.dtype == np.float32
        for samples, (vector,) in zip(clips, found, strict=True):
            padded = np.pad(samples, (0, max(0, 400 - len(samples))))
            states = library(folder, kind, padded, layer)
            if kind == "whisper":  # the clip's own positions, of 20 ms
                states = states[: round(np.ceil(len(padded) / 320))]
            expected = np.concatenate(
                [states.mean(0), states.std(0, ddof=1) if len(states) > 1 else np.zeros(HIDDEN)]
            )
            np.testing.assert_allclose(vector, expected, rtol=1e-4, atol=1e-5)
    alone = features.describer(config, folder)(clips[1:2])
    np.testing.assert_array_equal(alone[0], found[1])


@needs_packages
def test_a_prepared_corpus_says_which_encoder_and_layer(saved, tmp_path):
    sounds = {"a": sound(1.0), "b": sound(0.3, seed=1)}
    (tmp_path / "joy").mkdir()
    for name, samples in sounds.items():
        soundfile.write(tmp_path / "joy" / f"{name}.wav", samples, 16_000, subtype="FLOAT")
    folder = saved("wavlm")
    config = features.with_weights(choose_features("hub", 0.8), folder)
    assert (config.architecture, config.layer, len(config.weights)) == ("wavlm", 1, 64)
    encode = features.encoding(config, folder)
    dataset, _, _ = prepare("folders", tmp_path, config, "en", encode=encode, processes=1)
    assert restore_config(json.loads(json.dumps(dataset.feature_config))) == config
    described = features.describer(config, folder)([sounds["a"][1600:14_400], sounds["b"]])
    np.testing.assert_allclose(dataset.features, described, atol=1e-5)
    with pytest.raises(UserError, match="give the other with --encoder"):
        features.describer(config, saved("hubert"))


@needs_packages
@pytest.mark.slow
def test_enrolment_and_prediction_hear_with_the_encoder(saved, start, tmp_path):
    folder = saved("wav2vec2")
    wide, classes = 2 * HIDDEN, len(start.config.classes)
    kernels = {HEAD: (wide + 1, classes), CONTEXT: (2 * start.config.frequencies, classes)}
    start = start._replace(
        feature_config=features.with_weights(HubConfig(), folder),
        encoder=str(folder),
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
    recogniser = load(tmp_path / "my.model", str(folder))
    found = [predict(recogniser, tmp_path / f"{number}.wav") for number in range(6)]
    assert [each.segments[0].label for each in found] == ["low", "high"] * 3
    with pytest.raises(UserError, match="give the other with --encoder"):
        load(tmp_path / "my.model", str(saved("hubert")))


@needs_packages
def test_weights_in_several_files_are_the_same(saved, tmp_path):
    import transformers

    folder, clips = saved("wavlm"), [sound(0.5)]
    model = transformers.WavLMModel.from_pretrained(folder)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    one, several = (
        features.describer(features.with_weights(HubConfig(), path), path)(clips)
        for path in (folder, tmp_path)
    )
    np.testing.assert_array_equal(one, several)


@needs_packages
def test_weights_that_are_damaged_or_lacking_are_refused(saved, tmp_path):
    import safetensors.numpy

    source = saved("hubert")
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    weights = (source / "model.safetensors").read_bytes()
    tensors = safetensors.numpy.load(weights)
    lacking = next(name for name in tensors if "layers.1" in name)
    wrong = tensors | {lacking: np.zeros((3, 3), np.float32)}
    del tensors[lacking]
    for content, reason in (
        (weights[:-100], "cannot be used"),
        (safetensors.numpy.save(tensors, {"format": "pt"}), f"lacks {lacking}"),
        (safetensors.numpy.save(wrong, {"format": "pt"}), "cannot be used"),
    ):
        (tmp_path / "model.safetensors").write_bytes(content)
        hub._contents.cache_clear()
        hub._load.cache_clear()
        config = features.with_weights(HubConfig(), tmp_path)
        with pytest.raises(UserError, match=reason) as raised:
            features.encoding(config, tmp_path)
        assert "\n" not in str(raised.value)


# What is said of a folder before PyTorch is needed.


def a_folder(path, kind="wavlm", rate=16_000, weights="model.safetensors", layers=4):
    path.mkdir()
    (path / "config.json").write_text(
        json.dumps({"model_type": kind, "num_hidden_layers": layers, "encoder_layers": layers})
    )
    (path / "preprocessor_config.json").write_text(json.dumps({"sampling_rate": rate}))
    if weights:
        (path / weights).write_bytes(b"weights")
    return path


def test_the_middle_layer_is_the_default_and_the_hash_is_of_all_that_is_read(tmp_path):
    config = features.with_weights(HubConfig(), a_folder(tmp_path / "a"))
    assert (config.architecture, config.layer) == ("wavlm", 2)
    assert features.with_weights(HubConfig(), a_folder(tmp_path / "b")) == config
    for name in ("config.json", "preprocessor_config.json", "model.safetensors"):
        with (a_folder(tmp_path / f"not {name}") / name).open("a") as file:
            file.write(" ")
        other = features.with_weights(HubConfig(), tmp_path / f"not {name}")
        assert other.weights != config.weights
        with pytest.raises(UserError, match="give the other with --encoder"):
            features.describer(config, tmp_path / f"not {name}")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"kind": "wav2vec3"}, "of the kind wav2vec3, which is unknown here"),
        ({"kind": ["wavlm"]}, "which is unknown here"),
        ({"rate": 8000}, "hears sound at 8000 Hz"),
        ({"weights": ""}, "has no weights, model.safetensors"),
        ({"weights": "pytorch_model.bin"}, r"a pickle alone \(pytorch_model.bin\)"),
        ({"layers": None}, "does not say how many layers"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused_in_a_sentence(tmp_path, settings, reason):
    folder = a_folder(tmp_path / "encoder", **settings)
    with pytest.raises(UserError, match=reason):
        features.with_weights(HubConfig(), folder)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_a_folder_whose_settings_cannot_be_read_is_refused(tmp_path, name):
    path = a_folder(tmp_path / "encoder") / name
    path.write_text("[1, 2")
    with pytest.raises(UserError, match=rf"cannot read .*{name} \(it is damaged\)"):
        features.with_weights(HubConfig(), path.parent)
    path.unlink()
    with pytest.raises(
        UserError, match=rf"{name} \(No such file or directory\); give with --encoder"
    ):
        features.with_weights(HubConfig(), path.parent)


def test_parts_of_weights_are_all_there_and_none_is_a_pickle(tmp_path):
    folder = a_folder(tmp_path / "encoder", weights="model-1-of-2.safetensors")
    parts = {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": parts}))
    with pytest.raises(UserError, match=r"no weights, model-2-of-2\.safetensors"):
        features.with_weights(HubConfig(), folder)
    (folder / "model-2-of-2.bin").write_bytes(b"pickle")
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": parts | {"b": "model-2-of-2.bin"}})
    )
    with pytest.raises(UserError, match=r"a pickle alone \(model-2-of-2.bin\)"):
        features.with_weights(HubConfig(), folder)


@pytest.mark.parametrize("layer", [-1, 5])
def test_a_layer_that_is_not_there_is_refused(tmp_path, layer):
    config = choose_features("hub", None, layer)
    with pytest.raises(UserError, match=f"no layer {layer}; give one from 1 to 4 with --layer"):
        features.with_weights(config, a_folder(tmp_path / "encoder"))
    with pytest.raises(UserError, match="--layer goes with --features=hub"):
        choose_features("campplus", None, layer)


def test_packages_that_are_missing_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "find_spec", lambda name: None if name == "transformers" else name)
    config = features.with_weights(HubConfig(), a_folder(tmp_path / "encoder"))
    with pytest.raises(UserError, match=r"not there \(transformers\); `pip install -r req"):
        features.describer(config, tmp_path / "encoder")
