"""Every setting of a run: one frozen dataclass, from which `config_flags` makes the flags."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from fmaml_jax.common.errors import UserError
from fmaml_jax.common.text import did_you_mean, require_name

NO_TARGET = "none"
"""The --target that leaves every language to meta-training, and no test."""
BATCH_NORM_MODES = ("transductive", "inductive")
LEAK_GUARDS = ("none", "speaker", "scene")
NETWORKS = {
    "cnn": ("filters", "precision"),
    "cnn_lstm": ("filters", "units", "precision"),
    "fourier": ("frequencies",),
    "linear": (),
}
"""The values of --network, and the settings of each that not all of them read."""
PRECISIONS = ("float32", "tf32", "bf16")
SCALINGS = ("standardise", "whiten", "domains")
TASK_DOMAINS = ("language", "corpus")
POSITIONS = ("shuffled", "known")
INNER_OUTPUTS = ("all", "supported")
SUPPORT_LOSSES = ("mean", "sum")
INNER_METRICS = ("none", "sources")


def _setting(default: Any, help_text: str, **limits: Any) -> Any:
    return dataclasses.field(default=default, metadata={"help": help_text, **limits})


@dataclass(frozen=True)
class Config:
    """A run's settings, each a flag of the same name; `check` says what is allowed."""

    # ---- the problem: which clips, which classes, which method
    data: tuple[str, ...] = _setting((), "prepared .npz files or patterns of them, comma-separated")
    target: str = _setting(
        "",
        "language held out of meta-training and tested, or a corpus of it that is tested alone; "
        "none: all are trained on, for enrolment, and nothing is tested",
    )
    emotions: tuple[str, ...] = _setting(
        ("anger", "disgust", "fear", "happiness", "sadness"), "the N classes that are adapted"
    )
    fixed: tuple[str, ...] = _setting(
        ("neutral", "silence"), "the F fixed classes, last in the output; --fixed= is none"
    )
    shots: int = _setting(5, "K, support clips of each emotion", least=1)
    method: str = _setting("fmaml", "learner, one of fmaml_jax/learners")
    support: str = _setting(
        "",
        "classes with K support clips: the emotions (the N + F rule) or all; without it, as the "
        "method has it",
        choices=("", "emotions", "all"),
    )
    seed: int = _setting(0, "seed of the initialisation and of every episode", least=0, below=2**32)
    seeds_at_once: int = _setting(
        1, "seeds trained in one program, --seed and those after it; each gets a folder", least=1
    )
    run_dir: str = _setting("", "folder of the run's outputs; an interrupted run continues in it")

    # ---- the network and its input
    network: str = _setting(
        "cnn",
        "the paper's network; its first two blocks and an LSTM over time; or, where a clip is one "
        "vector, a linear layer on it and on random Fourier features, or on it alone",
        choices=tuple(NETWORKS),
    )
    filters: int = _setting(64, "filters of each convolution of cnn and cnn_lstm", least=1)
    units: int = _setting(64, "units of the LSTM of cnn_lstm", least=1)
    frequencies: int = _setting(2048, "random frequencies of fourier, two features each", least=1)
    scaling: str = _setting(
        "standardise",
        "features scaled by their deviation in the sources, whitened by their covariance within "
        "classes, or scaled by the emotions' deviation within each of the sources' domains",
        choices=SCALINGS,
    )
    penalty: float = _setting(
        100.0,
        "L2 penalty of functionals_pooled, the inverse of scikit-learn's C; the logistic loss is "
        "a sum over the clips",
        above=0,
    )
    batch_norm: str = _setting(
        "transductive",
        "normalise training queries by their own statistics or by the support's",
        choices=BATCH_NORM_MODES,
    )
    task_chunk: int = _setting(
        0, "the most tasks that a device computes at once; 0 is as many as it holds", least=0
    )
    precision: str = _setting(
        "float32",
        "of convolutions: tf32 rounds what a GPU or TPU multiplies, bf16 also what is stored",
        choices=PRECISIONS,
    )

    # ---- the inner loop (equation 2): adaptation to the support
    inner_lr: float = _setting(0.1, "alpha, inner learning rate", above=0)
    inner_steps: int = _setting(5, "inner steps in meta-training", least=1)
    test_inner_steps: int = _setting(5, "inner steps in validation and evaluation", least=1)
    first_order: bool = _setting(False, "treat inner gradients as constants (FOMAML)")
    support_loss: str = _setting(
        "mean",
        "inner loss over the support clips; by the sum, as in equation 1, more clips teach more",
        choices=SUPPORT_LOSSES,
    )
    inner_metric: str = _setting(
        "none",
        "what inner gradients are measured in; with sources, directions in which the sources' "
        "clips differ much are moved less, and a step is relative to the support's own length",
        choices=INNER_METRICS,
    )
    inner_outputs: str = _setting(
        "all",
        "outputs in the inner softmax: all, or those of classes with a support, so that the "
        "others are not unlearned",
        choices=INNER_OUTPUTS,
    )
    fixed_bias: float = _setting(
        0.0,
        "nats added to the outputs of fixed classes without a support wherever queries are "
        "predicted (validation and test, before adaptation too; in no training loss), beside "
        "which adaptation lets the emotions' outputs grow",
        least=0,
    )

    # ---- the outer loop (equation 5): meta-training
    meta_steps: int = _setting(200, "meta-training steps (outer updates)", least=1)
    outer_lr: float = _setting(0.001, "beta, Adam's learning rate", above=0)
    outer_decay: float = _setting(
        0.0, "L2 penalty on the start: the outer gradient gets so many times the start", least=0
    )
    start_weight: float = _setting(
        0.0,
        "weight in the outer loss of the query before adaptation; the rest is that after it",
        least=0,
        below=1,
    )

    # ---- training tasks (Algorithm 1, lines 3, 5 and 8)
    task_batch: int = _setting(16, "tasks in a meta-step", least=1)
    query_per_class: int = _setting(5, "query clips of each class in a training task", least=1)
    task_domain: str = _setting(
        "language",
        "a training task draws from one source language, or from one corpus of it",
        choices=TASK_DOMAINS,
    )
    positions: str = _setting(
        "shuffled",
        "emotions' outputs in training tasks: in a random order, or as in the test, since sources "
        "and target have the same emotions",
        choices=POSITIONS,
    )

    # ---- selection, on source speakers that are held out
    val_fraction: float = _setting(
        0.2,
        "share of each source class, in whole speakers, held out to select on; 0: none, and the "
        "last state is taken",
        least=0,
        below=1,
    )
    val_episodes: int = _setting(50, "validation tasks", least=1)
    eval_every: int = _setting(25, "meta-steps between validations and checkpoints", least=1)

    # ---- the test
    episodes: int = _setting(100, "test episodes", least=2)
    test_query_per_class: int = _setting(25, "query clips of each emotion in a test", least=1)
    test_query_per_fixed_class: int = _setting(
        25, "query clips of each fixed class in a test", least=1
    )
    leak_guard: str = _setting(
        "none",
        "what support and query of a test or validation task, and sources and target, never share",
        choices=LEAK_GUARDS,
    )

    @property
    def seeds(self) -> range:
        """The seeds of the run."""
        return range(self.seed, self.seed + self.seeds_at_once)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the outputs: emotions first, fixed classes last."""
        return self.emotions + self.fixed


def check(config: Config) -> None:
    """Refuses what could not run, before any work.

    Raises:
        UserError: a required flag is missing, a value is out of range or two contradict.
    """
    for name, example in (
        ("data", "--data=data/emodb.npz,data/silence.npz"),
        ("target", "--target=es"),
        ("run_dir", "--run_dir=runs/spanish_5shot"),
    ):
        if not any(getattr(config, name)):
            raise UserError(f"--{name} is missing; for example {example}")
    for field in dataclasses.fields(config):
        value, limits = getattr(config, field.name), field.metadata
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(
                f"--{field.name}={value} is not a number to compute with; give a finite one"
            )
        if "least" in limits and value < limits["least"]:
            raise UserError(f"--{field.name}={value} is too small; give at least {limits['least']}")
        if "above" in limits and not value > limits["above"]:
            raise UserError(
                f"--{field.name}={value} is too small; give more than {limits['above']}"
            )
        if "below" in limits and not value < limits["below"]:
            raise UserError(
                f"--{field.name}={value} is too large; give less than {limits['below']}"
            )
        if "choices" in limits and value not in limits["choices"]:
            raise UserError(
                f"--{field.name}={value} is unknown; choose from {', '.join(limits['choices'])}"
                f"{did_you_mean(str(value), limits['choices'])}"
            )
    if len(config.emotions) < 2:
        raise UserError("--emotions needs at least two classes to tell apart")
    if "" in config.classes:
        raise UserError("--emotions and --fixed have an empty name; write names between commas")
    for name in config.classes:
        require_name(name, "class")
    if repeated := sorted({name for name in config.classes if config.classes.count(name) > 1}):
        raise UserError(
            f"{', '.join(repeated)} stands twice in --emotions and --fixed; name a class once"
        )
    if config.inner_metric == "sources" and (config.network, config.scaling) != (
        "linear",
        "domains",
    ):
        raise UserError(
            "--inner_metric=sources is that of --network=linear with --scaling=domains; give these "
            "too, or leave it out"
        )
    if "" in config.data:
        raise UserError("--data has an empty name; write file names between commas")
    if repeated := sorted({path for path in config.data if config.data.count(path) > 1}):
        raise UserError(f"--data names {', '.join(repeated)} twice; its clips would leak")
