"""The split of clips into training, validation and test keeps the protocol's rules."""

import itertools
import re

import numpy as np
import pytest

from data_prep.console import UserError
from data_prep.dataset import Shard, load, save
from fmaml_jax.data import load_clips, require_clips, split_clips, training_scale
from tests.corpus import EMOTIONS, FIXED, make_corpus, save_corpora


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return save_corpora(tmp_path_factory.mktemp("corpora"))


@pytest.fixture(scope="module")
def clips(paths):
    return load_clips(paths)


def deal(clips, target="cc", fixed=FIXED, val_fraction=0.2):
    return split_clips(
        clips, target=target, emotions=EMOTIONS, fixed=fixed, val_fraction=val_fraction
    )


def test_all_clips_are_joined(clips, paths):
    assert len(clips.features) == 3 * 4 * 24 + 60 == len(clips.names)
    assert set(clips.corpora) == {"corpus_aa", "corpus_bb", "corpus_cc", "corpus_zxx"}
    assert list(clips.hashes) == list(paths)


def test_target_is_in_the_test_alone(clips):
    split = deal(clips)
    assert set(split.train) == set(split.val) == {"aa", "bb"}
    assert set(split.test) == {"cc"}
    for part in (split.train, split.val):
        used = np.concatenate([np.concatenate(pool) for pool in part.values()])
        assert "cc" not in clips.languages[used]


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
    scale = training_scale(clips.features, split)
    used = np.unique(np.concatenate([np.concatenate(p) for p in split.train.values()]))
    standardised = (clips.features[used] - scale.mean) / scale.deviation
    np.testing.assert_allclose(standardised.mean((0, 1)), 0, atol=1e-4)
    np.testing.assert_allclose(standardised.std((0, 1)), 1, atol=1e-4)


def test_missing_target_and_sources_are_named(clips, paths):
    with pytest.raises(UserError, match=r"--target=xx has no clips; found aa, bb, cc"):
        deal(clips, target="xx")
    with pytest.raises(UserError, match="no language is left to train on"):
        deal(load_clips(paths[:1]), target="aa")


def test_too_few_clips_names_class_language_and_both_numbers(clips):
    split = deal(clips)
    with pytest.raises(UserError, match=r"class anger of language cc has 24 clips .* needs 25"):
        require_clips(split.test, (*EMOTIONS, *FIXED), (25, 24, 24, 24, 9), "--shots")
    lacking = clips._replace(labels=np.where(clips.labels == "neutral", "joy", clips.labels))
    train = deal(lacking).train
    with pytest.raises(UserError, match=r"class neutral of language aa has 0 clips"):
        require_clips(train, (*EMOTIONS, *FIXED), (1,) * 5, "--shots")


def test_files_that_do_not_go_together_are_named(tmp_path, paths):
    copy, other = str(tmp_path / "copy.npz"), str(tmp_path / "other.npz")
    save(copy, make_corpus("aa", seed=0))
    with pytest.raises(UserError, match=r"anger000 of .*copy.npz and anger000 of .*aa.npz are the"):
        load_clips([*paths, copy])
    save(other, make_corpus("dd")._replace(feature_config={"clip_seconds": 1.0}))
    with pytest.raises(UserError, match=r"differ in clip_seconds"):
        load_clips([*paths, other])
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
