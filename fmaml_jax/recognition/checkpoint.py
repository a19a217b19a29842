"""What enrolment starts from: the network of a finished run, and how its features are made."""

import json
import os
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from fmaml_jax.audio.features import FeatureConfig, restore_config
from fmaml_jax.common.archive import content_hash
from fmaml_jax.common.errors import UserError
from fmaml_jax.config import Config
from fmaml_jax.data.scale import Scale
from fmaml_jax.encoder import DEFAULT
from fmaml_jax.encoder.features import describer
from fmaml_jax.maml import Params
from fmaml_jax.model import CONTEXT, HEAD, model_of
from fmaml_jax.training.run_folder import PACKAGES, recorded_settings


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

    @property
    def emotions(self) -> tuple[str, ...]:
        """The emotions that the start knows: none where positions carried no meaning."""
        return self.config.emotions if self.config.positions == "known" else ()

    @property
    def fixed(self) -> tuple[str, ...]:
        """The classes that need no clips."""
        return self.config.fixed


def load_start(run_dir: str | os.PathLike, encoder: str = DEFAULT) -> Start:
    """Reads the selected parameters of a run folder; of several seeds the first.

    Where the last checkpoint is damaged, those of the one before it (see `newest_intact`).

    Args:
        run_dir: the folder.
        encoder: the file or folder of the encoder's weights, for a run on an encoder's vectors.

    Raises:
        UserError: it is no run folder, is unfinished or damaged, is of a method or network that
            cannot be enrolled, or was written by another version; or its encoder is missing.
    """
    folder = Path(run_dir)
    advice = "give the folder of a run of `--flagfile=experiments/start.cfg`"
    try:
        record = json.loads((folder / "config.json").read_text())
        settings = recorded_settings(record)
        stored_features = record["feature_config"]
    except FileNotFoundError as error:
        raise UserError(f"--checkpoint={folder} is no run folder; {advice}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}/config.json is damaged or unreadable; {advice}") from error
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()
    }
    try:
        config = Config(**values)
    except TypeError as error:
        raise UserError(
            f"--checkpoint={folder} was written by another version of fmaml_jax ({error}); train "
            "it again with this one, or use that one"
        ) from error
    if config.method != "fmaml" or config.network not in ("fourier", "linear"):
        raise UserError(
            f"--checkpoint={folder} is a run of --method={config.method} --network="
            f"{config.network}, and only fmaml with fourier or linear can be enrolled; {advice}"
        )
    params, scale = _restore(folder, advice)
    _check_shapes(folder, config, params, scale)
    arrays = {"mean": scale.mean, "matrix": scale.matrix}
    arrays |= {name: layer["kernel"] for name, layer in params.items()}
    feature_config = restore_config(stored_features)
    describer(feature_config, encoder)  # what is missing is said before any clip is read
    return Start(
        config,
        feature_config,
        params,
        scale,
        content_hash(arrays),
        {package: metadata.version(package) for package in PACKAGES},
        encoder,
    )


def _restore(folder: Path, advice: str) -> tuple[Params, Scale]:
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
        refuse_damage(checkpoints / str(step), advice),
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


def _check_shapes(folder: Path, config: Config, params: Params, scale: Scale) -> None:
    model = model_of(config, len(scale.mean))
    expected = jax.eval_shape(lambda: model.init(jax.random.key(0)))
    found = jax.tree.map(np.shape, params)
    if params.keys() != {HEAD, CONTEXT} or found != jax.tree.map(np.shape, expected):
        raise UserError(
            f"the checkpoint in {folder} has other parameters than its settings say; it was "
            "written by another version of fmaml_jax, which alone can read it"
        )
