"""What a page has given, for how long it is kept, and who works next; without a browser."""

import gc
import re
import threading
import time
import weakref
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from fmaml_jax.audio.decoding import read_clip
from fmaml_jax.common.errors import UserError
from fmaml_jax.recognition import Prediction, Recogniser, interface, predict_folder, save
from fmaml_jax.recognition.support import LabelledClip, read_clip_as
from fmaml_jax.recognition.timeline import Segment
from fmaml_jax.web import session as sessions_of_pages
from fmaml_jax.web.render import moved, segments
from fmaml_jax.web.session import (
    MOST_CLIPS,
    NEW,
    LeftError,
    Session,
    Sessions,
    Turns,
    add_clips,
    correct,
    corrections,
    excerpt,
    learn,
    recognise,
    set_meaning,
    take_model,
    take_out,
)
from tests.test_prepare import noise


def clip(number, label="joy"):
    return LabelledClip(f"{number}.wav", label, "", np.zeros((1, 1), np.float32), str(number), ())


def give(folder, *names, content=None):
    """Files as uploads are, each in a folder of its own."""
    paths = []
    for name in names:
        (folder / f"of {name}").mkdir()
        paths.append(folder / f"of {name}" / name)
        if content is None:
            soundfile.write(paths[-1], noise(0.3, seed=len(name)), 16_000)
        else:
            paths[-1].write_bytes(content)
    return paths


@pytest.fixture
def grace(monkeypatch):
    monkeypatch.setattr(sessions_of_pages, "GRACE", 0.05)


def test_a_session_ends_a_while_after_its_last_connection(grace, tmp_path):
    sessions = Sessions()
    session = sessions.begin("first", "1.2.3.4")
    session.clips.append(clip(1))
    (session.recording,) = give(tmp_path, "a.wav")
    with session.connected(listening=False):
        with session.connected(listening=True):
            assert session.listening == 1
        time.sleep(0.1)
        sessions.end_those_left()  # one of two connections has dropped
        assert sessions.find("first") is session
    with session.connected(listening=False):
        sessions.end_those_left()  # for a moment there was none
        assert session.clips
    time.sleep(0.1)
    sessions.end_those_left()
    assert sessions.find("first") is None
    assert session.is_left()
    assert not session.clips
    assert not list(tmp_path.iterdir())


def test_nothing_is_kept_of_what_ends_after_its_page(start, trained, tmp_path):
    session = Session()
    session.end()
    (recording,) = give(tmp_path, "a.wav")
    sessions_of_pages.keep_recording(session, recording)
    assert not list(tmp_path.iterdir())
    session.clips = [clip(1)]
    with pytest.raises(UserError):
        learn(session, start, ())
    assert session.recogniser is None


def test_an_address_has_so_many_pages(monkeypatch):
    monkeypatch.setattr(sessions_of_pages, "MOST_PAGES_OF_ADDRESS", 2)
    monkeypatch.setattr(sessions_of_pages, "MOST_PAGES", 3)
    sessions = Sessions()
    pages = [("a", "1"), ("b", "1"), ("c", "1"), ("d", "2"), ("e", "3"), ("a", "1")]
    begun = []
    for number, address in pages:
        session = sessions.begin(number, address)
        begun.append(session is not None)
        if session:
            session.connections = 1
    assert begun == [True, True, False, True, False, True]
    assert sessions.of_address("1") == ["a", "b"]
    sessions.find("a").connections = 0
    assert sessions.begin("c", "1")
    assert sessions.of_address("1") == ["b", "c"]
    sessions.find("d").connections = 0
    assert sessions.begin("e", "3")
    assert sessions.find("d") is None


def test_files_are_gone_when_they_were_read_and_what_is_too_much_is_said_once(start, tmp_path):
    session = Session(clips=[clip(number) for number in range(MOST_CLIPS - 1)])
    paths = give(tmp_path, *(f"{number}.wav" for number in range(30)))
    added, errors = add_clips(session, start, paths, "joy", NEW, "")
    assert len(added) == 1
    assert errors == ["1000 clips are enough; take some out first"]
    assert not list(tmp_path.iterdir())
    paths = give(tmp_path, *(f"{number}.txt" for number in range(30)), content=b"text")
    added, errors = add_clips(Session(), start, paths, "joy", NEW, "")
    assert not added
    assert len(errors) == 11
    assert errors[-1] == "20 more files cannot be used"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["x" * 100_000, "  "])
