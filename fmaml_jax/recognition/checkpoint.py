"""What enrolment starts from: the network of a finished run, and how its features are made.

It is read from the run's folder, or from one file, as the starts of `fmaml_jax/starts` are: an
.npz without pickles. Format 1: arrays `mean`, `matrix` and `axes` of the scale, `head`, and
`start`, a JSON object with the settings of the run and of its features. The context parameters are
not in it, since they are zero when a task begins.
"""

import json
import os
import reprlib
from collections.abc import Mapping
from dataclasses import fields
from importlib import metadata, resources
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from fmaml_jax.audio.features import FeatureConfig, restore_config
from fmaml_jax.common import archive
from fmaml_jax.common.errors import UserError, require_kind
from fmaml_jax.config import Config
from fmaml_jax.data.scale import Scale
from fmaml_jax.encoder import DEFAULT
from fmaml_jax.encoder.features import describer
from fmaml_jax.maml import Params
from fmaml_jax.model import CONTEXT, HEAD, model_of
from fmaml_jax.training.run_folder import PACKAGES, recorded_settings, settings_of

FORMAT = 1
SHIPPED = ("descriptors", "encoder")
"""Starts that come with the package; each one's model card lies beside it."""
_ADVICE = (
    "give the folder of a run of `--flagfile=experiments/start.cfg`, a start's file, or one of "
    f"those that come with fmaml_jax: {' or '.join(SHIPPED)}"
)


class Start(NamedTuple):
    """A meta-trained start.

    Attributes:
        config: the settings of its run.
        feature_config: how its clips were described.
        params: of the network; a column of the output layer for each of `config.classes`.
        scale: of the network's input.
        digest: SHA-256 of `params` and `scale`.
        versions: of the packages that run here, by name.
        encoder: the file or folder of the encoder's weights, where `feature_config` is of one.
    """

    config: Config
    feature_config: FeatureConfig
    params: Params
    scale: Scale
    digest: str
    versions: dict[str, str]
    encoder: str = DEFAULT

    def __repr__(self) -> str:
        return f"<Start that knows {reprlib.repr((*self.emotions, *self.fixed))}>"

    @property
    def emotions(self) -> tuple[str, ...]:
        """The emotions that the start knows: none where positions carried no meaning."""
        return self.config.emotions if self.config.positions == "known" else ()

    @property
    def fixed(self) -> tuple[str, ...]:
        """The classes that need no clips."""
        return self.config.fixed


def chosen_start(checkpoint: str, encoder_given: bool) -> str:
    """The start of the flags, and says which, where they leave it open.

    Args:
        checkpoint: the flag's value; "" is one that comes with the package.
        encoder_given: whether --encoder was given, and so is to be heard with.
    """
    if checkpoint:
        return checkpoint
    name = "encoder" if encoder_given else "descriptors"
    print(f"The start is `{name}`, which comes with fmaml_jax (--checkpoint).", flush=True)
    return name


def load_start(checkpoint: str | os.PathLike, encoder: str = DEFAULT) -> Start:
    """Reads a start by its name, its file, or its run's folder.

    Args:
        checkpoint: one of `SHIPPED`, a file of `save_start`, or the folder of a run, of which the
            selected parameters are read; of several seeds the first. Where the last checkpoint is
            damaged, those of the one before it (see `newest_intact`).
        encoder: the file or folder of the encoder's weights, for a start on an encoder's vectors.

    Raises:
        UserError: it is no start, is unfinished or damaged, is of a method or network that
            cannot be enrolled, or was written by another version; or its encoder is missing.
    """
    require_kind(
        "the start", checkpoint, str | os.PathLike, "its name, its path, or what load_start returns"
    )
    require_kind("encoder", encoder, str, "the path of its weights")
    if checkpoint in SHIPPED:
        path = Path(str(resources.files("fmaml_jax") / "starts" / f"{checkpoint}.npz"))
    else:
        path = Path(checkpoint)
    stored = _read_file(path) if os.path.isfile(path) else _read_run(path)
    feature_config = restore_config(stored.feature_config)
    describer(feature_config, encoder)  # what is missing is said before any clip is read
    arrays = {"mean": stored.scale.mean, "matrix": stored.scale.matrix}
    arrays |= {name: layer["kernel"] for name, layer in stored.params.items()}
    return Start(
        stored.config,
        feature_config,
        stored.params,
        stored.scale,
        archive.content_hash(arrays),
        {package: metadata.version(package) for package in PACKAGES},
        encoder,
    )


def save_start(path: str | os.PathLike, start: Start) -> None:
    """Writes a start as one file, whole or not at all; the same start gives the same bytes.

    Raises:
        UserError: it cannot be written.
    """
    record = {
        "format": FORMAT,
        "config": settings_of(start.config),
        "feature_config": start.feature_config._asdict(),
    }
    arrays = {name: np.asarray(array) for name, array in start.scale._asdict().items()}
    arrays["head"] = np.asarray(start.params[HEAD]["kernel"])
    arrays["start"] = np.asarray(json.dumps(record, sort_keys=True, allow_nan=False))
    archive.write(path, arrays)


class _Stored(NamedTuple):
    """What is read of a file or a run's folder."""

    config: Config
    feature_config: dict[str, Any]
    params: Params
    scale: Scale


