"""The network's one convolution: 3x3, stride 2, padding 1, as a matrix product.

With parameters of its own for each task, `vmap` turns `lax.conv` into a grouped convolution, which
XLA runs tens of times slower on CPU. A matrix product of patches stays a matrix product. Where a
CPU goes clip by clip (`model.py`), it goes task by task too, and the library's own is quicker.
"""

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_batching import sequential_vmap
from jaxtyping import Float

Images = Float[Array, "batch rows columns channels"]
Kernel = Float[Array, "3 3 channels filters"]
Maps = Float[Array, "batch half_rows half_columns filters"]


def patches_conv(images: Images, kernel: Kernel) -> Maps:
    """The convolution as patches times kernel; equals `reference_conv`, value and gradients."""
    return _patches(images) @ kernel.reshape(-1, kernel.shape[-1])


def reference_conv(images: Images, kernel: Kernel) -> Maps:
    """The convolution as the library has it."""
    return lax.conv_general_dilated(
        images,
        kernel,
        window_strides=(2, 2),
        padding=((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


one_by_one_conv = sequential_vmap(reference_conv)
"""`reference_conv`, of which `vmap` makes a loop: quick on a CPU, and without a gradient."""


def _pairs(images: Images) -> Float[Array, "batch row_pairs 2 column_pairs 2 channels"]:
    """Padded images with rows and columns in pairs: a stride of 2 becomes contiguous slices."""
    _, rows, columns, _ = images.shape
    ends = [(1, 2 * ((extent + 1) // 2 + 1) - extent - 1, 0) for extent in (rows, columns)]
    padded = lax.pad(images, jnp.zeros((), images.dtype), [(0, 0, 0), *ends, (0, 0, 0)])
    batch, rows, columns, channels = padded.shape
    return padded.reshape(batch, rows // 2, 2, columns // 2, 2, channels)


def _extract_patches(images: Images) -> Float[Array, "batch out_rows out_columns patch"]:
    """The 3x3 neighbourhoods of every second row and column, flattened (row, column, channel)."""
    pairs = _pairs(images)
    rows, columns = pairs.shape[1] - 1, pairs.shape[3] - 1
    return jnp.concatenate(
        [
            pairs[:, i // 2 : i // 2 + rows, i % 2, j // 2 : j // 2 + columns, j % 2]
            for i in range(3)
            for j in range(3)
        ],
        axis=-1,
    )


def _add_patches(
    like: Float[Array, "batch rows columns 0"], patches: Array
) -> tuple[Float[Array, "batch rows columns channels"]]:
    """The transpose of `_extract_patches`: adds up the overlaps, of rows, then of columns.

    Autodiff would add nine padded arrays, and XLA would do it anew for each use of the sum; putting
    even and odd rows side by side halves the time of the whole network's gradient on CPU.
    """
    batch, rows, columns, _ = like.shape
    offsets = patches.reshape(*patches.shape[:3], 3, 3, -1)
    by_rows = _interleave(offsets[:, :, :, 0], offsets[:, :, :, 1], offsets[:, :, :, 2], axis=1)
    pairs = _interleave(by_rows[..., 0, :], by_rows[..., 1, :], by_rows[..., 2, :], axis=3)
    padded = pairs.reshape(batch, 2 * pairs.shape[1], 2 * pairs.shape[3], -1)
    return (padded[:, 1 : rows + 1, 1 : columns + 1],)


def _interleave(first: Array, second: Array, third: Array, axis: int) -> Array:
    """Puts offsets 0, 1, 2 of each window where they came from, in pairs along `axis`."""

    def shifted(array: Array, by: int) -> Array:
        widths = [(0, 0)] * array.ndim
        widths[axis] = (by, 1 - by)
        return jnp.pad(array, widths)

    return jnp.stack([shifted(first, 0) + shifted(third, 1), shifted(second, 0)], axis=axis + 1)


# What the transpose needs of the images is their shape, which an array of no channels carries.
_patches = jax.custom_vjp(_extract_patches)
_patches.defvjp(lambda images: (_extract_patches(images), images[..., :0]), _add_patches)
