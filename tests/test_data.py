"""The split of clips into training, validation and test keeps the protocol's rules."""

import itertools
import re

import numpy as np
import pytest

from fmaml_jax.common.errors import UserError
from fmaml_jax.data import scale as scale_module
from fmaml_jax.data.dataset import Shard, load, save
from fmaml_jax.data.scale import domain_scale, scaled, standard_scale, whitening_scale
from fmaml_jax.data.sexes import sex_of
from fmaml_jax.data.split import (
    Clips,
    Split,
    lenders,
    load_clips,
    require_clips,
    split_clips,
)
from tests.corpus import EMOTIONS, FIXED, make_corpus, save_corpora


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return save_corpora(tmp_path_factory.mktemp("corpora"))


@pytest.fixture(scope="module")
def clips(paths):
    return load_clips(paths)


def deal(clips, target="cc", fixed=FIXED, val_fraction=0.2, **changes):
    return split_clips(
        clips, target=target, emotions=EMOTIONS, fixed=fixed, val_fraction=val_fraction, **changes
    )


def clips_in(part):
    """All clips of a part's pools."""
    return np.unique(np.concatenate([np.concatenate(pool) for pool in part.values()]))


def test_all_clips_are_joined(clips, paths):
    assert len(clips.features) == 3 * 4 * 24 + 60 == len(clips.names)
    assert set(clips.corpora) == {"corpus_aa", "corpus_bb", "corpus_cc", "corpus_zxx"}
    assert list(clips.hashes) == list(paths)


@pytest.mark.parametrize("speakers", ["known", "unknown"])
def test_views_are_in_training_alone_and_on_one_side_with_their_clip(clips, speakers):
    if speakers == "unknown":
        nobody = np.full_like(clips.speakers, "")
        clips = clips._replace(speakers=nobody, scenes=nobody)
    spoken = np.flatnonzero(clips.languages != "zxx")
    views = {
        field: np.concatenate([own := getattr(clips, field), own[spoken]])
        for field in ("labels", "languages", "speakers", "scenes", "corpora")
    }
    names = np.concatenate([clips.names, np.char.add(clips.names[spoken], "#view1")])
    both = deal(clips._replace(names=names, **views))
    alone = deal(clips)
    np.testing.assert_array_equal(clips_in(both.val), clips_in(alone.val))
    np.testing.assert_array_equal(clips_in(both.test), clips_in(alone.test))
    trained = clips_in(both.train)
    np.testing.assert_array_equal(trained[trained < len(clips.names)], clips_in(alone.train))
    of_views = set(np.char.partition(names[trained[trained >= len(clips.names)]], "#")[:, 0])
    assert of_views == set(np.intersect1d(clips.names[spoken], clips.names[clips_in(alone.train)]))


def test_target_is_in_the_test_alone(clips):
    split = deal(clips)
    assert set(split.train) == set(split.val) == {"aa", "bb"}
    assert set(split.test) == {"cc"}
    for part in (split.train, split.val):
        used = np.concatenate([np.concatenate(pool) for pool in part.values()])
        assert "cc" not in clips.languages[used]


def test_without_a_target_all_languages_are_trained_on_and_nothing_is_tested(clips, many):
    split = deal(clips, target=None)
    assert not split.test
    assert set(split.train) == set(split.val) == {"aa", "bb", "cc"}
    whole = deal(many, target=None, val_fraction=0, task_domain="corpus").train
    assert {name.split("/")[1] for name in whole} == {"one", "two", "three", "four", "five"}


def test_no_clip_is_in_two_parts(clips):
    split = deal(clips)
    parts = [
        set(np.concatenate([np.concatenate(pool) for pool in part.values()]).tolist())
        for part in (split.train, split.val, split.test)
    ]
    for left, right in itertools.combinations(parts, 2):
        assert not left & right


def test_validation_holds_out_whole_speakers_of_every_class(clips):
    split = deal(clips, val_fraction=0.3)
    for language in ("aa", "bb"):
        train, val = (
            np.concatenate(part[language][: len(EMOTIONS) + 1]) for part in (split.train, split.val)
        )
        assert not set(clips.speakers[train]) & set(clips.speakers[val])
        for kept, held_out in zip(split.train[language], split.val[language], strict=True):
            if clips.languages[held_out[0]] == language:
                assert len(held_out) >= 0.3 * (len(kept) + len(held_out))


