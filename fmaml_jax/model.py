"""The networks of `--network` as pure functions; the one file that knows Flax.

`cnn`, the paper's (section 4.2): four blocks of [3x3 convolution, ReLU, batch normalisation], 64
filters each, stride 2, padding 1: 40x40 coefficients become 20, 10, 5, 3 positions a side, so
3 * 3 * 64 = 576 flattened features reach the linear output layer (115,975 parameters with 7
outputs).

`cnn_lstm`, after Lim, Jang and Lee 2016: convolutions, then an LSTM over time, whose last output
reaches the output layer. The idea is theirs, the sizes are not: they read spectrograms, and here
input and blocks are those above, so that the networks compare. Four blocks would leave three
moments to an LSTM; it follows the second, at 10 moments of 10 * 64 features (218,759 parameters
with 64 units and 7 outputs).

`fourier` is for descriptors, one vector a clip: the vector, centred, and the sines and cosines of
random projections of it (random Fourier features, Rahimi and Recht 2007) reach the output layer.
Gradient steps on the waves' weights move a smooth function of the clip, like a Gaussian kernel
machine: what a support clip teaches holds for clips that resemble it, and leaves what resembles
none, such as silence, as it was. They are context parameters (CAVIA, Zintgraf et al. 2019): zero at
the start of every task, they alone adapt, and the vector's weights alone are meta-learned.

`linear` is for an encoder's vectors: the vector alone, centred and scaled, with two layers on it,
one meta-learned and one of context parameters. It is scaled by the deviation of the emotions in the
support, as far as these are clips enough to tell (`PRIOR_CLIPS`), since another language or channel
spreads its clips otherwise than the sources do.

Batch normalisation never keeps running averages. A set of clips is normalised either by its own
statistics (transductive when the set is the query: a prediction then depends on its neighbours) or
by statistics taken from another set (inductive when they come from the support). `fourier` takes
the mean alone, of the emotions that the support holds; that of a query with fixed classes is
another, so that its transductive figures are no use.
"""

from collections.abc import Callable
from functools import lru_cache, partial, reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array, lax
from jaxtyping import Float, Float32, PyTree

from fmaml_jax.config import Config
from fmaml_jax.convolution import one_by_one_conv, patches_conv
from fmaml_jax.maml import AnyArray, Params
from fmaml_jax.normalisation import batch_norm, moments, normalised, pooled, widened

INPUT_FRAMES = 40
"""Frames of a clip that is read over time."""
BLOCKS = {"cnn": 4, "cnn_lstm": 2}
"""Convolutional blocks of each network that reads a clip over time."""
GAMMA = 0.7
"""Kernel of `fourier`: exp(-GAMMA * mean squared difference of two vectors' coefficients)."""
BIAS = 0.3
"""The constant that the output layer of `fourier` and `linear` reads beside the vector."""

PRIOR_CLIPS = 20
"""Clips that the sources' deviation counts as beside the support's own, in `linear`."""

HEAD = "Dense_0"
"""Name of the output layer among the parameters."""
CONTEXT = "Context_0"
"""Name of a layer of context parameters: zero at the start of every task, and adapted alone."""
NORMALISATION = "BatchNorm_"
"""How the names of normalisation layers, of a scale and a bias each, begin."""

Statistics = PyTree[Float[Array, "..."]]
OfMaps = Callable[[Array], Array]
"""A function of maps, [clips, rows, columns, channels]."""


def input_frames(network: str) -> int:
    """Frames of the network's input."""
    return INPUT_FRAMES if network in BLOCKS else 1


def pool_time(
    features: Float32[np.ndarray, "clips frames coeffs"], frames: int
) -> Float32[np.ndarray, "clips {frames} coeffs"]:
    """Averages the frames of each clip into `frames` bins of equal width (fractions weighted)."""
    edges = np.linspace(0, features.shape[1], frames + 1)
    positions = np.arange(features.shape[1])
    overlap = np.minimum(edges[1:, None], positions + 1) - np.maximum(edges[:-1, None], positions)
    weights = np.clip(overlap, 0, None) / np.diff(edges)[:, None]
    return np.einsum("ft,ctk->cfk", weights.astype(np.float32), features, optimize=True)


class _Convolution(nn.Module):
    """What convolves maps of so many channels."""

    filters: int
    function: Callable[[Array, Array], Array]

    @nn.compact
    def __call__(self, channels: int) -> OfMaps:
        shape = (3, 3, channels, self.filters)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.filters,))

        def convolve(maps: Array) -> Array:
            return self.function(maps, kernel.astype(maps.dtype)) + bias.astype(maps.dtype)

        return convolve


class _BatchNorm(nn.Module):
    """What normalises maps by their own moments, which are given, or by stored ones."""

    by_clip: bool

    @nn.compact
    def __call__(self, own: tuple[Array, Array], stored_statistics: bool) -> OfMaps:
        channels = own[0].shape
        scale = self.param("scale", nn.initializers.ones, channels)
        bias = self.param("bias", nn.initializers.zeros, channels)
        mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        variance = self.variable("batch_stats", "var", jnp.ones, channels)
        if not stored_statistics:
            mean.value, variance.value = own
            if not self.by_clip:
                return lambda maps: batch_norm(maps, scale, bias)
        given = mean.value, variance.value
        return lambda maps: normalised(maps, *given, scale, bias)


