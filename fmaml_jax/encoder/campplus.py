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
FRAMES = (320, 640, 2048)
"""Lengths of `Clips`: for a clip of 3 s, two of them, and 20 s, which is the longest. A row whose
values fit into a cache takes less time by frame than a long one."""
MOST_CLIPS = 32
FRONT = {"front.block1": 2, "front.block2": 1, "front.block3": 2, "front.block4": 1}
"""Residual blocks, and the stride of each along frequency."""
DILATIONS = (1, 2, 2)
"""Of the convolutions over time in each dense block."""

LOOP = 8
"""Layers of a dense block that are one loop, as wide as the last: quicker to compile than each."""

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
        last: of the layer whose mean and deviation over time the embedding is made of.
        embedding: of who speaks; 192 numbers.
    """

    front: Float[Array, "frames channels"]
    entry: Float[Array, "steps entry_channels"]
    blocks: tuple[Float[Array, "steps _"], ...]
    last: Float[Array, "steps last_channels"]
    embedding: Float[Array, "clips embedding"]


def deal(lengths: Sequence[int]) -> list[list[int]]:
    """Which clips are laid together: each, the longest first, in the first group with room for it.

    They share `FRAMES[1]`, or more where one of them asks for it alone.

    Args:
        lengths: of each clip, in frames; at most `FRAMES[-1]`.
    """
    groups: list[list[int]] = []
    rooms: list[int] = []
    for clip in sorted(range(len(lengths)), key=lambda clip: -lengths[clip]):
        needed = _room(lengths[clip])
        for number, room in enumerate(rooms):
            if needed <= room and len(groups[number]) < MOST_CLIPS:
                break
        else:
            number = len(groups)
            groups.append([])
            frames = next(frames for frames in FRAMES[1:] if frames >= lengths[clip])
            rooms.append(frames + PAUSE)  # none is needed after the last one
        groups[number].append(clip)
        rooms[number] -= needed
    return groups


def _room(length: int) -> int:
    """Frames that a clip and the pause after it take; each begins at a step."""
    return -(-length // 2) * 2 + PAUSE


def lay(energies: Sequence[Float32[np.ndarray, "_ {MELS}"]], least: int = 0) -> Clips:
    """Lays the clips of one group of `deal` end to end, in one of `FRAMES` that is `least` long."""
    needed = max(least, sum(_room(len(clip)) for clip in energies) - PAUSE)
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
    return Clips(*map(jax.device_put, (joined, heard, clip_at, segment_at, clip_of)))


def stack(params: Mapping[str, Float32[np.ndarray, "..."]]) -> dict[str, np.ndarray]:
    """The weights of `weights.load`, with those of `LOOP` layers at a time as one array.

    What a layer of theirs does not read has weights of zero. The parts of "block1.layers5" are
    those of the fifth layer and what follows it.
    """
    stacked = {name: array for name, array in params.items() if ".layer" not in name}
    for block in (f"block{number}" for number in range(1, len(DILATIONS) + 1)):
        last = 0
        while f"{block}.layer{last + 1}.scale" in params:
            first = last + 1
            while last < first + LOOP - 1 and f"{block}.layer{last + 1}.scale" in params:
                last += 1
            own = [f"{block}.layer{number}." for number in range(first, last + 1)]
            parts = [name.removeprefix(own[0]) for name in params if name.startswith(own[0])]
            for part in parts:
                arrays = [params[layer + part] for layer in own]
                wide = [(0, len(arrays[-1]) - len(array)) for array in arrays]
                stacked[f"{block}.layers{first}.{part}"] = np.stack(
                    [
                        np.pad(array, (more, *[(0, 0)] * (array.ndim - 1)))
                        for array, more in zip(arrays, wide, strict=True)
                    ]
                )
    return stacked


def begins(clips: Clips) -> list[int]:
    """The first step of each clip."""
    return np.flatnonzero(np.diff(clips.clip, prepend=MOST_CLIPS) < 0).tolist()


def layers(params: Params, clips: Clips) -> Layers:
    """All layers of all clips; within `jax.jit`, what is not used is not computed.

    Args:
        params: from `stack`, on the device.
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
        last = jax.nn.relu(values)
        embedding = embed(params, jnp.concatenate(over_time(last, clips), axis=1))
    return Layers(front, entry, tuple(blocks), last, embedding)


def embed(
    params: Params, statistics: Float[Array, "clips twice_channels"]
) -> Float[Array, "clips embedding"]:
    """Who speaks, of the last layer's mean and deviation over time."""
    return _affine(params, "dense", statistics)


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

    def layer(carry: tuple[Array, int], own: Params) -> tuple[tuple[Array, int], None]:
        values, width = carry
        activated = jax.nn.relu(values[:, : len(own["scale"])] * own["scale"] + own["shift"])
        narrow = jax.nn.relu(_affine(own, "narrow", activated)) * spoken
        of_segment = _sums(narrow, clips.segment, segments)
        of_clip = _sums(of_segment, clips.clip_of, MOST_CLIPS) / in_clip
        heard = of_segment / in_segment + of_clip[clips.clip_of]
        context = jax.nn.relu(_affine(own, "context1", heard))
        mask = jax.nn.sigmoid(_affine(own, "context2", context))
        found = _dilated(narrow, own["kernel"], dilation) * mask[clips.segment]
        return (lax.dynamic_update_slice(values, found, (0, width)), width + found.shape[1]), None

    first = 1
    while f"{name}.layers{first}.scale" in params:
        prefix = f"{name}.layers{first}."
        own = {
            part.removeprefix(prefix): array
            for part, array in params.items()
            if part.startswith(prefix)
        }
        layers, growth = len(own["scale"]), own["kernel"].shape[-1]
        width = values.shape[1]
        wider = jnp.pad(values, ((0, 0), (0, layers * growth)))
        (values, _), _ = lax.scan(layer, (wider, width), own)
        first += layers
    return values


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