def test_names_that_cannot_be_are_said_once(start, tmp_path, name):
    session = Session()
    _, errors = add_clips(session, start, give(tmp_path, "a.wav", "bb.wav"), name, NEW, "")
    assert len(errors) == 1
    assert len(errors[0]) < 200
    _, errors = add_clips(session, start, give(tmp_path, "c.wav"), "joy", NEW, "y" * 81)
    assert "the speaker" in errors[0]
    assert not session.clips
    assert not session.same_as


def test_a_meaning_is_kept_of_labels_that_there_are():
    session = Session(clips=[clip(1, "smutek")])
    for number in range(100):
        set_meaning(session, f"{number}", "sadness")
    set_meaning(session, "Smutek", "sadness")
    assert session.same_as == {"smutek": "sadness"}
    take_out(session, ["all smutek"])
    assert not session.clips


def test_two_additions_at_once_say_each_its_own(start, tmp_path):
    session = Session()
    given = {"joy": give(tmp_path, "a.wav", "bb.wav"), "awe": give(tmp_path, "ccc.wav")}
    found = {}

    def add(label):
        found[label] = add_clips(session, start, given[label], label, NEW, "")

    for thread in started(*(partial(add, label) for label in given)):
        thread.join()
    for label, paths in given.items():
        added, errors = found[label]
        assert [clip.name for clip in added] == [path.name for path in paths]
        assert {clip.label for clip in added} == {label}
        assert not errors
    assert len(session.clips) == 3


def test_additions_end_when_their_page_is_gone(start, tmp_path):
    session = Session()

    def pass_on():
        raise LeftError

    with pytest.raises(LeftError):
        add_clips(session, start, give(tmp_path, "a.wav", "bb.wav"), "joy", NEW, "", pass_on)
    assert len(session.clips) == 1
    assert not list(tmp_path.iterdir())


def test_a_model_that_is_too_large_is_not_read(start, tmp_path):
    (path,) = give(tmp_path, "my.model", content=b"")
    with path.open("r+b") as file:
        file.truncate(65 << 20)
    with pytest.raises(UserError, match=r"^my.model is larger than any model"):
        take_model(Session(), start, str(path))
    assert not list(tmp_path.iterdir())


def test_a_recording_whose_header_lies_is_cut_short(start, trained, tmp_path, monkeypatch):
    _, speech = trained
    session = Session()
    for label in ("anger", "fear"):
        paths = give(tmp_path, *(f"{label}{number}.wav" for number in range(2)))
        for path, own in zip(paths, speech.of(label), strict=False):
            path.write_bytes(own.read_bytes())
        add_clips(session, start, paths, label, NEW, "")
    learn(session, start, ())
    (path,) = give(tmp_path, "long.flac")
    soundfile.write(path, np.resize(noise(1.0), 40 * 8000), 8000)
    monkeypatch.setattr(sessions_of_pages, "LONGEST_RECORDING", 35.0)
    header = sessions_of_pages.probe(path)
    monkeypatch.setattr(sessions_of_pages, "probe", lambda path: header._replace(seconds=0.0))
    with pytest.raises(UserError, match=r"long.flac lasts more than 1 minutes; cut it"):
        recognise(session, str(path), 0.0, lambda share: None)
    monkeypatch.setattr(sessions_of_pages, "LONGEST_RECORDING", 60.0)
    told = []
    recognise(session, str(path), 0.0, told.append)
    assert len(told) > 2
    model = tmp_path / "my.model"
    save(session.recogniser, model)
    assert take_model(Session(), start, str(model)).classes == session.recogniser.classes


@pytest.fixture(scope="module")
def clips(trained, start):
    """Labelled clips of two emotions, whose speakers are known."""
    _, speech = trained
    rows = zip(speech.paths, speech.labels, speech.speakers, strict=True)
    return [
        read_clip_as(path, label, start, speaker)
        for path, label, speaker in rows
        if label in ("anger", "fear")
    ]


@pytest.fixture
def heard(trained, clips, tmp_path):
    """A session that enrolled, and its recording of 20 s in three segments of 4, 10 and 6 s."""
    (recording,) = give(tmp_path, "call.wav")
    samples = [soundfile.read(path)[0] for path in trained[1].paths[:3]]
    rate = soundfile.info(trained[1].paths[0]).samplerate
    soundfile.write(recording, np.resize(np.concatenate(samples), 20 * rate), rate)
    session = Session(clips=list(clips), recording=recording)
    session.heard = predicted((0.0, 4.0, "anger"), (4.0, 14.0, "fear"), (14.0, 20.0, "anger"))
    return session


