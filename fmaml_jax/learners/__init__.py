"""The methods of `--method`, by name: one file each, one row each."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from fmaml_jax.common.errors import UserError
from fmaml_jax.config import Config
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


class Method(NamedTuple):
    """A row of the table.

    Attributes:
        make: (settings, network with N + F outputs) -> the learner; or, of a method that is no
            network, what `functionals` says.
        supports: values that `--support` may have, the method's own first. "emotions" is the
            N + F rule; "all" a plain (N + F)-way problem, fixed classes like any other.
        shuffles: whether training tasks shuffle the positions of the classes with support.
        network: whether it is a network.
        uses_sources: whether it learns from the source languages.
    """

    make: Callable[[Config, Model], Learner] | functionals.Make
    supports: tuple[str, ...]
    shuffles: bool = True
    network: bool = True
    uses_sources: bool = True


def _first_order(config: Config, model: Model) -> Learner:
    return fmaml.make(replace(config, first_order=True), model)


METHODS: dict[str, Method] = {
    "fmaml": Method(fmaml.make, ("emotions",)),
    "metaser": Method(fmaml.make, ("all",)),  # Chopra et al. 2021
    "fomaml": Method(_first_order, ("emotions", "all")),  # Finn et al. 2017, 5.2
    "meta_sgd": Method(meta_sgd.make, ("emotions", "all")),
    "mamlpp": Method(mamlpp.make, ("emotions", "all")),
    "reptile": Method(reptile.make, ("emotions", "all")),
    "anil": Method(anil.make_anil, ("emotions", "all")),
    "boil": Method(anil.make_boil, ("emotions", "all")),
    "protonet": Method(protonet.make, ("all",)),
    "matching": Method(matching.make, ("all",)),
    "relation": Method(relation.make, ("all",)),
    "pooled": Method(pooled.make, ("emotions", "all"), shuffles=False),
    "pooled_finetune": Method(pooled.make_finetune, ("emotions", "all"), shuffles=False),
    "supervised": Method(supervised.make, ("all", "emotions"), uses_sources=False),
    "functionals": Method(
        functionals.support_svm, ("all", "emotions"), network=False, uses_sources=False
    ),
    "functionals_fixed": Method(functionals.fixed_svm, ("emotions",), network=False),
    "functionals_pooled": Method(functionals.pooled_regression, ("emotions", "all"), network=False),
}


def find_method(config: Config) -> tuple[Method, str]:
    """The method of a run and which classes have a support.

    Raises:
        UserError: there is no such method, or it cannot do with such a support.
    """
    if config.method not in METHODS:
        raise UserError(f"--method={config.method} is unknown; choose from {', '.join(METHODS)}")
    method = METHODS[config.method]
    support = config.support or method.supports[0]
    if support not in method.supports:
        raise UserError(
            f"--method={config.method} cannot do with --support={support}; leave --support out, "
            "or choose another method"
        )
    return method, support
