"""Prepared corpora joined, and their clips dealt out to training, validation and test.

NumPy only. A `Pool` holds, for each class in the order of the outputs, the clips that tasks of one
domain (a language, or a corpus) may draw. Two rules keep a result honest: the target language is in
no pool but the test's, and validation holds whole source speakers that training never hears.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from itertools import cycle
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int, Shaped

from fmaml_jax.common.errors import UserError
from fmaml_jax.common.text import did_you_mean, name_key, one_spelling
from fmaml_jax.data.dataset import NO_LANGUAGE, VIEW
from fmaml_jax.data.shards import load_corpora

Pool = tuple[Int[np.ndarray, " _"], ...]
"""The clips of each class, of which some have more than others."""
Groups = Int[np.ndarray, " clips"]
ClipNames = Shaped[np.ndarray, " clips"]


class Clips(NamedTuple):
    """The clips of all prepared corpora, one after the other; `hashes` by file or pattern."""

    features: Float32[np.ndarray, "clips frames coeffs"]
    labels: ClipNames
    languages: ClipNames
    speakers: ClipNames
    scenes: ClipNames
    names: ClipNames
    corpora: ClipNames
    hashes: dict[str, str]
    feature_config: dict[str, str | int | float]


class Split(NamedTuple):
    """Where each part of a run draws its clips: a pool for each domain it uses.

    `groups` is the group of every clip whose clips support and query share out whole, or None
    without a leak guard.
    """

    train: dict[str, Pool]
    val: dict[str, Pool]
    test: dict[str, Pool]
    groups: Groups | None = None


def load_clips(data: Sequence[str]) -> Clips:
    """Reads and joins the .npz files that `data_prep.prepare` wrote, by name or pattern.

    Raises:
        UserError: a file cannot be used or is missing (see `load_corpora`), a clip is there
            twice, two corpora are called the same, or their features were made in different ways.
    """
    corpora = load_corpora(data)
    paths, parts = list(corpora), list(corpora.values())
    hashes = {path: part.content_hash for path, part in corpora.items()}
    first = parts[0].feature_config
    seen: dict[bytes, str] = {}
    called: dict[str, str] = {}
    for path, part in zip(paths, parts, strict=True):
        keys = dict.fromkeys((*first, *part.feature_config))
        if differing := [key for key in keys if part.feature_config.get(key) != first.get(key)]:
            raise UserError(
                f"{path} and {paths[0]} hold features that differ in {', '.join(differing)}; "
                "prepare both with the same flags"
            )
        for name, features in zip(part.names, part.features, strict=True):
            clip = f"{name} of {path}"
            other = seen.setdefault(hashlib.sha256(features.tobytes()).digest(), clip)
            if other != clip:
                raise UserError(
                    f"{clip} and {other} are the same clip, which would be in support and query; "
                    "leave one of the files out of --data"
                )
        if (namesake := called.setdefault(name_key(part.corpus), path)) != path:
            raise UserError(
                f"{path} and {namesake} are both called {part.corpus}, so that speakers of one "
                "would count as the other's; prepare one with another --name, or both at once if "
                "they are one corpus"
            )

    def join(field: str) -> np.ndarray:
        return np.concatenate([getattr(part, field) for part in parts])

    labels, label_of = np.unique(join("labels"), return_inverse=True)
    return Clips(
        features=join("features"),
        labels=np.array(one_spelling(labels))[label_of],
        languages=join("languages"),
        speakers=join("speakers"),
        scenes=join("scenes"),
        names=join("names"),
        corpora=np.concatenate([np.repeat(part.corpus, len(part.labels)) for part in parts]),
        hashes=hashes,
        feature_config=parts[0].feature_config,
    )


def split_clips(
    clips: Clips,
    *,
    target: str | None,
    emotions: Sequence[str],
    fixed: Sequence[str],
    val_fraction: float,
    leak_guard: str = "none",
    task_domain: str = "language",
) -> Split:
    """Deals the clips out to meta-training, validation and test.

    The split follows from the data alone: it is the same for every method and seed. Views of clips
    (`prepare --views`) are in training alone. A fixed class is drawn from the task's own domain
    where that is recorded, else from its language, else from the clips that have no language, of
    which training, validation and test get 60, 20 and 20 per cent.

    Under a leak guard no group of the target is in training or validation: a dubbed twin of a
    target clip (the same film scene in another language), or a speaker of two languages.

    Args:
        clips: all clips.
        target: the language held out of meta-training, or a corpus: then its clips alone are
            tested, and no clip of its language is trained on; or None: all languages are trained
            on, and there is no test.
        emotions: the N classes to adapt.
        fixed: the F fixed classes.
        val_fraction: least share of each class's clips, of each source language, in validation;
            0 for no validation.
        leak_guard: "none", "speaker" or "scene"; see `leak_groups`.
        task_domain: what a training task draws from: one source "language" or one "corpus" of it.

    Raises:
        UserError: there is no target or no source language, or no clip of a class or, with
            `task_domain` "corpus", of an emotion in the sources.
    """
    spoken = clips.languages != NO_LANGUAGE
    languages = sorted(set(clips.languages[spoken]))
    found = f"found {', '.join(languages) or 'none'} in --data"
    named = (clips.languages if target in languages else clips.corpora) == target
    tested = spoken & named & (target is not None)
    if target is not None and not tested.any():
        near = did_you_mean(target or "", [*languages, *clips.corpora[spoken]])
        raise UserError(f"--target={target} has no clips; {found}{near}")
    sources = [name for name in languages if name not in clips.languages[tested]]
    if not sources:
        raise UserError(
            f"no language is left to train on beside --target={target or 'none'}; {found}"
        )
    known = sorted(set(clips.labels))
    for label in (*emotions, *fixed):
        if label not in known:
            raise UserError(
                f"no clip in --data is labelled {label!r}; the labels are {', '.join(known)}"
                f"{did_you_mean(label, known)}"
            )
    usable = np.isin(clips.languages, sources)

    def pool(domain: Bool[np.ndarray, " clips"], part: int, chosen: np.ndarray) -> Pool:
        """The domain's clips among `chosen`; fixed classes it lacks, its language's, or shared."""
        classes = []
        for label in (*emotions, *fixed):
            of_label = clips.labels == label
            of_language = np.isin(clips.languages, clips.languages[domain])
            if label not in fixed or (domain & of_label).any():
                classes.append(np.flatnonzero(domain & of_label & chosen))
            elif (of_language & of_label).any():
                classes.append(np.flatnonzero(of_language & of_label & chosen))
            else:
                classes.append(_shared_parts(clips, label)[part])
        return tuple(classes)

    groups = leak_groups(clips, leak_guard)
    if groups is not None:
        usable &= ~np.isin(groups, groups[~usable & spoken])
    held_out = _held_out(clips, usable, (*emotions, *fixed), val_fraction)
    whole = np.char.find(clips.names, VIEW) < 0
    if task_domain == "language":
        domains = {name: clips.languages == name for name in sources}
    else:
        domains = _corpora(clips, np.isin(clips.languages, sources), emotions)
        if not domains:
            raise UserError(
                f"no corpus of {', '.join(sources)} has a clip of {', '.join(emotions)} to train "
                "on; add corpora, or change --emotions or --target"
            )
    return Split(
        train={name: pool(domain, 0, usable & ~held_out) for name, domain in domains.items()},
        val={
            name: pool(domain, 1, usable & held_out & whole)
            for name, domain in domains.items()
            if val_fraction
        },
        test={target: pool(tested, 2, whole & np.isin(clips.languages, clips.languages[tested]))}
        if target is not None
        else {},
        groups=groups,
    )


def _corpora(
    clips: Clips, chosen: Bool[np.ndarray, " clips"], emotions: Sequence[str]
) -> dict[str, Bool[np.ndarray, " clips"]]:
    """The clips of each corpus of emotions and of each of its languages, by the name of both."""
    names = np.char.add(np.char.add(clips.languages, "/"), clips.corpora)
    emotional = np.unique(names[chosen & np.isin(clips.labels, emotions)])
    return {str(name): names == name for name in emotional}


def leak_groups(clips: Clips, leak_guard: str) -> Groups | None:
    """The number of each clip's speaker or scene, within its corpus; None without a guard.

    Clips whose speaker (scene) is unknown may all be of one: those of a corpus and language count
    as one group. A clip without a language (silence, self-generated) and without a speaker is
    nobody's, and a group of its own.
    """
    if leak_guard == "none":
        return None
    known = clips.speakers if leak_guard == "speaker" else clips.scenes
    nobody = np.where(clips.languages == NO_LANGUAGE, clips.names, "")
    unknown = np.char.add(np.char.add(clips.languages, "/"), nobody)
    group = np.where(known != "", known, np.char.add("/", unknown))
    return np.unique(np.char.add(np.char.add(clips.corpora, "/"), group), return_inverse=True)[1]


def require_clips(
    pools: dict[str, Pool],
    classes: Sequence[str],
    needed: Sequence[int],
    flags: str,
    lacking: int = 0,
) -> None:
    """Checks that tasks can be drawn.

    Args:
        pools: the clips of each class, by language.
        classes: their names.
        needed: clips that a task draws from each class.
        flags: the flags that make up these numbers, for the message.
        lacking: of the first so many classes a language may have no clip at all, if it has two
            others of them, which then lend theirs; see `lenders`.

    Raises:
        UserError: names the class, the language, the clips there are and the clips needed.
    """
    for language, pool in pools.items():
        lent = Counter(lenders(pool, lacking))
        for number, (label, clips, count) in enumerate(zip(classes, pool, needed, strict=True)):
            count *= lent[number]
            if len(clips) < count:
                raise UserError(
                    f"class {label} of language {language} has {len(clips)} clips where a task "
                    f"needs {count}; add clips, lower {flags}, or change --emotions or --fixed"
                )


def lenders(pool: Pool, lacking: int) -> list[int]:
    """The class whose clips a task draws in place of each class's: its own, where it has any.

    Args:
        pool: the clips of each class.
        lacking: the first so many classes may have none, if two of them have; those that have lend
            in turn.
    """
    having = [number for number in range(lacking) if len(pool[number])]
    if len(having) < 2:
        return list(range(len(pool)))
    lending = cycle(having)
    return [
        next(lending) if number < lacking and not len(clips) else number
        for number, clips in enumerate(pool)
    ]


def _shared_parts(clips: Clips, label: str) -> list[Int[np.ndarray, " _"]]:
    indices = np.flatnonzero((clips.languages == NO_LANGUAGE) & (clips.labels == label))
    keys = [_shuffling_key(f"{clips.corpora[i]}/{clips.names[i]}") for i in indices]
    shuffled = indices[np.argsort(keys)]
    return np.split(shuffled, [int(0.6 * len(shuffled)), int(0.8 * len(shuffled))])


def _held_out(
    clips: Clips, usable: Bool[np.ndarray, " clips"], classes: Sequence[str], fraction: float
) -> Bool[np.ndarray, " clips"]:
    """Marks whole speakers until each class of each language has its share of the usable clips.

    One after the other, the speaker that fills most of what is lacking, less what it has too many;
    with all of its languages. Where a speaker is unknown the scene stands for it, and where that is
    unknown the clip.
    """
    known = np.where(clips.speakers != "", clips.speakers, clips.scenes)
    known = np.where(known != "", known, np.char.partition(clips.names, VIEW)[:, 0])
    speaker_of_clip = np.char.add(np.char.add(clips.corpora, "/"), known)
    used = usable & np.isin(clips.labels, classes)
    speakers = np.array(sorted(set(speaker_of_clip[used]), key=_shuffling_key))
    kinds = np.char.add(np.char.add(clips.languages, "/"), clips.labels)[used]
    counts = np.array(
        [
            [np.sum(kinds[speaker_of_clip[used] == speaker] == kind) for kind in np.unique(kinds)]
            for speaker in speakers
        ]
    )
    total = counts.sum(axis=0)
    lacking = np.maximum(fraction * total, np.minimum(2, total)) * bool(fraction)
    chosen = []
    while (lacking > 0).any():
        gain = np.minimum(counts, lacking.clip(0)).sum(axis=1)
        surplus = counts.sum(axis=1) - gain
        best = np.argmax(np.where(gain > 0, gain - surplus, -np.inf))
        chosen.append(speakers[best])
        lacking -= counts[best]
        counts[best] = 0
    return np.isin(speaker_of_clip, chosen)


def _shuffling_key(name: str) -> str:
    """Sorting by this shuffles names, in the same way on every machine."""
    return hashlib.sha256(name.encode()).hexdigest()