def _chain(*functions: OfMaps) -> OfMaps:
    """One function after the other."""
    return lambda maps: reduce(lambda maps, function: function(maps), functions, maps)


def _at_once(block: OfMaps, maps: Array) -> tuple[Array, tuple[Array, Array]]:
    """The maps of all clips, and their moments."""
    maps = block(maps)
    return maps, moments(maps)


def _by_clip(block: OfMaps, maps: Array) -> tuple[Array, tuple[Array, Array]]:
    """As `_at_once`, one clip after the other: all but the maps stays in a CPU's cache."""

    def of_clip(clip: Array) -> tuple[Array, tuple[Array, Array]]:
        maps, found = _at_once(block, clip[None])
        return maps[0], found

    maps, found = lax.map(of_clip, maps)
    return maps, pooled(*found)


class _Network(nn.Module):
    kind: str
    classes: int
    filters: int
    units: int
    convolution: Callable[[Array, Array], Array]
    bf16: bool
    by_clip: bool = False

    @nn.compact
    def __call__(self, clips: Array, stored_statistics: bool, head: bool = True) -> Array:
        maps = clips[..., None]
        if self.bf16:
            maps = maps.astype(jnp.bfloat16)
        over = _by_clip if self.by_clip else _at_once
        normalise: OfMaps = jax.nn.identity
        for block in range(BLOCKS[self.kind]):
            channels = self.filters if block else 1
            convolve = _Convolution(self.filters, self.convolution)(channels)
            # The last block is normalised where its maps are read.
            convolved = _chain(normalise, convolve, nn.relu)
            outputs, own = over(convolved, maps)
            norm = _BatchNorm(self.by_clip, name=f"{NORMALISATION}{block}")
            normalise = norm(own, stored_statistics)
            if self.by_clip and block == 0:
                # To convolve one channel again is quicker than to store 64 and read them.
                normalise = _chain(convolved, normalise)
            else:
                maps = outputs
        maps = widened(normalise(maps))
        if self.kind == "cnn_lstm":
            over_time = maps.reshape(*maps.shape[:2], -1)
            # Like the data, so that the scan over time passes in a `shard_map`.
            zeros = jnp.zeros_like(maps[:, 0, 0])
            lstm = nn.RNN(nn.OptimizedLSTMCell(self.units))
            outputs = lstm(over_time, initial_carry=(zeros, zeros))
            assert isinstance(outputs, Array)  # and no carry
            features = outputs[:, -1]
        else:
            features = maps.reshape(maps.shape[0], -1)
        return nn.Dense(self.classes, name=HEAD)(features) if head else features


@lru_cache(maxsize=1)
def _projections(coeffs: int, frequencies: int) -> Float32[np.ndarray, "coeffs frequencies"]:
    """Those of `fourier`, always the same; to draw them takes longer than to trace a network."""
    scale = np.sqrt(2 * GAMMA / coeffs)
    return np.random.default_rng(0).normal(scale=scale, size=(coeffs, frequencies)).astype("f4")


def _two_layers(vectors: Array, adapted: Array, classes: int) -> Array:
    """The logits of a layer on the vectors and one of what adapts, which are zero at the start.

    Without classes what they read: the vectors, a constant, and what adapts.
    """
    known = jnp.concatenate([vectors, jnp.full((len(vectors), 1), BIAS)], axis=1)
    if not classes:
        return jnp.concatenate([known, adapted], axis=1)

    def layer(name: str) -> nn.Dense:
        return nn.Dense(classes, use_bias=False, kernel_init=nn.initializers.zeros, name=name)

    return layer(HEAD)(known) + layer(CONTEXT)(adapted)


class _Fourier(nn.Module):
    classes: int
    frequencies: int

    @nn.compact
    def __call__(self, clips: Array, stored_statistics: bool, head: bool = True) -> Array:
        vectors = clips.reshape(len(clips), -1)
        coeffs = vectors.shape[1]
        waves = vectors @ _projections(coeffs, self.frequencies)
        features = jnp.concatenate(
            [
                vectors / np.sqrt(coeffs),
                jnp.cos(waves) / np.sqrt(self.frequencies),
                jnp.sin(waves) / np.sqrt(self.frequencies),
            ],
            axis=1,
        )
        centre = self.variable("batch_stats", "mean", jnp.zeros, features.shape[1])
        if not stored_statistics:
            centre.value = features.mean(axis=0)
        vectors, waves = jnp.split(features - centre.value, [coeffs], axis=1)
        return _two_layers(vectors, waves, self.classes if head else 0)