def predicted(*segments):
    chances = {"anger": (0.7, 0.3), "fear": (0.4, 0.6)}
    return Prediction(
        "call.wav",
        segments[-1][1],
        ("anger", "fear"),
        tuple(Segment(*each, max(chances[each[2]]), chances[each[2]]) for each in segments),
        np.ones(9, np.float32),
    )


def labelled(session):
    """The parts of its recording that are clips."""
    path = str(session.recording)
    return [(clip.part, clip.label) for clip in session.clips if clip.file == path]


def test_segments_that_are_labelled_become_clips(heard, clips, start):
    correct(heard, start, {"0": "Fear", "2": "joy"})
    assert labelled(heard) == [((0, 4), "fear"), ((14, 20), "joy")]
    assert heard.same_as["joy"] == NEW
    first = heard.clips[-2]
    correct(heard, start, {"0": "fear", "2": "anger"})
    assert heard.clips[-2] is first  # which was not read again
    assert labelled(heard) == [((0, 4), "fear"), ((14, 20), "anger")]
    expected = read_clip_as(heard.recording, "fear", start, part=(0.0, 4.0))
    np.testing.assert_array_equal(first.features, expected.features)

    # Recognised anew, its segments are others: what is said last of a moment counts.
    heard.heard = predicted((0.0, 2.0, "anger"), (2.0, 20.0, "fear"))
    assert [len(corrections(heard, segment)) for segment in heard.heard.segments] == [1, 2]
    correct(heard, start, {"0": "anger"})
    assert labelled(heard) == [((14, 20), "anger"), ((0, 2), "anger")]
    correct(heard, start, {"0": ""})
    assert labelled(heard) == [((14, 20), "anger")]
    assert heard.clips[: len(clips)] == clips


def test_a_label_of_minutes_is_several_clips_on_the_page_too(heard, start):
    samples, rate = soundfile.read(heard.recording)
    soundfile.write(heard.recording, np.resize(samples, 62 * rate), rate)
    heard.heard = predicted((0.0, 62.0, "anger"))
    correct(heard, start, {"0": "fear"})
    assert [part for part, _ in labelled(heard)] == [
        pytest.approx((12.4 * number, 12.4 * (number + 1))) for number in range(5)
    ]
    correct(heard, start, {"0": "fear"})
    assert len(labelled(heard)) == 5
    assert len(excerpt(heard, 0)) == 60 * 16_000


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ({"3": "fear"}, "there is no such segment any more"),
        ({"-1": "fear"}, "there is no such segment any more"),
        ({"0": "x" * 81}, "the label"),
        ({"0": "Unsure"}, "no class can be called 'Unsure'"),
    ],
)
def test_what_cannot_be_said_of_a_segment(heard, clips, start, labels, said):
    with pytest.raises(UserError, match=said):
        correct(heard, start, labels)
    assert heard.clips == clips


def test_labelled_segments_are_bounded_as_other_clips_are(heard, start, monkeypatch):
    monkeypatch.setattr(sessions_of_pages, "MOST_CLIPS", len(heard.clips) + 1)
    correct(heard, start, {"0": "fear"})
    correct(heard, start, {"0": "anger"})
    with pytest.raises(UserError, match="clips are enough; take some out first"):
        correct(heard, start, {"1": "fear"})


def test_an_excerpt_is_what_was_heard_there(heard):
    whole = read_clip(heard.recording).samples
    np.testing.assert_allclose(excerpt(heard, 1), whole[4 * 16_000 : 14 * 16_000], atol=0.01)
    with pytest.raises(UserError, match="no such segment"):
        excerpt(heard, 3)
    sessions_of_pages.keep_recording(heard, None)
    with pytest.raises(UserError, match="no such segment"):
        excerpt(heard, 1)


def test_the_least_sure_segments_come_first_and_what_is_said_last(heard):
    prediction = heard.heard._replace(classes=("anger", "<fear>"))
    table = segments(prediction, ["", "", "<b>"], ["anger", "<b>"])
    assert re.findall(r'button type="button" name="(\d)"', table) == ["1", "0", "2"]
    assert "<b>" not in table
    place = re.search(r'data-from="([\d.]+)" data-to="([\d.]+)" data-seconds="20.000"', table)
    assert 0 <= float(place[1]) < float(place[2]) <= 1