def test_speaker_of_two_languages_is_held_out_in_both_or_neither(clips):
    # Corpora aa and bb become one, whose speakers s0..s5 speak both languages.
    bilingual = clips._replace(corpora=np.where(clips.languages == "zxx", "silence", "both"))
    split = deal(bilingual)
    speakers = {
        part: set(clips.speakers[np.concatenate([c for p in pools.values() for c in p[:4]])])
        for part, pools in (("train", split.train), ("val", split.val))
    }
    assert len(speakers["train"] | speakers["val"]) == 6
    assert not speakers["train"] & speakers["val"]


def test_where_no_speaker_is_known_scenes_stay_together(clips):
    scenes = np.array([f"scene{int(name[-3:]) % 8}" for name in clips.names])
    anonymous = clips._replace(speakers=np.full(len(scenes), ""), scenes=scenes)
    split = deal(anonymous)
    for language in ("aa", "bb"):
        train, val = (np.concatenate(part[language][:4]) for part in (split.train, split.val))
        assert len(train)
        assert len(val)
        assert not set(scenes[train]) & set(scenes[val])


def test_hold_out_overshoots_by_less_than_a_speaker(clips):
    # Six speakers of four clips a class: a fifth is 4.8 clips, so two speakers, 8 clips.
    for pool in deal(clips, val_fraction=0.2).val.values():
        assert [len(members) for members in pool[:4]] == [8, 8, 8, 8]


def test_pools_are_in_the_order_of_the_classes(clips):
    split = deal(clips)
    for part in (split.train, split.val, split.test):
        for pool in part.values():
            for label, members in zip((*EMOTIONS, *FIXED), pool, strict=True):
                assert set(clips.labels[members]) == {label}


def test_fixed_class_is_the_languages_own_where_recorded(clips):
    split = deal(clips)
    for language in ("aa", "bb"):
        assert set(clips.languages[split.train[language][3]]) == {language}
        assert set(clips.languages[split.train[language][4]]) == {"zxx"}
    assert set(clips.languages[split.test["cc"][3]]) == {"cc"}


def test_split_follows_from_the_data_alone(clips):
    np.testing.assert_equal(deal(clips), deal(clips))
    backwards = type(clips)(
        *(field[::-1] if isinstance(field, np.ndarray) else field for field in clips)
    )
    for one, other in zip(deal(clips)[:3], deal(backwards)[:3], strict=True):
        for language in one:
            for mine, theirs in zip(one[language], other[language], strict=True):
                assert set(clips.names[mine]) == set(backwards.names[theirs])


def test_scale_standardises_the_training_clips(clips):
    split = deal(clips)
    standardised = scaled(clips.features, standard_scale(clips.features, split))
    used = standardised[clips_in(split.train)]
    np.testing.assert_allclose(used.mean((0, 1)), 0, atol=1e-4)
    np.testing.assert_allclose(used.std((0, 1)), 1, atol=1e-4)
    # Each coefficient by itself: a coefficient is that of before, moved and stretched.
    for before, after in zip(
        clips.features.reshape(-1, 4).T, standardised.reshape(-1, 4).T, strict=True
    ):
        assert np.corrcoef(before, after)[0, 1] > 1 - 1e-5


# ---- whitening