class _Linear(nn.Module):
    classes: int

    @nn.compact
    def __call__(self, clips: Array, stored_statistics: bool, head: bool = True) -> Array:
        vectors = clips.reshape(len(clips), -1)
        coeffs = vectors.shape[1]
        mean = self.variable("batch_stats", "mean", jnp.zeros, coeffs)
        variance = self.variable("batch_stats", "variance", jnp.ones, coeffs)
        if not stored_statistics:
            mean.value = vectors.mean(axis=0)
            variance.value = blended(vectors.var(axis=0), len(vectors))
        vectors = (vectors - mean.value) / jnp.sqrt(coeffs * variance.value)
        return _two_layers(vectors, vectors, self.classes if head else 0)


def blended(
    variance: Float[Array, " coeffs"], clips: float | Float[Array, ""]
) -> Float[Array, " coeffs"]:
    """The variance of so many clips, and the sources', which is 1."""
    return (PRIOR_CLIPS + clips * variance) / (PRIOR_CLIPS + clips)


class Model(NamedTuple):
    """A network as pure functions.

    Attributes:
        init: key -> parameters.
        apply: (parameters, clips, statistics or None) -> logits [clips, classes]. Without
            statistics the clips are normalised by their own.
        statistics: (parameters, clips) -> the clips' normalisation statistics.
        features: as `apply`, -> what the output layers get, [clips, features]: of `fourier` and
            `linear` what is known, and after it what the context parameters read.
        axes: of the inner metric, see `data.scale.Scale`.
    """

    init: Callable[[Array], Params]
    apply: Callable[[Params, Float[Array, "clips time coeffs"], Statistics | None], Array]
    statistics: Callable[[Params, Float[Array, "clips time coeffs"]], Statistics]
    features: Callable[[Params, Float[Array, "clips time coeffs"], Statistics | None], Array]
    axes: Float[AnyArray, "coeffs axes"] | None = None


def make_model(
    classes: int,
    coefficients: int = 40,
    network: str = "cnn",
    *,
    filters: int = 64,
    units: int = 64,
    frequencies: int = 2048,
    convolution: Callable[[Array, Array], Array] = patches_conv,
    precision: str = "float32",
) -> Model:
    """A network for inputs of `input_frames(network)` x `coefficients`.

    Args:
        classes: outputs, N + F.
        coefficients: MFCCs a frame, or descriptors.
        network: "fourier", "linear" or one of `BLOCKS`.
        filters: filters of each convolution; 64 in the paper.
        units: units of the LSTM of "cnn_lstm".
        frequencies: random frequencies of "fourier".
        convolution: `patches_conv` or `reference_conv`; a CPU that is asked for no gradient has
            `one_by_one_conv` instead.
        precision: with "bf16" the convolutions' maps and patches are stored so; parameters,
            statistics and the layers after them stay in float32.
    """
    if network == "fourier":
        module = _Fourier(classes, frequencies)
    elif network == "linear":
        module = _Linear(classes)
    else:
        module = _Network(network, classes, filters, units, convolution, precision == "bf16")

    def init(key: Array) -> Params:
        clips = jnp.zeros((1, input_frames(network), coefficients))
        return module.init(key, clips, stored_statistics=False)["params"]

    def outputs(
        module: nn.Module,
        head: bool,
        params: Params,
        clips: Array,
        statistics: Statistics | None = None,
    ) -> Array:
        if statistics is None:
            own = {"params": params}
            outputs, _ = module.apply(
                own, clips, stored_statistics=False, head=head, mutable=["batch_stats"]
            )
            return outputs
        given = {"params": params, "batch_stats": statistics}
        # Flax declares what it returns with `mutable` for both cases.
        return module.apply(  # pyright: ignore[reportReturnType]
            given, clips, stored_statistics=True, head=head
        )

    def statistics(module: nn.Module, params: Params, clips: Array) -> Statistics:
        own = {"params": params}
        _, variables = module.apply(
            own, clips, stored_statistics=False, head=False, mutable=["batch_stats"]
        )
        return variables["batch_stats"]

    def by_backend(function: Callable, *settings: bool) -> Callable:
        """The function with such settings; a CPU reads clips over time one after the other."""
        if network not in BLOCKS:
            return partial(function, module, *settings)
        # Measured in experiments/benchmarks; an accelerator is not to wait for clip after clip.
        forms = module, module.clone(by_clip=True, convolution=one_by_one_conv)
        return _unless_differentiated(*(partial(function, form, *settings) for form in forms))

    return Model(
        jax.jit(init),
        apply=by_backend(outputs, True),
        statistics=by_backend(statistics),
        features=by_backend(outputs, False),
    )


def _unless_differentiated(function: Callable, on_cpu: Callable) -> Callable:
    """The function; a CPU has the same values from another, of which nobody asks the gradient."""

    @jax.custom_vjp
    def either(*args: PyTree) -> PyTree:
        return lax.platform_dependent(*args, cpu=on_cpu, default=function)

    either.defvjp(partial(jax.vjp, function), lambda pullback, cotangent: pullback(cotangent))
    return either


def model_of(config: Config, coefficients: int) -> Model:
    """The network of a run's settings, for features of so many coefficients."""
    return make_model(
        len(config.classes),
        coefficients,
        config.network,
        filters=config.filters,
        units=config.units,
        frequencies=config.frequencies,
        precision=config.precision,
    )