def test_segments_moved_are_those_whose_middle_has_another_label():
    was = predicted((0.0, 4.0, "anger"), (5.0, 14.0, "fear"), (14.0, 20.0, "anger"))
    now = predicted((0.0, 9.0, "anger"), (9.0, 20.0, "fear"))
    assert moved(was, now) == 1
    assert moved(was, was) == 0


@pytest.mark.slow
def test_a_recording_is_recognised_by_speaker(heard, start):
    path = str(heard.recording)
    recogniser = learn(heard, start, ("neutral",), by_speaker=True)
    found = recognise(heard, path, 0.0, lambda share: None, "file")
    (expected,) = predict_folder(recogniser, [path], speakers="file")
    assert found.segments == expected.segments
    assert heard.heard is found


def test_voices_can_be_taken_out_of_clips_of_known_speakers(heard, start):
    heard.clips = [clip._replace(speaker="") for clip in heard.clips]
    with pytest.raises(UserError, match="no speakers are named; take the clips out"):
        learn(heard, start, (), by_speaker=True)


def test_what_a_voice_is_known_by_lives_for_the_call_alone(heard, start, monkeypatch):
    coeffs = len(start.scale.mean)
    heard.recogniser = Recogniser._make([None] * len(Recogniser._fields))._replace(
        classes=("anger", "fear"),
        scale=start.scale,
        feature_config=start.feature_config,
        encoder=start.encoder,
    )
    embeddings, arrays = [], []

    def embed(sounds, windows):
        made = np.ones((sum(len(starts) for starts, _ in windows), 192), np.float32)
        embeddings.append(weakref.ref(made))
        return made

    def label_together(recogniser, files, speakers, abstain):
        for found in (found for each in files for part in each.parts for found in part.found):
            assert found.shape[2] == coeffs + 192
            arrays.append(weakref.ref(found))
        return [heard.heard]

    monkeypatch.setattr(interface, "voice_describer", lambda encoder: embed)
    monkeypatch.setattr(sessions_of_pages, "label_together", label_together)
    recognise(heard, str(heard.recording), 0.0, lambda share: None, "found")
    gc.collect()
    assert embeddings
    assert arrays
    assert not any(own() is not None for own in (*embeddings, *arrays))


def started(*works):
    """Each in a thread of its own."""
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    return threads


def alive(address=""):
    return Session(address, connections=1)


def test_short_work_does_not_wait_until_long_work_is_done():
    turns, begun, over = Turns(2), threading.Semaphore(0), threading.Event()

    def long(number):
        with turns.turn(alive(f"{number}")) as pass_on:
            begun.release()
            while not over.wait(0.01):
                pass_on()

    def short():
        with turns.turn(alive("other")):
            pass

    started(*(partial(long, number) for number in range(4)))
    try:
        for _ in range(4):
            assert begun.acquire(timeout=60)
        (other,) = started(short)
        other.join(60)
        assert not other.is_alive()
    finally:
        over.set()


def test_visitors_share_however_many_pages_they_have(monkeypatch):
    clock, done = SimpleNamespace(now=0.0), []
    monkeypatch.setattr(sessions_of_pages, "time", SimpleNamespace(monotonic=lambda: clock.now))
    turns = Turns(1)

    def work(name):
        with turns.turn(alive(name)) as pass_on:
            for _ in range(25):
                clock.now += 0.01
                done.append(name)
                pass_on()

    with turns.turn(alive("first")):
        threads = started(*[partial(work, name) for name in ["greedy"] * 8 + ["modest"]])
        while len(turns._waiting) < 9:
            time.sleep(0.01)
    for thread in threads:
        thread.join()
    last = len(done) - done[::-1].index("modest")
    assert 23 <= done[:last].count("greedy") <= 27  # as much as the one, not eight times


def test_work_ends_when_its_page_is_gone():
    turns, raised = Turns(1), []
    gone, waiting = alive(), alive()

    def run(session):
        try:
            with turns.turn(session) as pass_on:
                while True:
                    time.sleep(0.01)
                    pass_on()
        except LeftError:
            raised.append(session)

    threads = started(*(partial(run, session) for session in (gone, waiting)))
    time.sleep(0.05)
    gone.ended = waiting.ended = True
    for thread in threads:
        thread.join(60)
    assert len(raised) == 2
    with turns.turn(alive()):
        pass  # their turns were given back
