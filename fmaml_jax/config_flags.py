"""The flags of a run, made from `Config`: one for each setting."""

import dataclasses
from typing import Any

from absl import flags

from fmaml_jax.config import Config, check

_FIRST = {
    "data": "The problem",
    "network": "The network and its input",
    "inner_lr": "Adaptation to the labelled clips (the inner loop)",
    "meta_steps": "Meta-training (the outer loop)",
    "task_batch": "Training tasks",
    "val_fraction": "Selection on held-out speakers",
    "episodes": "The test",
}
"""Titles of groups of settings, by the first setting of each."""


def groups() -> dict[str, list[str]]:
    """The names of the settings by title, for `--help`."""
    found: dict[str, list[str]] = {}
    for field in dataclasses.fields(Config):
        if field.name in _FIRST:
            found[_FIRST[field.name]] = []
        list(found.values())[-1].append(field.name)
    return found


REQUIRED = ("data", "target", "run_dir")
"""Settings that have no default."""


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines one absl flag for each field of `Config`."""
    for field in dataclasses.fields(Config):
        name, default, help_text = field.name, field.default, field.metadata["help"]
        match default:
            case bool():
                flags.DEFINE_bool(name, default, help_text, values)
            case int():
                flags.DEFINE_integer(name, default, help_text, flag_values=values)
            case float():
                flags.DEFINE_float(name, default, help_text, flag_values=values)
            case tuple():
                flags.DEFINE_list(name, list(default), help_text, values)
            case str():
                choices = field.metadata.get("choices")
                help_text += f" ({' | '.join(filter(None, choices))})" if choices else ""
                flags.DEFINE_string(name, default, help_text, values)


def config_from_flags(values: flags.FlagValues) -> Config:
    """The checked `Config` of parsed flags.

    Raises:
        UserError: see `check`.
    """
    settings: dict[str, Any] = {}
    for field in dataclasses.fields(Config):
        value = values[field.name].value
        is_list = isinstance(value, list)
        settings[field.name] = tuple(item.strip() for item in value) if is_list else value
    config = Config(**settings)
    check(config)
    return config


def flags_from_config(config: Config) -> list[str]:
    """The command line that makes this config."""
    return [
        f"--{name}={','.join(value) if isinstance(value, tuple) else value}"
        for name, value in dataclasses.asdict(config).items()
    ]