def _read_file(path: Path) -> _Stored:
    remake = "train one with `--target=none`, or ask for another copy"
    arrays, intact = archive.read(path, _ADVICE)
    try:
        record = json.loads(str(arrays["start"]))
        version = record["format"]
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"--checkpoint={path} is not a start; {_ADVICE}") from error
    if version != FORMAT:
        raise UserError(
            f"--checkpoint={path} has format {str(version)[:9]} and this code reads format "
            f"{FORMAT}; update fmaml_jax, or {remake}"
        )
    if not intact:
        raise UserError(
            f"--checkpoint={path} is damaged: its content hash does not match; {remake}"
        )
    try:
        config = _restore_config(path, record)
        scale = Scale(*(arrays[name] for name in Scale._fields))
        head = arrays["head"]
        numbers = (*scale, head)
        if not all(array.dtype == np.float32 and np.isfinite(array).all() for array in numbers):
            raise ValueError("its arrays are not finite numbers of 32 bits")
        inputs = len(scale.mean)
        if scale.matrix.shape not in ((inputs,), (inputs, inputs)) or len(scale.axes) != inputs:
            raise ValueError("its arrays do not fit together")
        waves = 2 * config.frequencies if config.network == "fourier" else inputs
        context = np.zeros((waves, len(config.classes)), np.float32)
        params = {HEAD: {"kernel": head}, CONTEXT: {"kernel": context}}
        stored = _Stored(config, dict(record["feature_config"]), params, scale)
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(
            f"--checkpoint={path} does not follow the format ({error}); {remake}"
        ) from error
    _check_shapes(path, config, params, scale)
    return stored


def _read_run(folder: Path) -> _Stored:
    try:
        record = json.loads((folder / "config.json").read_text())
        feature_config = dict(record["feature_config"])
        config = _restore_config(folder, record)
    except FileNotFoundError as error:
        raise UserError(f"--checkpoint={folder} is not a run folder; {_ADVICE}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}/config.json is damaged or unreadable; {_ADVICE}") from error
    params, scale = _restore(folder)
    _check_shapes(folder, config, params, scale)
    return _Stored(config, feature_config, params, scale)


def _restore_config(path: Path, record: Mapping[str, Any]) -> Config:
    """The settings of a record, where they are of a start.

    Raises:
        ValueError, KeyError, TypeError: they are no settings.
        UserError: they are of another version, or of what cannot be enrolled.
    """
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in recorded_settings(record).items()
    }
    known = {field.name: type(field.default) for field in fields(Config)}
    if foreign := sorted(values.keys() - known.keys()):
        raise UserError(
            f"--checkpoint={path} was written by another version of fmaml_jax (its settings are "
            f"not known here: {', '.join(foreign)}); train it again with this one, or use that one"
        )
    for name, value in values.items():
        if type(value) is not known[name] and (type(value), known[name]) != (int, float):
            raise ValueError(f"its {name} cannot be")
    config = Config(**values)
    if config.method != "fmaml" or config.network not in ("fourier", "linear"):
        raise UserError(
            f"--checkpoint={path} is a run of --method={config.method} --network="
            f"{config.network}, and only fmaml with fourier or linear can be enrolled; {_ADVICE}"
        )
    return config


def _restore(folder: Path) -> tuple[Params, Scale]:
    # Late, since Orbax takes half a second, for which `predict` is not to wait.
    import orbax.checkpoint as ocp

    from fmaml_jax.training.checkpoints import newest_intact, refuse_damage

    checkpoints = folder.absolute() / "checkpoints"
    try:
        if not checkpoints.is_dir() or not any(folder.glob("**/results.json")):
            raise UserError(
                f"--checkpoint={folder} is not finished; run its command again until it ends"
            )
        step = newest_intact(checkpoints)
    except OSError as error:
        raise UserError(
            f"cannot read {checkpoints} ({error.strerror}); ask for permission, or for a copy"
        ) from error
    if step is None:
        raise UserError(
            f"--checkpoint={folder} has no intact checkpoint; remove it and run its command again"
        )
    with (
        ocp.CheckpointManager(checkpoints, item_handlers=ocp.PyTreeCheckpointHandler()) as manager,
        refuse_damage(checkpoints / str(step), _ADVICE),
    ):
        tree = manager.item_metadata(step).tree
        wanted = {
            "selected": {"params": tree["selected"]["params"]},
            "scale": {name: tree["scale"][name] for name in Scale._fields},
        }
        # Arrays of NumPy, whatever the devices were that trained.
        kinds = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
        arguments = ocp.args.PyTreeRestore(wanted, restore_args=kinds, partial_restore=True)
        stored = manager.restore(step, args=arguments)
        first_seed = jax.tree.map(lambda leaf: leaf[0], stored["selected"]["params"])
        return first_seed, Scale(**stored["scale"])


def _check_shapes(path: Path, config: Config, params: Params, scale: Scale) -> None:
    model = model_of(config, len(scale.mean))
    expected = jax.eval_shape(lambda: model.init(jax.random.key(0)))
    found = jax.tree.map(np.shape, params)
    if params.keys() != {HEAD, CONTEXT} or found != jax.tree.map(np.shape, expected):
        raise UserError(
            f"the checkpoint in {path} has other parameters than its settings say; it was "
            "written by another version of fmaml_jax, which alone can read it"
        )
