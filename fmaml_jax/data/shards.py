"""A corpus prepared in parts: NAME-00000-of-00012.npz and so on, joined when they are read.

Shards hold consecutive clips in the order of their names. Copies of one sound may lie in different
shards, so that none drops any: that is done where the whole corpus is known, here in `join`.
"""

import collections
import glob
import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fmaml_jax.common.errors import UserError
from fmaml_jax.data.dataset import CLIP_FIELDS, Dataset, Shard, load

_NUMBER = re.compile(r"-\d{5,}-of-(?=\d{5,}\.npz$)")


class Skipped(NamedTuple):
    """A file that is no clip of the corpus, and why."""

    file: str
    reason: str


def shard_path(out: Path, index: int, count: int) -> Path:
    """data/nemo.npz -> data/nemo-00003-of-00012.npz."""
    return out.with_name(f"{out.stem}-{index:05d}-of-{count:05d}.npz")


def load_corpora(data: Sequence[str]) -> dict[str, Dataset]:
    """Reads prepared corpora, each whole: shards of one corpus are joined.

    Args:
        data: names of .npz files, or patterns such as data/nemo-*.npz.

    Returns:
        Each corpus by its file, or by the pattern of its shards, in the order of `data`.

    Raises:
        UserError: a pattern matches nothing, a file is named twice or cannot be used (see
            `dataset.load`), or a shard is missing.
    """
    corpora = collections.defaultdict(dict)
    for path in expand(data):
        dataset = load(path)
        shard = dataset.shard
        corpora[(shard.source, shard.total) if shard else path][path] = dataset
    whole = {}
    while corpora:  # shards are let go one corpus at a time, so that few are there twice
        files = corpora.pop(next(iter(corpora)))
        path, dataset = next(iter(files.items()))
        if dataset.shard:
            path, dataset = _NUMBER.sub("-*-of-", path), join(files)[0]
        whole[path] = dataset
    return whole


def join(shards: Mapping[str, Dataset]) -> tuple[Dataset, list[Skipped]]:
    """Joins the shards of one corpus, by file name, into what preparing it at once gives.

    Returns:
        The corpus, and the clips that were dropped as copies.

    Raises:
        UserError: a shard is missing or there twice, or they are not of one corpus and flags.
    """
    described: dict[str, Shard] = {}
    for path, dataset in shards.items():
        if dataset.shard is None:
            raise UserError(f"{path} is not a shard; name only files like NAME-00000-of-00012.npz")
        described[path] = dataset.shard
    path, first = next(iter(described.items()))
    found: dict[int, str] = {}
    for other, shard in described.items():
        if (shard.total, shard.source) != (first.total, first.source):
            raise UserError(
                f"{other} and {path} are shards of different corpora or flags; name the shards of "
                "one, or prepare again with the same flags"
            )
        if shard.number in found:
            raise UserError(
                f"{other} and {found[shard.number]} are the same shard; remove one of them"
            )
        found[shard.number] = other
    if missing := sorted(set(range(first.total)) - found.keys()):
        raise UserError(
            f"shard {', '.join(map(str, missing))} of {first.total} is missing beside "
            f"{path}; prepare again with the same flags, which makes what is missing"
        )
    parts = [shards[found[index]] for index in range(first.total)]
    joined = shards[path]._replace(
        shard=None,
        **{
            field: np.concatenate([getattr(part, field) for part in parts])
            for field in ("features", *CLIP_FIELDS, "seconds")
        },
    )
    return drop_copies(joined, joined.names.tolist())


def drop_copies(dataset: Dataset, files: Sequence[str]) -> tuple[Dataset, list[Skipped]]:
    """Makes sure that no sound occurs twice, so that support and query never share one.

    Args:
        dataset: a whole corpus. Clips are copies where their features are equal in every bit.
        files: what each clip is called in the reasons.

    Returns:
        The clips to keep, and the others: of copies with one label the first is kept, of copies
        with different labels none.
    """
    groups = collections.defaultdict(list)
    for index, features in enumerate(dataset.features):
        groups[hashlib.sha256(features.tobytes()).digest()].append(index)
    kept, skipped = [], []
    for indices in groups.values():
        first, *others = indices
        if any(dataset.labels[other] != dataset.labels[first] for other in others):
            labels = ", ".join(f"{files[index]} is {dataset.labels[index]}" for index in indices)
            reason = f"the same sound has different labels: {labels}"
            skipped += [Skipped(str(files[index]), reason) for index in indices]
        else:
            kept.append(first)
            reason = f"the same sound as {files[first]}, which is kept"
            skipped += [Skipped(str(files[index]), reason) for index in others]
    if skipped:
        dataset = dataset._replace(
            features=dataset.features[kept],
            seconds=dataset.seconds[kept],
            **{field: getattr(dataset, field)[kept] for field in CLIP_FIELDS},
        )
    # As wide as the longest string, whatever was dropped: the same clips give the same bytes.
    narrow = {field: np.array(getattr(dataset, field).tolist(), np.str_) for field in CLIP_FIELDS}
    return dataset._replace(**narrow), skipped


def expand(data: Sequence[str]) -> list[str]:
    """File names of names and patterns, the matches of each pattern sorted.

    Raises:
        UserError: a pattern matches nothing, or a file is named twice.
    """
    paths: list[str] = []
    for entry in data:
        is_pattern = glob.escape(entry) != entry and not os.path.exists(entry)
        found = sorted(glob.glob(entry)) if is_pattern else [entry]
        if not found:
            raise UserError(
                f"{entry} matches no file; check the pattern, or make the files with "
                "`python -m data_prep.prepare`"
            )
        if repeated := sorted(set(found) & set(paths)):
            raise UserError(f"{entry} names {repeated[0]} a second time; name each file once")
        paths += found
    return paths
