"""Properties of the sampler that every task must have."""

import itertools

import numpy as np
import pytest

from fmaml_jax.data.episodes import TaskShape, sample, validation_tasks

WAYS, FIXED = 3, 2
SHAPE = TaskShape(WAYS, shots=4, query=(5, 5, 5, 3, 2), shuffled=WAYS)
PLAIN = SHAPE._replace(query=(5, 5, 5, 3, 2), fixed_shots=4, shuffled=WAYS + FIXED)


def make_pools():
    """Two languages of five classes; clip = 1000 * language + 100 * class + number."""
    return {
        name: tuple(1000 * i + 100 * c + np.arange(9 + c) for c in range(WAYS + FIXED))
        for i, name in enumerate(("aa", "bb"))
    }


def draw(split="train", step=0, seed=0, tasks=50, shape=SHAPE):
    return sample(make_pools(), shape, seed=seed, split=split, step=step, tasks=range(tasks))


@pytest.fixture(scope="module")
def episodes():
    return draw(tasks=400)


def test_no_clip_twice_in_a_task(episodes):
    for support, query in zip(episodes.support, episodes.query, strict=True):
        clips = np.concatenate([support, query])
        assert len(set(clips.tolist())) == len(clips)


def test_each_task_is_of_one_language(episodes):
    clips = np.concatenate([episodes.support, episodes.query], axis=1)
    languages = clips // 1000
    assert (languages == languages[:, :1]).all()
    assert set(languages[:, 0].tolist()) == {0, 1}


