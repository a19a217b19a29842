"""Small prepared corpora for tests: each class has a mean of its own, so that it can be learned."""

import numpy as np

from fmaml_jax.data.dataset import Dataset, save

EMOTIONS = ("anger", "fear", "joy")
FIXED = ("neutral", "silence")


def make_corpus(
    language="aa",
    labels=(*EMOTIONS, "neutral"),
    clips=24,
    speakers=6,
    seed=0,
    frames=48,
    coefficients=4,
):
    """A corpus of `clips` clips of each label, dealt to `speakers` speakers in turn."""
    rng = np.random.default_rng(seed)
    known = (*EMOTIONS, *FIXED)
    names = np.array([f"{label}{i:03d}" for label in labels for i in range(clips)])
    label_of = np.repeat(labels, clips)
    means = np.random.default_rng(99).normal(size=(len(known), 1, coefficients))
    features = rng.normal(size=(len(names), frames, coefficients))
    features += means[[known.index(label) for label in label_of]]
    return Dataset(
        corpus=f"corpus_{language}",
        feature_config={"clip_seconds": 0.5},
        features=features.astype(np.float32),
        labels=label_of,
        languages=np.repeat(language, len(names)),
        speakers=np.array([f"s{i % speakers}" if speakers else "" for i in range(len(names))]),
        scenes=np.repeat("", len(names)),
        names=names,
        seconds=np.full(len(names), 0.5, np.float32),
    )


def save_corpora(folder):
    """Three languages with their own neutral class, and silence without a language."""
    paths = []
    for seed, language in enumerate(("aa", "bb", "cc")):
        paths.append(str(folder / f"{language}.npz"))
        save(paths[-1], make_corpus(language, seed=seed))
    paths.append(str(folder / "silence.npz"))
    save(paths[-1], make_corpus("zxx", labels=("silence",), clips=60, speakers=0, seed=9))
    return tuple(paths)
