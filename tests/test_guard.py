"""The leak guard: support and query share no group; the references try all divisions."""

import csv
import itertools
import re
from pathlib import Path

import numpy as np
import pytest

from data_prep.corpora import list_clips
from fmaml_jax.common.errors import UserError
from fmaml_jax.data.episodes import TaskShape, fits, require_division, sample, validation_tasks
from fmaml_jax.data.guard import SHARED_SHOTS, count_groups, divide
from fmaml_jax.data.split import Clips, leak_groups, load_clips, split_clips
from tests.corpus import EMOTIONS, FIXED, save_corpora

pytestmark = pytest.mark.slow

LABEL_LIST = (
    Path(__file__).resolve().parents[2] / "shared" / "emofilm_labels" / "EmoFilm_labels_v2.csv"
)
FILM_EMOTIONS = ("anger", "disgust", "fear", "happiness", "sadness")


def all_divisions(counts, query, support):
    """Every query side that serves, by trying all."""
    sides = np.array(list(itertools.product((False, True), repeat=len(counts))))
    held = sides @ counts
    return sides[((held >= query) & (counts.sum(axis=0) - held >= support)).all(axis=1)]


def random_problem(seed, classes=3):
    """A pool whose clips belong to a few groups, and the group of every clip."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(8, 20, classes)
    groups = rng.integers(0, rng.integers(3, 9), sizes.sum())
    pool = tuple(np.split(rng.permutation(sizes.sum()), np.cumsum(sizes)[:-1]))
    return pool, groups


@pytest.mark.parametrize("seed", range(40))
def test_division_is_found_where_there_is_one_and_is_the_preferred(seed):
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 6, (rng.integers(2, 9), 3))
    preference = rng.standard_normal(len(counts))
    query = rng.integers(1, 5, 3)
    for shots in range(12):
        serving = all_divisions(counts, query, (shots,) * 3)
        found = divide(counts, query, (shots,) * 3, preference)
        assert (
            (divide(counts, query, (shots,) * 3) is None) == (found is None) == (not len(serving))
        )
        if found is not None:
            assert (serving == found).all(axis=1).any()
            assert preference @ found == pytest.approx((serving @ preference).max())


def draw(pool, groups, shape, tasks=8):
    return sample(
        {"aa": pool}, shape, seed=1, split="test", step=0, tasks=range(tasks), groups=groups
    )


def assert_apart(episodes, shape, pool, groups):
    """Clips are of their classes, as many as asked, none twice; no group is on two sides."""
    class_of = {int(clip): label for label, clips in enumerate(pool) for clip in clips}
    for support, support_labels, query, query_labels in zip(*episodes, strict=True):
        assert [class_of[clip] for clip in support.tolist()] == support_labels.tolist()
        assert [class_of[clip] for clip in query.tolist()] == query_labels.tolist()
        assert np.bincount(support_labels, minlength=len(pool)).tolist() == list(shape.support)
        assert np.bincount(query_labels, minlength=len(pool)).tolist() == list(shape.query)
        assert len({*support.tolist(), *query.tolist()}) == len(support) + len(query)
        assert not set(groups[support]) & set(groups[query])


@pytest.mark.parametrize("seed", range(8))
def test_check_and_sampler_agree_and_shots_and_problems_share_queries(seed):
    """Any K of both problems: what passes the check is drawn, what it refuses is not there."""
    pool, groups = random_problem(seed)
    _, counts = count_groups(pool, groups)
    query = (3, 2, 4)
    drawn = {}
    for fixed_shots, shots in itertools.product((0, 1), range(1, 14)):
        shape = TaskShape(2, shots, query, fixed_shots=fixed_shots * shots)
        possible = len(all_divisions(counts, query, shape.support))
        if not possible:
            best = max((k for plain, k in drawn if plain == fixed_shots), default=0)
            with pytest.raises(UserError, match=f"no more than {best} support clips") as error:
                require_division({"aa": pool}, "xyz", shape, groups, "speaker")
            label = "xyz".index(re.match(r"class (\w) of language aa", str(error.value))[1])
            assert f"has {len(pool[label])} clips in {np.sum(counts[:, label] > 0)} speaker" in str(
                error.value
            )
            continue
        require_division({"aa": pool}, "xyz", shape, groups, "speaker")
        episodes = draw(pool, groups, shape)
        assert_apart(episodes, shape, pool, groups)
        drawn[fixed_shots, shots] = episodes

    # ---- plain problems exist for the fewer K; up to the largest of them all queries are the same
    assert drawn
    common = [key for key in drawn if (1, key[1]) in drawn]
    for plain, shots in common:
        np.testing.assert_equal(drawn[plain, shots].query, drawn[common[0]].query)
        emotions = drawn[plain, shots].support[:, : 2 * shots].reshape(-1, 2, shots)
        most = max(k for _, k in common)
        more = drawn[0, most].support.reshape(-1, 2, most)
        np.testing.assert_equal(emotions, more[:, :, :shots])


def test_a_scarce_fixed_class_takes_no_shots_from_the_emotions():
    """Two neutral clips of one speaker: no plain problem, but one query for every K of the rule."""
    groups = np.repeat(np.arange(6), 8)
    pool = (np.arange(0, 48, 2), np.arange(1, 48, 2)[2:], np.arange(1, 48, 2)[:2])
    assert not fits(pool, TaskShape(2, 1, (4, 4, 1), fixed_shots=1), groups)
    queries = [draw(pool, groups, TaskShape(2, k, (4, 4, 1))).query for k in (1, 5, 16)]
    np.testing.assert_equal(queries[1:], queries[:-1])


def test_shots_above_the_papers_get_what_there_is():
    groups = np.repeat(np.arange(10), 10)
    pool = (np.arange(0, 100, 2), np.arange(1, 100, 2))
    shape = TaskShape(2, SHARED_SHOTS + 20, (10, 10))
    require_division({"aa": pool}, "xy", shape, groups, "speaker")
    assert_apart(draw(pool, groups, shape), shape, pool, groups)
    with pytest.raises(UserError, match="no more than 40 support clips"):
        require_division({"aa": pool}, "xy", shape.with_shots(41), groups, "speaker")


def test_all_divisions_are_drawn():
    groups = np.repeat(np.arange(6), 28)
    pool = (np.arange(0, 168, 2), np.arange(1, 168, 2))  # 14 clips of each of six speakers
    episodes = draw(pool, groups, TaskShape(2, 5, (25, 25)), tasks=400)
    # 25 queries need two speakers, and `SHARED_SHOTS` support clips two others.
    speakers = {frozenset(groups[query].tolist()) for query in episodes.query}
    assert {s for s in speakers if len(s) == 2} == {
        frozenset(pair) for pair in itertools.combinations(range(6), 2)
    }
    assert {len(s) for s in speakers} == {2, 3, 4}
    drawn = {*episodes.support.ravel().tolist(), *episodes.query.ravel().tolist()}
    assert drawn == set(range(168))


def test_validation_takes_the_largest_task_that_held_out_groups_allow():
    for seed in range(8):
        pool, groups = random_problem(seed)
        _, counts = count_groups(pool, groups)
        serving, shape = validation_tasks({"aa": pool}, TaskShape(2, 5, (6, 6, 6)), groups)
        possible = [
            q for q in range(1, 7) if len(all_divisions(counts, (q, q, q), (min(q, 5),) * 2 + (0,)))
        ]
        assert bool(serving) == bool(possible)
        if serving:
            assert shape.query[:2] == (max(possible),) * 2
            bound = [k for k in range(1, 6) if len(all_divisions(counts, shape.query, (k, k, 0)))]
            assert shape.shots == max(bound)
            assert_apart(draw(pool, groups, shape), shape, pool, groups)
    one_speaker = np.zeros(30, int)
    pools = {"aa": (np.arange(15), np.arange(15, 30))}
    assert validation_tasks(pools, TaskShape(2, 1, (1, 1)), one_speaker)[0] == {}


# ---- groups of clips


def make_clips(rows):
    """Clips from (corpus, language, speaker, scene)."""
    corpora, languages, speakers, scenes = (np.array(column) for column in zip(*rows, strict=True))
    names = np.array([f"clip{i}" for i in range(len(rows))])
    labels = np.repeat("joy", len(rows))
    features = np.zeros((len(rows), 1, 1), np.float32)
    return Clips(features, labels, languages, speakers, scenes, names, corpora, {}, {})


def test_groups_are_speakers_or_scenes_of_a_corpus():
    clips = make_clips(
        [
            ("one", "aa", "s1", "x"),
            ("one", "bb", "s1", "x"),  # a speaker of two languages; a dubbed scene
            ("one", "aa", "s2", "x"),
            ("two", "aa", "s1", "y"),  # another corpus has another s1
            ("one", "aa", "", ""),
            ("one", "aa", "", ""),  # may be the same speaker
            ("one", "bb", "", ""),
            ("silence", "zxx", "", ""),
            ("silence", "zxx", "", ""),  # nobody's
        ]
    )
    assert leak_groups(clips, "none") is None
    for guard, expected in (("speaker", "aabcddefg"), ("scene", "aaabddefg")):
        groups = leak_groups(clips, guard)
        same = np.array(list(expected))[:, None] == np.array(list(expected))
        np.testing.assert_array_equal(groups[:, None] == groups, same)


def deal(clips, guard, target="cc", **change):
    settings = {"emotions": EMOTIONS, "fixed": FIXED, "val_fraction": 0.2} | change
    return split_clips(clips, target=target, leak_guard=guard, **settings)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return load_clips(save_corpora(tmp_path_factory.mktemp("corpora")))


def test_silence_blocks_nothing_and_unknown_speakers_do(clips):
    shape = TaskShape(3, 5, (5,) * 5, fixed_shots=5)
    split = deal(clips, "speaker")
    require_division(split.test, (*EMOTIONS, *FIXED), shape, split.groups, "speaker")
    assert_apart(
        sample(split.test, shape, seed=0, split="test", step=0, tasks=[0], groups=split.groups),
        shape,
        split.test["cc"],
        split.groups,
    )
    anonymous = clips._replace(speakers=np.full(len(clips.names), ""))
    split = deal(anonymous, "speaker")
    with pytest.raises(UserError, match="anger of language cc has 24 clips in 1 speaker groups"):
        require_division(split.test, (*EMOTIONS, *FIXED), shape, split.groups, "speaker")


def test_only_twins_of_the_target_leave_the_sources(clips):
    for one, other in zip(deal(clips, "none")[:3], deal(clips, "speaker")[:3], strict=True):
        np.testing.assert_equal(one, other)
    # The corpora become one; in each language, each fourth clip has a scene of its number.
    number = np.array([int(name[-3:]) for name in clips.names])
    scenes = np.where(number % 4 == 0, clips.names, np.char.add(clips.names, clips.languages))
    dubbed = clips._replace(
        scenes=scenes, corpora=np.where(clips.languages == "zxx", "silence", "films")
    )
    split = deal(dubbed, "scene")
    used = np.concatenate([c for part in split[:2] for pool in part.values() for c in pool[:4]])
    assert set(used) == set(
        np.flatnonzero((number % 4 > 0) & np.isin(clips.languages, ["aa", "bb"]))
    )


# ---- EmoFilm: the published names, without audio


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    if not LABEL_LIST.exists():
        pytest.skip(f"{LABEL_LIST} is not there")
    folder = tmp_path_factory.mktemp("emofilm")
    (folder / LABEL_LIST.name).write_bytes(LABEL_LIST.read_bytes())
    with LABEL_LIST.open(encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file):
            (folder / row["file"]).touch()
    listed = list_clips("emofilm", folder).clips
    fields = ("label", "language", "speaker", "scene", "file")
    labels, languages, speakers, scenes, names = (
        np.array([getattr(clip, field) for clip in listed]) for field in fields
    )
    features = np.zeros((len(listed), 1, 1), np.float32)
    corpora = np.repeat("emofilm", len(listed))
    return Clips(features, labels, languages, speakers, scenes, names, corpora, {}, {})


@pytest.mark.parametrize("target", ["en", "it", "es"])
def test_dubbed_twins_of_emofilm_are_left_out(films, target):
    split = deal(films, "scene", target, emotions=FILM_EMOTIONS, fixed=())
    with LABEL_LIST.open(encoding="utf-8-sig", newline="") as file:
        # f_ans001a: the number is the scene's, unless the list names two films.
        scene_of = {row["file"]: (row["file"][:8], row["film"]) for row in csv.DictReader(file)}
    target_scenes = {scene_of[name] for name in films.names[films.languages == target]}
    expected = {
        name
        for name, language in zip(films.names, films.languages, strict=True)
        if language != target and scene_of[name] not in target_scenes
    }
    used = np.concatenate([c for part in split[:2] for pool in part.values() for c in pool])
    assert set(films.names[used]) == expected
    assert len(expected) < 0.4 * np.sum(films.languages != target)


@pytest.mark.parametrize("guard", ["speaker", "scene"])
@pytest.mark.parametrize(("target", "best"), [("en", 25), ("it", 43), ("es", 25)])
def test_emofilm_gives_the_papers_tests_under_either_guard(films, guard, target, best):
    """25 queries a class: disgust has 50, 68 and 50 clips, and the guards cost none of them."""
    split = deal(films, guard, target, emotions=FILM_EMOTIONS, fixed=())
    pool, [key] = split.test[target], split.test
    field = films.speakers if guard == "speaker" else films.scenes
    queries = []
    for shots in (5, 20, best):
        shape = TaskShape(5, shots, (25,) * 5)
        require_division(split.test, FILM_EMOTIONS, shape, split.groups, guard)
        episodes = sample(
            {key: pool}, shape, seed=0, split="test", step=0, tasks=range(5), groups=split.groups
        )
        assert_apart(episodes, shape, pool, split.groups)
        for support, query in zip(episodes.support, episodes.query, strict=True):
            assert not (set(field[support]) & set(field[query])) - {""}
        queries.append(episodes.query)
    np.testing.assert_equal(queries[0], queries[1])
    message = (
        f"class disgust of language {target} .* no more than {best} support .* --shots to {best} "
    )
    with pytest.raises(UserError, match=message):
        require_division(split.test, FILM_EMOTIONS, shape.with_shots(best + 1), split.groups, guard)
