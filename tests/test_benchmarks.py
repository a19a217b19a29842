"""The benchmarks compare equal work: same gradients as the peers, operations counted right, and
openSMILE's functionals of the same clips.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from jax.extend.core import jaxprs_in_params
from jax.interpreters.partial_eval import dce_jaxpr

from data_prep.pipeline import prepare
from experiments.benchmarks import jax_cases
from experiments.benchmarks.workload import (
    CLASSES,
    Workload,
    make_episodes,
    make_features,
    meta_step_flops,
)
from experiments.studies import egemaps, enrolment
from fmaml_jax.audio.decoding import SAMPLE_RATE
from fmaml_jax.audio.features import FEATURES
from fmaml_jax.common.errors import UserError
from fmaml_jax.convolution import patches_conv
from fmaml_jax.data.dataset import CLIP_FIELDS, load
from fmaml_jax.learners.functionals import time_statistics
from fmaml_jax.model import make_model
from fmaml_jax.training.evaluate import gather

pytestmark = pytest.mark.slow

TINY = Workload(tasks=2, steps=2, filters=4)


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("peer", ["torch loop", "torch.func vmap", "naive JAX"])
def test_a_peers_loss_and_gradient_are_ours(peer, first_order):
    workload = TINY._replace(first_order=first_order)
    initial = jax_cases.initial_params(workload)
    if peer == "naive JAX":
        step, gradient = jax_cases.naive(workload, initial)
    else:
        pytest.importorskip("torch", reason="requirements-benchmarks.txt is not installed")
        from experiments.benchmarks import torch_peers

        step, gradient = torch_peers.make_step(peer, workload, initial)
    our_step, our_gradient = jax_cases.ours(workload, initial)
    assert step() == pytest.approx(our_step(), rel=1e-5)
    found, expected = gradient(), our_gradient()
    assert found.keys() == expected.keys()
    scale = np.sqrt(sum(np.sum(array**2) for array in expected.values()))
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, atol=1e-4 * scale, err_msg=name)


def test_a_peers_evaluation_is_ours():
    pytest.importorskip("torch", reason="requirements-benchmarks.txt is not installed")
    from experiments.benchmarks import torch_peers

    initial = jax_cases.initial_params(TINY)
    ours, theirs = (module.make_evaluation(TINY, initial)(3) for module in (jax_cases, torch_peers))
    assert ours.shape == (3, 1 + TINY.steps, 7 * 25, 7)
    np.testing.assert_allclose(theirs, ours, rtol=1e-3, atol=1e-4)


@pytest.fixture
def speech(tmp_path):
    """Three clips with EmoDB's names, and the prepared corpus of the last two."""
    rng = np.random.default_rng(0)
    for name in ("03a01Wa", "03a01Fa", "08a01Na"):
        soundfile.write(tmp_path / f"{name}.wav", rng.uniform(-0.5, 0.5, SAMPLE_RATE), SAMPLE_RATE)
    dataset, *_ = prepare("emodb", tmp_path, FEATURES["paper"], processes=1)
    kept = {field: getattr(dataset, field)[1:] for field in (*CLIP_FIELDS, "features", "seconds")}
    return tmp_path, dataset._replace(**kept)


@pytest.mark.parametrize("join", [False, True])
def test_opensmile_is_matched_to_the_clips(speech, join):
    opensmile = pytest.importorskip(
        "opensmile", reason="requirements-benchmarks.txt is not installed"
    )
    folder, dataset = speech
    found = egemaps.with_functionals(dataset, "emodb", folder, join)
    smile = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.Functionals)
    expected = smile.process_files([folder / f"{name}.wav" for name in dataset.names]).to_numpy()
    assert found.features.shape == (2, 1, 88 + 240 * join)
    np.testing.assert_allclose(found.features[:, 0, 240 * join :], expected, rtol=1e-3, atol=1e-3)
    assert found.feature_config["functionals"] == "eGeMAPSv02"
    assert ("fft_size" in found.feature_config) == join
    if join:
        np.testing.assert_array_equal(
            found.features[:, 0, :240], time_statistics(dataset.features).astype(np.float32)
        )
    assert found.labels.tolist() == dataset.labels.tolist() == ["anger", "neutral"]


def test_opensmile_problems_are_one_sentence(speech, monkeypatch):
    folder, dataset = speech
    other = dataset._replace(names=np.array(["03a01Wa", "x"]))
    with pytest.raises(UserError, match="1 clips, such as x, are not in"):
        egemaps.with_functionals(other, "emodb", folder, join=False)
    monkeypatch.setitem(sys.modules, "opensmile", None)
    with pytest.raises(UserError, match="openSMILE is missing; install"):
        egemaps.with_functionals(dataset, "emodb", folder, join=False)


@pytest.mark.parametrize("first_order", [False, True])
def test_flops_are_those_of_the_matrix_products_in_the_program(first_order):
    workload = TINY._replace(first_order=first_order)
    model = make_model(CLASSES, filters=workload.filters, convolution=patches_conv)
    tasks = gather(jnp.asarray(make_features()), make_episodes(workload.tasks))
    params = model.init(jax.random.key(0))

    def loss(params):
        return jax_cases.naive_loss(model, workload, params, tasks)

    program = jax.make_jaxpr(jax.grad(loss))(params).jaxpr
    # Without what nobody reads, such as the gradient of clips, which XLA leaves out as well.
    program, _ = dce_jaxpr(program, [True] * len(program.outvars))
    assert _matrix_flops(program) == meta_step_flops(workload)


def _matrix_flops(program) -> int:
    total = 0
    for equation in program.eqns:
        if equation.primitive.name == "dot_general":
            ((contracted, _), _) = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            inner = np.prod([shape[axis] for axis in contracted])
            total += 2 * int(np.prod(equation.outvars[0].aval.shape) * inner)
        total += sum(map(_matrix_flops, jaxprs_in_params(equation.params)))
    return total


def test_an_enrolment_is_judged_on_other_clips_and_voices(trained, start):
    """On speech that is easy to tell apart, what is promised is given, and calibrated."""
    corpus = load(trained[0].parent / "es.npz")
    assert len(np.unique(corpus.speakers)) == 6
    emotions = ("anger", "fear", "sadness")

    def judged(kind, shots, rng=0):
        return enrolment.trial(start, corpus, emotions, shots, kind, np.random.default_rng(rng))

    one = judged(enrolment.Kind(0, named=False, others=False), shots=4)
    assert one.promised > 0.5
    assert one.given > 0.8
    assert one.tempered < np.log(5)
    others = enrolment.Kind(2, named=True, others=True)
    assert judged(others, shots=2).given > 0.5
    assert judged(others, shots=3) is None  # two voices have two clips of each emotion
    assert judged(others, shots=2, rng=3) == judged(others, shots=2, rng=3)