def one_frame_clips(domains=2, ways=3, clips=400, coefficients=5, seed=0):
    """Vectors of classes, of a covariance of their own and silence far off, and their split."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(coefficients, coefficients)) * [1, 2, 5, 0.1, 30]
    features, pools, start = [], {}, 0
    for domain in range(domains):
        means = rng.normal(0, 50, (ways, coefficients))
        features += [rng.normal(size=(clips, coefficients)) @ mixing + mean for mean in means]
        pools[f"d{domain}"] = tuple(
            np.arange(start + i * clips, start + (i + 1) * clips) for i in range(ways)
        )
        start += ways * clips
    features.append(rng.normal(1000, 100, (50, coefficients)))
    pools = {name: (*pool, np.arange(start, start + 50)) for name, pool in pools.items()}
    return np.concatenate(features).astype(np.float32)[:, None], Split(pools, {}, {})


def within_classes(features, split, ways=3):
    """Differences from the mean of a class and domain, by their definition."""
    return np.concatenate(
        [
            features[clips, 0] - features[clips, 0].mean(axis=0)
            for pool in split.train.values()
            for clips in pool[:ways]
        ]
    )


def test_unshrunk_whitening_makes_the_covariance_within_classes_the_identity(monkeypatch):
    monkeypatch.setattr(scale_module, "SHRINKAGE", 0.0)
    features, split = one_frame_clips()
    whitened = scaled(features, whitening_scale(features, split, 3))
    rest = within_classes(whitened, split)
    np.testing.assert_allclose(rest.T @ rest / len(rest), np.eye(5), atol=2e-3)
    # Centred on the mean of the classes' means.
    means = [whitened[clips, 0].mean(axis=0) for pool in split.train.values() for clips in pool[:3]]
    np.testing.assert_allclose(np.mean(means, axis=0), 0, atol=1e-2)


def test_unshrunk_whitening_does_not_depend_on_the_coordinates(monkeypatch):
    """Distances of clips are the same for any affine recoding of their features."""
    monkeypatch.setattr(scale_module, "SHRINKAGE", 0.0)
    features, split = one_frame_clips()
    rng = np.random.default_rng(3)
    recoded = (features @ rng.normal(size=(5, 5)) + rng.normal(size=5)).astype(np.float32)

    def distances(features):
        whitened = scaled(features, whitening_scale(features, split, 3))[::97, 0]
        return np.linalg.norm(whitened[:, None] - whitened, axis=-1)

    np.testing.assert_allclose(distances(recoded), distances(features), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("shrinkage", [0.0, 0.3, 0.7, 1.0])
def test_whitened_clips_differ_by_one_whatever_the_shrinkage(shrinkage, monkeypatch):
    monkeypatch.setattr(scale_module, "SHRINKAGE", shrinkage)
    features, split = one_frame_clips(clips=20)
    rest = within_classes(scaled(features, whitening_scale(features, split, 3)), split)
    np.testing.assert_allclose(np.mean(rest**2), 1, rtol=1e-3)


def test_wholly_shrunk_whitening_scales_each_coefficient_by_its_deviation(monkeypatch):
    monkeypatch.setattr(scale_module, "SHRINKAGE", 1.0)
    features, split = one_frame_clips(clips=30)
    matrix = whitening_scale(features, split, 3).matrix
    deviation = within_classes(features.astype(np.float64), split).std(axis=0)
    np.testing.assert_allclose(matrix, np.diag(1 / deviation), rtol=1e-4, atol=1e-7)


def test_whitening_is_of_the_emotions_of_the_training_clips_alone():
    features, split = one_frame_clips(clips=30)
    used = np.concatenate([np.concatenate(pool[:3]) for pool in split.train.values()])
    others = np.setdiff1d(np.arange(len(features)), used)
    changed = features.copy()
    changed[others] *= 7
    for one, other in zip(
        whitening_scale(features, split, 3), whitening_scale(changed, split, 3), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_a_source_without_an_emotion_is_whitened_by_the_others():
    features, split = one_frame_clips(clips=30)
    none = np.array([], int)
    lacking = {"d0": split.train["d0"], "d1": (none, *split.train["d1"][1:])}
    scale = whitening_scale(features, split._replace(train=lacking), 3)
    assert np.isfinite(scale.mean).all()
    assert np.isfinite(scale.matrix).all()


# ---- scale by domains


def test_clips_of_a_domain_differ_by_one_and_the_metric_is_the_inverse_of_their_spread():
    features, split = one_frame_clips()
    scale = domain_scale(features, split, 3)
    inputs = scaled(features, scale)
    spoken = [inputs[np.concatenate(pool[:3]), 0] for pool in split.train.values()]
    np.testing.assert_allclose(
        np.mean([clips.std(axis=0) for clips in spoken], axis=0), 1, rtol=1e-3
    )
    np.testing.assert_allclose(
        np.mean([clips.mean(axis=0) for clips in spoken], axis=0), 0, atol=1e-3
    )
    rest = np.concatenate([(clips - clips.mean(axis=0)) / clips.std(axis=0) for clips in spoken])
    inverse = np.linalg.inv(np.eye(5) + scale_module.DAMPING * np.cov(rest.T, bias=True))
    np.testing.assert_allclose(np.eye(5) - scale.axes @ scale.axes.T, inverse, atol=1e-4)


def test_the_metric_knows_the_directions_in_which_clips_differ_most(monkeypatch):
    features, split = one_frame_clips()
    whole = domain_scale(features, split, 3).axes
    monkeypatch.setattr(scale_module, "AXES", 2)
    axes = domain_scale(features, split, 3).axes
    np.testing.assert_allclose(np.abs(axes), np.abs(whole[:, -2:]), atol=1e-5)
    assert np.linalg.norm(axes[:, 0]) > np.linalg.norm(whole[:, 0])


# ---- corpora as domains and as targets


@pytest.fixture(scope="module")
def many():
    """Clips of six corpora, four of each class, by four speakers; silence for all.

    Languages aa (one, two, plain: neutral alone), bb (three) and cc (four, five). Corpora two and
    five lack neutral.
    """
    rows = []
    for corpus, language, labels in (
        ("one", "aa", (*EMOTIONS, "neutral")),
        ("two", "aa", EMOTIONS),
        ("plain", "aa", ("neutral",)),
        ("three", "bb", (*EMOTIONS, "neutral")),
        ("four", "cc", (*EMOTIONS, "neutral")),
        ("five", "cc", EMOTIONS),
        ("quiet", "zxx", ("silence",)),
    ):
        rows += [(corpus, language, label, i) for label in labels for i in range(20)]
    corpora, languages, labels, numbers = (np.array(column) for column in zip(*rows, strict=True))
    return Clips(
        features=np.zeros((len(rows), 1, 1), np.float32),
        labels=labels,
        languages=languages,
        speakers=np.where(languages == "zxx", "", np.char.add("s", (numbers % 4).astype(str))),
        scenes=np.full(len(rows), ""),
        names=np.char.add(np.char.add(labels, "-"), numbers.astype(str)),
        corpora=corpora,
        hashes={},
        feature_config={},
    )


def test_a_corpus_as_the_target_is_tested_alone_and_its_language_never_trained_on(many):
    split = deal(many, target="four")
    assert set(split.test) == {"four"}
    for label, members in zip((*EMOTIONS, "neutral"), split.test["four"], strict=False):
        expected = np.flatnonzero((many.corpora == "four") & (many.labels == label))
        assert set(members) == set(expected)
    for part in (split.train, split.val):
        assert set(part) == {"aa", "bb"}
        assert set(many.languages[clips_in(part)]) == {"aa", "bb", "zxx"}
    # The language as the target has both of its corpora.
    assert set(many.corpora[np.concatenate(deal(many).test["cc"][:3])]) == {"four", "five"}


def test_a_target_corpus_without_neutral_has_its_languages(many):
    pool = deal(many, target="five").test["five"]
    assert set(many.corpora[np.concatenate(pool[:3])]) == {"five"}
    assert set(many.corpora[pool[3]]) == {"four"}
    assert set(many.corpora[pool[4]]) == {"quiet"}


def test_domains_may_be_the_corpora_of_emotions(many):
    split = deal(many, task_domain="corpus")
    assert set(split.train) == set(split.val) == {"aa/one", "aa/two", "bb/three"}
    for part in (split.train, split.val):
        for name, pool in part.items():
            # Speakers are held out by language: a corpus may have none of them.
            assert set(many.corpora[np.concatenate(pool[:3])]) <= {name.split("/")[1]}
    # Its own neutral where it has one, else all of its language's.
    assert set(many.corpora[split.train["aa/one"][3]]) == {"one"}
    assert set(many.corpora[split.train["aa/two"][3]]) == {"one", "plain"}
    assert set(many.corpora[split.train["bb/three"][3]]) == {"three"}
    assert not set(clips_in(split.train)) & set(clips_in(split.val))
    # The clips are dealt out as by language: only the domains differ.
    by_language = deal(many)
    for ours, theirs in zip(split[:2], by_language[:2], strict=True):
        assert set(clips_in(ours)) == set(clips_in(theirs))


def test_a_corpus_of_two_languages_is_two_domains(many):
    bilingual = many._replace(
        corpora=np.where(np.isin(many.corpora, ["one", "three"]), "films", many.corpora)
    )
    split = deal(bilingual, task_domain="corpus")
    assert set(split.train) == {"aa/films", "aa/two", "bb/films"}
    for name, pool in split.train.items():
        assert set(many.languages[np.concatenate(pool[:4])]) == {name[:2]}


@pytest.mark.parametrize("task_domain", ["language", "corpus"])
def test_without_validation_all_source_speakers_are_trained_on(many, task_domain):
    split = deal(many, val_fraction=0, task_domain=task_domain)
    assert split.val == {}
    sources = np.isin(many.languages, ["aa", "bb"])
    # Silence keeps its share for validation out of training: the test's is the same.
    assert set(np.flatnonzero(sources)) == set(
        clips_in(split.train)[many.languages[clips_in(split.train)] != "zxx"]
    )
    np.testing.assert_equal(split.test, deal(many, task_domain=task_domain).test)


def test_missing_target_and_sources_are_named(clips, paths):
    with pytest.raises(UserError, match=r"--target=xx has no clips; found aa, bb, cc"):
        deal(clips, target="xx")
    with pytest.raises(UserError, match=r"found aa, bb, cc in --data; did you mean corpus_cc\?"):
        deal(clips, target="Corpus-cc")
    with pytest.raises(UserError, match="no language is left to train on"):
        deal(load_clips(paths[:1]), target="aa")


@pytest.mark.parametrize("target", ["cc", None])
@pytest.mark.parametrize("task_domain", ["language", "corpus"])
def test_a_class_that_no_corpus_has_is_named_with_the_nearest(clips, target, task_domain):
    def split(emotions, fixed=FIXED):
        split_clips(
            clips,
            target=target,
            emotions=emotions,
            fixed=fixed,
            val_fraction=0.2,
            task_domain=task_domain,
        )

    labels = "the labels are anger, fear, joy, neutral, silence"
    with pytest.raises(UserError, match=rf"labelled 'Anger'; {labels}; did you mean anger\?"):
        split(("Anger", "Fear"))
    with pytest.raises(UserError, match=rf"labelled 'boredom'; {labels}$"):
        split((*EMOTIONS, "boredom"))
    with pytest.raises(UserError, match=r"labelled 'Neutral'; .* did you mean neutral\?"):
        split(EMOTIONS, ("Neutral",))


def test_emotions_of_the_target_alone_are_no_sources(clips):
    names = np.where((clips.labels == "joy") & (clips.languages != "cc"), "calm", clips.labels)
    names = np.where((clips.labels == "fear") & (clips.languages != "cc"), "calm", names)
    with pytest.raises(UserError, match=r"no corpus of aa, bb has a clip of joy, fear to train on"):
        split_clips(
            clips._replace(labels=names),
            target="cc",
            emotions=("joy", "fear"),
            fixed=FIXED,
            val_fraction=0.2,
            task_domain="corpus",
        )


def test_labels_that_look_the_same_are_one_over_corpora(tmp_path):
    paths = []
    for language, spelling in (("aa", "joy"), ("bb", "\uff2aOY"), ("cc", "joy\u200b")):
        corpus = make_corpus(language, seed=len(paths))
        labels = np.where(corpus.labels == "joy", spelling, corpus.labels)
        paths.append(str(tmp_path / f"{language}.npz"))
        save(paths[-1], corpus._replace(labels=labels))
    assert sorted(set(load_clips(paths).labels)) == ["anger", "fear", "joy", "neutral"]


def test_corpora_of_one_name_are_refused(tmp_path, paths):
    other = str(tmp_path / "other.npz")
    for name in ("corpus_aa", "Corpus_AA "):
        save(other, make_corpus("dd", seed=5)._replace(corpus=name))
        with pytest.raises(UserError, match=r"other.npz and .*aa.npz are both called .* --name"):
            load_clips([*paths, other])
    save(other, make_corpus("dd", seed=5)._replace(corpus="b"))
    assert "b" in load_clips([*paths, other]).corpora


def test_too_few_clips_names_class_language_and_both_numbers(clips):
    split = deal(clips)
    with pytest.raises(UserError, match=r"class anger of language cc has 24 clips .* needs 25"):
        require_clips(split.test, (*EMOTIONS, *FIXED), (25, 24, 24, 24, 9), "--shots")
    neutral = (clips.labels == "neutral") & (clips.languages == "aa")
    train = deal(clips._replace(labels=np.where(neutral, "joy", clips.labels))).train
    with pytest.raises(UserError, match=r"class neutral of language aa has 0 clips"):
        require_clips(train, (*EMOTIONS, *FIXED), (1,) * 5, "--shots")


def test_clips_that_are_lent_are_needed_too():
    pool = tuple(np.arange(count) for count in (0, 6, 4, 0, 0, 9))
    assert lenders(pool, 5) == [1, 1, 2, 2, 1, 5]
    assert lenders(pool, 0) == [0, 1, 2, 3, 4, 5]
    assert lenders((pool[0], pool[1], pool[0]), 3) == [0, 1, 2]  # one emotion is no task
    require_clips({"a": pool}, "abcdef", (2,) * 5 + (9,), "--shots", 5)
    with pytest.raises(UserError, match=r"class b of language a has 6 clips .* needs 9"):
        require_clips({"a": pool}, "abcdef", (3, 3, 2, 2, 2, 9), "--shots", 5)
    with pytest.raises(UserError, match=r"class a of language a has 0 clips"):
        require_clips({"a": pool}, "abcdef", (2,) * 6, "--shots")


def test_files_that_do_not_go_together_are_named(tmp_path, paths):
    copy, other = str(tmp_path / "copy.npz"), str(tmp_path / "other.npz")
    save(copy, make_corpus("aa", seed=0))
    with pytest.raises(UserError, match=r"anger000 of .*copy.npz and anger000 of .*aa.npz are the"):
        load_clips([*paths, copy])
    save(other, make_corpus("dd")._replace(feature_config={"clip_seconds": 1.0}))
    for data in ([*paths, other], [other, *paths]):
        with pytest.raises(UserError, match=r"differ in clip_seconds"):
            load_clips(data)
    # One that is like the other with something more, in either order.
    more = make_corpus("ee")
    save(other, more._replace(feature_config={**more.feature_config, "descriptors": 2}))
    for data in ([*paths, other], [other, *paths]):
        with pytest.raises(UserError, match=r"differ in descriptors"):
            load_clips(data)
    with pytest.raises(UserError, match=r"nothing.npz does not exist; make it with"):
        load_clips([str(tmp_path / "nothing.npz")])


def save_shards(path, folder, parts=3):
    """Cuts a prepared corpus into shards, and returns their pattern."""
    whole = load(path)
    bounds = np.linspace(0, len(whole.names), parts + 1).astype(int)
    for index, (start, stop) in enumerate(itertools.pairwise(bounds)):
        part = {
            field: value[start:stop]
            for field, value in whole._asdict().items()
            if isinstance(value, np.ndarray)
        }
        shard = Shard(index, parts, whole.content_hash)
        save(folder / f"s-{index:05d}-of-{parts:05d}.npz", whole._replace(shard=shard, **part))
    return str(folder / "s-*.npz")


def test_a_pattern_of_shards_is_the_corpus(tmp_path, paths, clips):
    pattern = save_shards(paths[1], tmp_path)
    sharded = load_clips([paths[0], pattern, *paths[2:]])
    whole = str(tmp_path / "s-*-of-00003.npz")
    assert list(sharded.hashes) == [paths[0], whole, *paths[2:]]
    assert list(sharded.hashes.values()) == list(clips.hashes.values())
    for ours, theirs in zip(sharded[:-2], clips[:-2], strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_pattern_of_files_is_sorted(tmp_path, paths, clips):
    pattern = str(tmp_path / "*.npz")
    for path in reversed(paths):
        save(tmp_path / path.rsplit("/", 1)[1], load(path))
    found = load_clips([pattern])
    assert list(found.hashes.values()) == list(clips.hashes.values())
    np.testing.assert_array_equal(found.names, clips.names)


def test_patterns_that_cannot_be_read(tmp_path, paths):
    pattern = save_shards(paths[0], tmp_path, parts=12)
    with pytest.raises(UserError, match=r"t-\*\.npz matches no file"):
        load_clips([str(tmp_path / "t-*.npz")])
    first = str(tmp_path / "s-00000-of-00012.npz")
    with pytest.raises(UserError, match=re.escape(f"names {first} a second time")):
        load_clips([pattern, first])
    for index in (3, 7):
        (tmp_path / f"s-{index:05d}-of-00012.npz").unlink()
    with pytest.raises(UserError, match=r"shard 3, 7 of 12 is missing beside .* prepare again"):
        load_clips([pattern, *paths[1:]])


def test_sexes_are_those_of_the_corpora_and_else_unknown():
    known = {("emodb", "03"): "male", ("emodb", "08"): "female", ("emovo", "m2"): "male"}
    known |= {("ravdess", "24"): "female", ("ravdess", "01"): "male"}
    unknown = [("emodb", ""), ("ravdess", "Actor_01"), ("cremad", "1001"), ("mine", "f1")]
    for who, sex in (known | dict.fromkeys(unknown, "")).items():
        assert sex_of(*who) == sex
