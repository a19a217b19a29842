"""The methods of `--method`, by name: one file each, one row each."""

from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from typing import Any, NamedTuple

from fmaml_jax.common.errors import UserError
from fmaml_jax.common.text import did_you_mean
from fmaml_jax.config import NETWORKS, Config
from fmaml_jax.learners import (
    anil,
    fmaml,
    functionals,
    mamlpp,
    matching,
    meta_sgd,
    pooled,
    protonet,
    relation,
    reptile,
    supervised,
)
from fmaml_jax.learners.interface import Learner
from fmaml_jax.model import Model

EVERY = (
    *("data", "target", "emotions", "fixed", "shots", "method", "support", "seed", "seeds_at_once"),
    *("run_dir", "episodes", "test_query_per_class", "test_query_per_fixed_class", "leak_guard"),
)
"""Settings that every method reads: the problem and the test."""
NETWORK = ("network", "scaling", "task_chunk")
"""Those of every network, beside those of its `--network`."""
TRAINED = (
    *("meta_steps", "outer_lr", "task_batch", "query_per_class", "task_domain", "batch_norm"),
    *("val_fraction", "val_episodes", "eval_every"),
)
"""Those of every network that is trained on tasks of the sources."""
ADAPTED = ("inner_lr", "test_inner_steps", "support_loss")
"""Those of adaptation to the target's support by gradient steps."""
MEASURED = ("inner_metric",)
"""Those of steps in a metric."""
META_LEARNED = (*TRAINED, *ADAPTED, "inner_steps", "first_order", "outer_decay", "positions")
"""Those of a start that is trained through its adaptation."""
UNSUPPORTED = ("inner_outputs", "fixed_bias")
"""Those that mean fixed classes without a support: with `--support=all` nobody reads them."""


class Network(NamedTuple):
    """A method that is a network: a row of the table.

    Attributes:
        make: (settings, network with N + F outputs) -> the learner.
        supports: values that `--support` may have, the method's own first. "emotions" is the
            N + F rule; "all" a plain (N + F)-way problem, fixed classes like any other.
        reads: the settings it reads, beside `EVERY` and `NETWORK`.
        lacking: whether training tasks may lack emotions that their corpus has no clip of.
        shuffles: whether training tasks may shuffle the positions of the classes with support.
        uses_sources: whether it learns from the source languages.
    """

    make: Callable[[Config, Model], Learner]
    supports: tuple[str, ...]
    reads: tuple[str, ...]
    lacking: bool = True
    shuffles: bool = True
    uses_sources: bool = True


class Classifier(NamedTuple):
    """A method without a network, fitted to each test episode: a row of the table.

    Attributes:
        make: settings -> what `functionals` says.
        supports, uses_sources, lacking: as in `Network`.
        reads: the settings it reads, beside `EVERY`.
    """

    make: Callable[[Config], functionals.Make]
    supports: tuple[str, ...]
    reads: tuple[str, ...] = ()
    uses_sources: bool = True
    lacking: bool = True


Method = Network | Classifier

_N_PLUS_F = (*META_LEARNED, "start_weight", *UNSUPPORTED)
_BOTH = ("emotions", "all")

METHODS: dict[str, Method] = {
    "fmaml": Network(fmaml.make, ("emotions",), (*_N_PLUS_F, *MEASURED)),
    "metaser": Network(fmaml.make, ("all",), (*_N_PLUS_F, *MEASURED)),  # Chopra et al. 2021
    "meta_sgd": Network(meta_sgd.make, _BOTH, _N_PLUS_F),
    "mamlpp": Network(mamlpp.make, _BOTH, (*META_LEARNED, *UNSUPPORTED)),
    "reptile": Network(
        reptile.make,
        _BOTH,
        (*TRAINED, *ADAPTED, "inner_steps", "outer_decay", "positions", *UNSUPPORTED),
        lacking=False,
    ),
    "anil": Network(anil.make_anil, _BOTH, (*_N_PLUS_F, *MEASURED)),
    "boil": Network(anil.make_boil, _BOTH, (*_N_PLUS_F, *MEASURED)),
    # What compares with class means or members is the same in any order of the classes.
    "protonet": Network(protonet.make, ("all",), TRAINED, lacking=False),
    "matching": Network(matching.make, ("all",), TRAINED, lacking=False),
    "relation": Network(relation.make, ("all",), TRAINED, lacking=False),
    "pooled": Network(pooled.make, _BOTH, (*TRAINED, "outer_decay", "fixed_bias"), shuffles=False),
    "pooled_finetune": Network(
        pooled.make_finetune,
        _BOTH,
        (*TRAINED, *ADAPTED, *MEASURED, "outer_decay", *UNSUPPORTED),
        shuffles=False,
    ),
    "supervised": Network(
        supervised.make,
        ("all", "emotions"),
        # The last two say which source clips the input is scaled by.
        ("meta_steps", "outer_lr", "support_loss", "inner_outputs", "val_fraction", "task_domain"),
        uses_sources=False,
    ),
    "functionals": Classifier(
        lambda _: functionals.support_svm, ("all", "emotions"), uses_sources=False
    ),
    "functionals_fixed": Classifier(
        lambda _: functionals.fixed_svm, ("emotions",), ("val_fraction", "task_domain")
    ),
    "functionals_pooled": Classifier(
        lambda config: partial(functionals.pooled_regression, penalty=config.penalty),
        _BOTH,
        ("val_fraction", "task_domain", "penalty"),
    ),
}


def find_method(config: Config) -> tuple[Method, str]:
    """The method of a run and which classes have a support.

    Raises:
        UserError: there is no such method, it cannot do with such a support, or a setting is given
            that it does not read.
    """
    if config.method not in METHODS:
        raise UserError(
            f"--method={config.method} is unknown; choose from {', '.join(METHODS)}"
            f"{did_you_mean(config.method, METHODS)}"
        )
    method = METHODS[config.method]
    support = config.support or method.supports[0]
    if support not in method.supports:
        raise UserError(
            f"--method={config.method} cannot do with --support={support}; leave --support out, "
            "or choose another method"
        )
    if unread := _unread(config, method, support):
        given = ", ".join(f"--{name}={getattr(config, name)}" for name in unread)
        back = " ".join(f"--{name}={default}" for name, default in unread.items())
        raise UserError(
            f"--method={config.method} does not read {given}; leave that out, or set it back by "
            f"{back}"
        )
    return method, support


def without_unread(config: Config) -> Config:
    """The config with what its method does not read at its default, for a grid of methods.

    An unknown method, or one that cannot do with the support, is left to `find_method` to refuse.
    """
    method = METHODS.get(config.method)
    if method is None:
        return config
    return replace(config, **_unread(config, method, config.support or method.supports[0]))


def read_settings(method: Method, support: str, network: str) -> set[str]:
    """The names of the settings that a method reads, with such a `--support` and `--network`."""
    read = {*EVERY, *method.reads}
    if isinstance(method, Network):
        read |= {*NETWORK, *NETWORKS[network]}
    return read - {*UNSUPPORTED} if support == "all" else read


def _unread(config: Config, method: Method, support: str) -> dict[str, Any]:
    """The defaults of settings that have another value, and that the method does not read."""
    read = read_settings(method, support, config.network)
    return {
        field.name: field.default
        for field in fields(Config)
        if field.name not in read and getattr(config, field.name) != field.default
    }
