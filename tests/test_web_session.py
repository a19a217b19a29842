"""What a page has given, for how long it is kept, and who works next; without a browser."""

import threading
import time

import numpy as np
import pytest
import soundfile

from fmaml_jax.common.errors import UserError
from fmaml_jax.recognition import save
from fmaml_jax.recognition.support import LabelledClip
from fmaml_jax.web import session as sessions_of_pages
from fmaml_jax.web.session import (
    MOST_CLIPS,
    NEW,
    LeftError,
    Session,
    Sessions,
    Turns,
    add_clips,
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

    threads = [threading.Thread(target=add, args=(label,)) for label in given]
    for thread in threads:
        thread.start()
    for thread in threads:
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


def test_a_model_that_is_too_large_is_not_read(tmp_path):
    (path,) = give(tmp_path, "my.model", content=b"")
    with path.open("r+b") as file:
        file.truncate(65 << 20)
    with pytest.raises(UserError, match=r"^my.model is larger than any model"):
        take_model(Session(), str(path))
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
    save(model, session.recogniser)
    assert take_model(Session(), str(model)).classes == session.recogniser.classes


def work(turns, session, windows, done, name, seconds=0.01):
    """Works in a thread of its own, and notes in `done` each window that is done."""

    def run():
        with turns.turn(session) as pass_on:
            for _ in range(windows):
                time.sleep(seconds)
                done.append(name)
                pass_on()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def alive(address=""):
    return Session(address, connections=1)


def test_short_work_does_not_wait_until_long_work_is_done():
    turns, done = Turns(2), []
    long = [work(turns, alive(f"{number}"), 100, done, "long") for number in range(4)]
    time.sleep(0.1)
    short = work(turns, alive("other"), 1, done, "short")
    short.join(1)
    assert 0 < done.index("short") < 100
    for thread in long:
        thread.join()
    assert len(done) == 401


def test_visitors_share_however_many_pages_they_have():
    turns, done = Turns(1), []
    many = [work(turns, alive("greedy"), 25, done, "greedy") for _ in range(8)]
    one = work(turns, alive("modest"), 25, done, "modest")
    one.join()
    assert 15 < done.count("greedy") < 60  # about as much as the one, not eight times
    for thread in many:
        thread.join()


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

    threads = [threading.Thread(target=run, args=(session,)) for session in (gone, waiting)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    gone.ended = waiting.ended = True
    for thread in threads:
        thread.join(3)
    assert len(raised) == 2
    with turns.turn(alive()):
        pass  # their turns were given back