def test_fixed_classes_are_in_every_query_and_never_in_a_support(episodes):
    assert (episodes.support // 100 % 10 < WAYS).all()
    for position in range(WAYS, WAYS + FIXED):
        of_class = episodes.query // 100 % 10 == position
        assert (of_class.sum(axis=1) == SHAPE.query[position]).all()
        assert (episodes.query_labels[of_class] == position).all()


def test_every_class_has_its_number_of_clips(episodes):
    for labels in episodes.support_labels:
        assert np.bincount(labels, minlength=WAYS).tolist() == [SHAPE.shots] * WAYS
    for labels in episodes.query_labels:
        assert np.bincount(labels).tolist() == list(SHAPE.query)


def test_support_and_query_name_a_class_alike(episodes):
    for support, support_labels, query, query_labels in zip(*episodes, strict=True):
        positions = dict(zip((support // 100 % 10).tolist(), support_labels.tolist(), strict=True))
        for clip, label in zip(query, query_labels, strict=True):
            assert positions.get(clip // 100 % 10, clip // 100 % 10) == label


def test_permutation_covers_all_orders_of_emotions(episodes):
    first = episodes.support_labels[:, :: SHAPE.shots]
    orders, counts = np.unique(first, axis=0, return_counts=True)
    assert {tuple(order) for order in orders.tolist()} == set(itertools.permutations(range(WAYS)))
    assert counts.min() > 0.5 * len(first) / len(orders)


def test_a_plain_problem_shuffles_all_classes_and_supports_them():
    episodes = draw(shape=PLAIN, tasks=2000)
    for labels in episodes.support_labels[:50]:
        assert np.bincount(labels).tolist() == [4] * (WAYS + FIXED)
    orders = {tuple(order) for order in episodes.support_labels[:, ::4].tolist()}
    assert orders == set(itertools.permutations(range(WAYS + FIXED)))
    for support, support_labels, query, query_labels in zip(*episodes, strict=True):
        assert not set(support.tolist()) & set(query.tolist())
        positions = dict(zip((support // 100 % 10).tolist(), support_labels.tolist(), strict=True))
        assert [positions[c] for c in (query // 100 % 10).tolist()] == query_labels.tolist()


def test_no_shuffling_keeps_the_meaning_of_positions():
    episodes = draw(shape=SHAPE._replace(shuffled=0))
    assert (episodes.support_labels == episodes.support // 100 % 10).all()
    assert (episodes.query_labels == episodes.query // 100 % 10).all()


def test_an_emotion_without_clips_has_its_places_filled_by_the_others():
    pool = (np.arange(20), np.arange(0), np.arange(20, 44), np.arange(50, 60))
    shape = TaskShape(3, shots=4, query=(3, 3, 3, 3), shuffled=3)
    drawn = sample({"a": pool}, shape, seed=0, split="train", step=0, tasks=range(40))
    for support, labels, query, query_labels in zip(*drawn, strict=True):
        clips = np.concatenate([support, query])
        assert len(set(clips.tolist())) == len(clips) == 24
        for position in set(labels.tolist()):
            own = np.concatenate([support[labels == position], query[query_labels == position]])
            assert len(set((own < 20).tolist())) == 1  # of one emotion
        kinds = [(labels == position).sum() for position in range(3)]
        assert sorted(kinds) == [0, 4, 8]
        assert sorted((query_labels == position).sum() for position in range(4)) == [0, 3, 3, 6]
        assert (query_labels[query >= 50] == 3).all()
    # Whatever place is empty is that of the emotion that is lacking.
    assert {int(np.setdiff1d(np.arange(3), labels)[0]) for labels in drawn.support_labels} == {
        0,
        1,
        2,
    }


def test_problems_and_shots_are_compared_on_the_same_clips():
    ours = draw(split="test")
    plain = draw(split="test", shape=PLAIN)
    fewer = draw(split="test", shape=SHAPE._replace(shots=2))
    np.testing.assert_equal(plain.query, ours.query)
    np.testing.assert_equal(plain.support[:, : ours.support.shape[1]], ours.support)
    np.testing.assert_equal(fewer.query, ours.query)
    by_class = ours.support.reshape(len(ours.support), WAYS, 4)
    np.testing.assert_equal(fewer.support.reshape(-1, WAYS, 2), by_class[:, :, :2])


def test_without_a_guard_the_first_clips_are_support_and_the_last_query():
    """The draw, step by step: recorded results stay what they are."""
    episodes = draw(split="test", tasks=5)
    for task in range(5):
        rng = np.random.default_rng((0, 2, 0, task))
        pool = make_pools()[rng.choice(["aa", "bb"])]
        clips = [rng.permutation(of_class).tolist() for of_class in pool]
        support = [clip for of_class in clips[:WAYS] for clip in of_class[: SHAPE.shots]]
        query = [c for drawn, n in zip(clips, SHAPE.query, strict=True) for c in drawn[-n:]]
        assert episodes.support[task].tolist() == support
        assert episodes.query[task].tolist() == query


@pytest.mark.parametrize("split", ["val", "test"])
def test_evaluation_keeps_the_order_of_the_classes(split):
    episodes = draw(split=split)
    assert (episodes.query_labels == episodes.query // 100 % 10).all()


def test_all_clips_are_drawn(episodes):
    drawn = set(np.concatenate([episodes.support, episodes.query], axis=1).ravel().tolist())
    assert drawn == {int(c) for pool in make_pools().values() for clips in pool for c in clips}


def test_episodes_follow_from_seed_split_step_and_task_alone():
    reference = draw(step=7)
    np.testing.assert_equal(draw(step=7), reference)
    for other in (draw(step=8), draw(step=7, seed=1), draw(step=7, split="test")):
        assert (other.query != reference.query).any()
    # A task does not depend on which others are sampled with it, as on many hosts.
    alone = sample(make_pools(), SHAPE, seed=0, split="train", step=7, tasks=[3, 1])
    np.testing.assert_equal(alone.query, reference.query[[3, 1]])


def test_validation_takes_what_the_held_out_clips_allow():
    pools = {
        "rich": tuple(np.arange(50) for _ in range(5)),
        "poor": (np.arange(7), np.arange(9), np.arange(20), np.arange(3), np.arange(20)),
        "none": (np.arange(1), np.arange(9), np.arange(20), np.arange(3), np.arange(20)),
    }
    serving, shape = validation_tasks(pools, TaskShape(3, 5, (5,) * 5))
    assert set(serving) == {"rich", "poor"}
    assert shape == TaskShape(3, 4, (3, 3, 3, 3, 3))  # 7 clips: 3 queries, 4 shots
    plain = validation_tasks(pools, TaskShape(3, 5, (5,) * 5, fixed_shots=5))
    # Three neutral clips of the poor language: one query, two shots of every class.
    assert plain[1] == TaskShape(3, 2, (1,) * 5, fixed_shots=2)
    assert validation_tasks({"none": pools["none"]}, shape)[0] == {}
    only_rich = validation_tasks({"rich": pools["rich"]}, TaskShape(3, 5, (5,) * 5))[1]
    assert only_rich == TaskShape(3, 5, (5,) * 5)
    for clips, shots in itertools.product(range(2, 14), (1, 5, 8)):
        _, shape = validation_tasks({"aa": (np.arange(clips),) * 2}, TaskShape(2, shots, (4, 4)))
        query = min(4, clips // 2)
        assert shape == TaskShape(2, min(shots, clips - query), (query, query))
