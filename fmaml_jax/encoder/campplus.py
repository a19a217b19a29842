"""CAM++ (Wang et al. 2023, arXiv 2303.00332): energies of clips -> its layers, at inference.

A two-dimensional residual front halves the frequencies three times; a time-delay layer halves the
time; three blocks of densely connected time-delay layers follow. Each such layer weighs its
channels by a mask that hears the mean of the clip and of each segment of `SEGMENT` steps.

Clips of any length are laid end to end in one of a few lengths, with pauses that are as wide as a
convolution reaches and that every layer sets to zero: each clip is computed as if alone, between
the zeros that pad it in the original, and hardly anything is computed for padding.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Bool, Float, Float32, Int

from fmaml_jax.audio.filterbank import MELS

SEGMENT = 100
"""Steps whose mean the masks hear, of 20 ms each: 2 s."""
PAUSE = 4
"""Frames between two clips: the widest convolution reaches two steps to either side."""
FRAMES = (512, 2048)
"""Lengths of `Clips`: 5 s, so that one clip takes little time, and 20 s, which is the longest."""
MOST_CLIPS = 32
FRONT = {"front.block1": 2, "front.block2": 1, "front.block3": 2, "front.block4": 1}
"""Residual blocks, and the stride of each along frequency."""
DILATIONS = (1, 2, 2)
"""Of the convolutions over time in each dense block."""

Params = Mapping[str, Float[Array, "..."]]


class Clips(NamedTuple):
    """Clips, one after the other, and which they are; a step is two frames.

    Attributes:
        energies: from `log_mel_energies`, zero in the pauses.
        heard: whether a frame belongs to a clip.
        clip: the number of the clip that a step belongs to; in a pause `MOST_CLIPS`.
        segment: the same of the segment, counted over all clips; in a pause `len(clip_of)`.
        clip_of: the clip that a segment belongs to.
    """

    energies: Float32[Array, "frames {MELS}"]
    heard: Bool[Array, " frames"]
    clip: Int[Array, " steps"]
    segment: Int[Array, " steps"]
    clip_of: Int[Array, " segments"]


class Layers(NamedTuple):
    """What the stages of the network compute; numbers of channels are those of the weights.

    Attributes:
        front: of the two-dimensional front, an eighth of the filters with 32 channels each.
        entry: of the first time-delay layer.
        blocks: of each dense block, before the layer that narrows it: 512, 1024 and 1024 channels.
        embedding: of who speaks; 192 numbers.
    """

    front: Float[Array, "frames channels"]
    entry: Float[Array, "steps entry_channels"]
    blocks: tuple[Float[Array, "steps _"], ...]
    embedding: Float[Array, "clips embedding"]


def deal(lengths: Sequence[int]) -> list[list[int]]:
    """Which clips are laid together, in their order: as many as there is room for.

    Args:
        lengths: of each clip, in frames; at most `FRAMES[-1]`.
    """
    groups: list[list[int]] = []
    room = 0
    for clip, length in enumerate(lengths):
        if not groups or _room(length) > room or len(groups[-1]) == MOST_CLIPS:
            groups.append([])
            room = FRAMES[-1] + PAUSE  # none is needed after the last one
        groups[-1].append(clip)
        room -= _room(length)
    return groups


def _room(length: int) -> int:
    """Frames that a clip and the pause after it take; each begins at a step."""
    return -(-length // 2) * 2 + PAUSE


def lay(energies: Sequence[Float32[np.ndarray, "_ {MELS}"]]) -> Clips:
    """Lays the clips of one group of `deal` end to end."""
    needed = sum(_room(len(clip)) for clip in energies) - PAUSE
    frames = next(length for length in FRAMES if length >= needed)
    steps = frames // 2
    joined, heard = np.zeros((frames, MELS), np.float32), np.zeros(frames, bool)
    clip_of = np.full(MOST_CLIPS + steps // SEGMENT, MOST_CLIPS, np.int32)
    clip_at = np.full(steps, MOST_CLIPS, np.int32)
    segment_at = np.full(steps, len(clip_of), np.int32)
    frame = segment = 0
    for number, clip in enumerate(energies):
        joined[frame : frame + len(clip)] = clip
        heard[frame : frame + len(clip)] = True
        step, own = frame // 2, np.arange(-(-len(clip) // 2)) // SEGMENT
        clip_at[step : step + len(own)] = number
        segment_at[step : step + len(own)] = segment + own
        clip_of[segment : segment + own[-1] + 1] = number
        frame += _room(len(clip))
        segment += own[-1] + 1
    return Clips(*map(jnp.asarray, (joined, heard, clip_at, segment_at, clip_of)))


def layers(params: Params, clips: Clips) -> Layers:
    """All layers of all clips; within `jax.jit`, what is not used is not computed.

    Args:
        params: from `weights.load`, on the device.
        clips: from `lay`.

    Returns:
        The layers; what stands in pauses means nothing, nor the embeddings of clips not there.
    """
    with jax.default_matmul_precision("highest"):  # TF32 is some hundred times too coarse
        front = _front(params, clips)
        values = entry = _entry(params, front)
        blocks = []
        for number, dilation in enumerate(DILATIONS, 1):
            block = _dense_block(params, f"block{number}", values, clips, dilation)
            blocks.append(block)
            values = _affine(
                params, f"transit{number}", _activated(params, f"transit{number}", block)
            )
        mean, deviation = over_time(jax.nn.relu(values), clips)
        embedding = _affine(params, "dense", jnp.concatenate([mean, deviation], axis=1))
    return Layers(front, entry, tuple(blocks), embedding)


def over_time(
    values: Float[Array, "steps channels"], clips: Clips
) -> tuple[Float[Array, "clips channels"], Float[Array, "clips channels"]]:
    """Mean and deviation (of a sample, n - 1) of each clip; of one step it is zero."""
    lengths = _sums(jnp.ones((len(values), 1)), clips.clip, MOST_CLIPS)
    mean = _sums(values, clips.clip, MOST_CLIPS) / jnp.maximum(lengths, 1)
    squares = _sums((values - mean[clips.clip]) ** 2, clips.clip, MOST_CLIPS)
    return mean, jnp.sqrt(squares / jnp.maximum(lengths - 1, 1))


def _sums(
    values: Float[Array, "items channels"], group: Int[Array, " items"], groups: int
) -> Float[Array, "{groups} channels"]:
    """The sum of each group, added up in order: on a CPU equal wherever the group stands."""
    return jax.ops.segment_sum(values, group, groups)


def _front(params: Params, clips: Clips) -> Float[Array, "frames channels"]:
    """Two-dimensional convolutions; the frequency is the slower axis, which XLA's are faster on."""
    heard = jnp.asarray(clips.heard, jnp.float32)[None, :, None]

    def convolved(name: str, values: Array, stride: int = 1) -> Array:
        kernel = params[f"{name}.kernel"]
        padding = [(size // 2, size // 2) for size in kernel.shape[:2]]
        sizes = ("NHWC", "HWIO", "NHWC")
        maps = lax.conv_general_dilated(
            values[None], kernel, (stride, 1), padding, dimension_numbers=sizes
        )
        return maps[0] + params[f"{name}.bias"]

    def kept(values: Array) -> Array:
        return jax.nn.relu(values) * heard

    values = kept(convolved("front.conv1", clips.energies.T[:, :, None]))
    for name, stride in FRONT.items():
        within = kept(convolved(f"{name}.conv1", values, stride))
        beside = convolved(f"{name}.shortcut", values, stride) if stride > 1 else values
        values = kept(convolved(f"{name}.conv2", within) + beside)
    values = kept(convolved("front.conv2", values, 2))
    return values.transpose(1, 0, 2).reshape(len(clips.heard), -1)


def _entry(params: Params, front: Float[Array, "frames _"]) -> Float[Array, "steps channels"]:
    """The time-delay layer that halves the time; a step and its neighbours are one product each."""
    kernel = params["entry.kernel"]
    reach = len(kernel) // 2
    padded = jnp.pad(front, ((reach, reach), (0, 0)))
    products = sum(
        padded[delay : len(front) + delay : 2] @ kernel[delay] for delay in range(len(kernel))
    )
    return jax.nn.relu(products + params["entry.bias"])


def _dense_block(
    params: Params, name: str, values: Float[Array, "steps _"], clips: Clips, dilation: int
) -> Float[Array, "steps channels"]:
    """Time-delay layers, each of which reads what went into the block and all layers before it."""
    spoken = jnp.asarray(clips.clip < MOST_CLIPS, jnp.float32)[:, None]
    segments = len(clips.clip_of)
    in_segment = jnp.maximum(_sums(spoken, clips.segment, segments), 1)
    in_clip = jnp.maximum(_sums(spoken, clips.clip, MOST_CLIPS), 1)
    parts = [values]  # joined anew for each layer: what XLA fuses with what follows
    while f"{name}.layer{len(parts)}.scale" in params:
        layer = f"{name}.layer{len(parts)}"
        activated = _activated(params, layer, jnp.concatenate(parts, axis=1))
        narrow = jax.nn.relu(_affine(params, f"{layer}.narrow", activated)) * spoken
        of_segment = _sums(narrow, clips.segment, segments)
        of_clip = _sums(of_segment, clips.clip_of, MOST_CLIPS) / in_clip
        heard = of_segment / in_segment + of_clip[clips.clip_of]
        context = jax.nn.relu(_affine(params, f"{layer}.context1", heard))
        mask = jax.nn.sigmoid(_affine(params, f"{layer}.context2", context))
        parts.append(_dilated(narrow, params[f"{layer}.kernel"], dilation) * mask[clips.segment])
    return jnp.concatenate(parts, axis=1)


def _dilated(
    values: Float[Array, "steps inputs"], kernel: Float[Array, "3 inputs outputs"], dilation: int
) -> Float[Array, "steps outputs"]:
    """A convolution over time, as one product whose three parts are shifted and added."""
    products = values @ jnp.concatenate(list(kernel), axis=1)
    padded = jnp.pad(products, ((dilation, dilation), (0, 0)))
    earlier, here, later = jnp.split(padded, 3, axis=1)
    return earlier[: -2 * dilation] + here[dilation:-dilation] + later[2 * dilation :]


def _activated(params: Params, name: str, values: Float[Array, "_ _"]) -> Float[Array, "_ _"]:
    """Batch normalisation and rectifier."""
    return jax.nn.relu(values * params[f"{name}.scale"] + params[f"{name}.shift"])


def _affine(params: Params, name: str, values: Float[Array, "_ _"]) -> Float[Array, "_ _"]:
    return values @ params[f"{name}.kernel"] + params[f"{name}.bias"]
