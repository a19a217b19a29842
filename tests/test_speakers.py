"""Who speaks: turns that are told, channels that are split, and what is said of the speakers."""

import csv
import html
import io
import itertools
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile

from fmaml_jax.audio.decoding import SAMPLE_RATE
from fmaml_jax.common.errors import UserError
from fmaml_jax.recognition import enrol, predict
from fmaml_jax.recognition.description import describe_speakers
from fmaml_jax.recognition.formats import FORMATS
from fmaml_jax.recognition.overview import overview
from fmaml_jax.recognition.recordings import find_recordings, predict_each, write_all
from fmaml_jax.recognition.speakers import LONGEST, Turn, read_turns, shares, speech_of
from fmaml_jax.recognition.support import read_clip_as
from fmaml_jax.recognition.timeline import UNSURE, Prediction, Segment
from tests.test_timeline import CLASSES, cut, levels, predict_file


def test_turns_are_slices_of_the_recording_however_it_is_read():
    chance = np.random.default_rng(0)
    samples = chance.normal(size=90 * SAMPLE_RATE).astype(np.float32)
    for _ in range(20):
        edges = np.sort(chance.uniform(0, 95, (6, 2)), axis=1)
        turns = [Turn(a, b, str(i)) for i, (a, b) in enumerate(edges.tolist())]
        turns = sorted([*turns, Turn(40.0, np.inf, "to the end"), Turn(50.0, 50.1, "too short")])
        blocks = np.split(samples, np.sort(chance.integers(0, len(samples), 30)))
        found = list(speech_of(turns, blocks))
        assert [each.start for each in found] == sorted(each.start for each in found)
        assert max(len(each.samples) for each in found) <= LONGEST
        for each in found:
            end = each.start + len(each.samples)
            np.testing.assert_array_equal(each.samples, samples[each.start : end])
        for turn in turns:
            own = [each for each in found if each.speaker == turn.speaker]
            total = sum(len(each.samples) for each in own)
            length = max(0, min(turn.end, 90) - turn.start) * SAMPLE_RATE
            assert total == pytest.approx(length if length > SAMPLE_RATE / 2 else total, abs=9000)
            for first, second in itertools.pairwise(own):
                assert first.start + len(first.samples) == second.start


def test_turns_are_labelled_each_for_itself(tmp_path):
    """Windows reach into a neighbour's turn where it is not told that it is one."""
    turns = [Turn(i, i + 1.5, "AB"[i % 4 // 2]) for i in np.arange(0, 18, 2).tolist()]
    samples = np.zeros(18 * SAMPLE_RATE)
    for turn in turns:
        begin, end = (round(SAMPLE_RATE * time) for time in turn[:2])
        samples[begin:end] = 2.0 if turn.speaker == "A" else 0.5
    samples[::2] *= -1
    soundfile.write(tmp_path / "call.wav", samples, SAMPLE_RATE, "FLOAT")
    predicted = partial(predict_file, str(tmp_path / "call.wav"), CLASSES, cut, levels)
    found = predicted(find=partial(speech_of, turns))
    expected = [
        (turn.start, turn.end, "high" if turn.speaker == "A" else "low", turn.speaker)
        for turn in turns
    ]
    assert [(s.start, s.end, s.label, s.speaker) for s in found.segments] == expected


@pytest.fixture(scope="module")
def recogniser(trained, start):
    _, speech = trained
    return enrol(
        start,
        [
            read_clip_as(path, label, start)
            for label in ("anger", "sadness")
            for path in speech.of(label)[:3]
        ],
    )


@pytest.fixture(scope="module")
def call(trained, tmp_path_factory):
    """Two voices who take turns, each on a channel, and the files of each channel."""
    folder = tmp_path_factory.mktemp("calls")
    clips = [soundfile.read(path) for path in trained[1].paths[:12]]
    rate = clips[0][1]
    channels = np.zeros((sum(len(clip) for clip, _ in clips), 2))
    place = 0
    for number, (clip, _) in enumerate(clips):
        channels[place : place + len(clip), number % 2] = clip
        place += len(clip)
    soundfile.write(folder / "call.wav", channels, rate, "FLOAT")
    for channel in range(2):
        soundfile.write(folder / f"{channel}.wav", channels[:, channel], rate, "FLOAT")
    return folder / "call.wav"


def test_split_channels_are_the_files_of_each(recogniser, call):
    told = []
    found = predict(recogniser, call, channels="split", report=told.append)
    assert found.speakers == ("channel 1", "channel 2")
    assert told == sorted(told)
    assert told[-1] == pytest.approx(found.seconds)
    for channel, speaker in enumerate(found.speakers):
        alone = predict(recogniser, call.with_name(f"{channel}.wav"))
        own = [segment for segment in found.segments if segment.speaker == speaker]
        assert len(own) > 3
        assert [segment._replace(speaker="") for segment in own] == list(alone.segments)
    starts = [segment.start for segment in found.segments]
    assert starts == sorted(starts)


def test_a_channel_that_says_nothing_has_no_segments(recogniser, trained, tmp_path):
    clip, rate = soundfile.read(trained[1].paths[0])
    path = tmp_path / "half.wav"
    soundfile.write(path, np.stack([clip, 1e-5 * clip], axis=1), rate, "FLOAT")
    found = predict(recogniser, path, channels="split")
    assert [segment.speaker for segment in found.segments] == ["channel 1"]
    assert any(warning.startswith("channel 2: hardly any sound") for warning in found.warnings)


def test_labels_of_split_channels_are_enrolled_from_their_channel(recogniser, start, call):
    part = (0.0, 8.0)
    for channel in range(2):
        found = read_clip_as(call, "joy", start, f"channel {channel + 1}", part)
        alone = read_clip_as(call.with_name(f"{channel}.wav"), "joy", start, "", part)
        assert found.digest == alone.digest
    assert read_clip_as(call.with_name("0.wav"), "joy", start, "channel 2", part).speaker
    one, two = (read_clip_as(call, "joy", start, f"channel {i}", part).file for i in (1, 2))
    assert one != two  # what both say at once may have two labels


def test_one_speaker_of_a_whole_recording_has_its_speech(recogniser, call):
    path = call.with_name("0.wav")
    found = predict(recogniser, path, turns=[Turn(0.0, np.inf, "Ann")])
    alone = predict(recogniser, path)
    assert found.segments == tuple(s._replace(speaker="Ann") for s in alone.segments)
    assert found.speakers == ("Ann",)


@pytest.mark.parametrize("name", ["call", "call.wav", "%s"])
def test_turns_of_an_rttm(tmp_path, name):
    recording = tmp_path / "a b" / "call.wav"
    name = (name.replace("%s", str(recording))).replace(" ", "%20")
    rttm = tmp_path / "a.rttm"
    rttm.write_text(
        f"SPKR-INFO {name} 1 <NA> <NA> <NA> unknown Ann <NA> <NA>\n"
        f"SPEAKER {name} 1 2.50 1.25 <NA> <NA> Bo <NA> <NA>\n"
        f"SPEAKER {name} 1 0 2.0 <NA> <NA> ann <NA> <NA>\n"
        f"SPEAKER {name} 1 1.96 2.0 <NA> <NA> Ann <NA> <NA>\n"
        "SPEAKER another 1 0 9 <NA> <NA> Cy <NA> <NA>\n"
    )
    found = read_turns(rttm, [recording, tmp_path / "third.wav"])
    assert found == {
        recording: [Turn(0.0, 2.0, "ann"), Turn(2.0, 3.96, "ann"), Turn(2.5, 3.75, "Bo")]
    }


def test_turns_of_a_table(tmp_path):
    for name in ("one.wav", "two.wav"):
        (tmp_path / name).touch()
    table = tmp_path / "who.csv"
    table.write_text("file;speaker;start;end\none.wav;Ann;0;1,5\none.wav;Bo;1,5;\ntwo.wav;Cy;;\n")
    assert read_turns(table, [tmp_path / "one.wav", tmp_path / "two.wav"]) == {
        tmp_path / "one.wav": [Turn(0.0, 1.5, "Ann"), Turn(1.5, np.inf, "Bo")],
        tmp_path / "two.wav": [Turn(0.0, np.inf, "Cy")],
    }


LINE = "SPEAKER call 1 {} {} <NA> <NA> Ann <NA> <NA>\n"


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        (
            "a.rttm",
            LINE.format(0, 1).replace("call", "other"),
            "is of other, and not of .*call.wav",
        ),
        (
            "a.rttm",
            "".join(LINE.format(0, 1).replace("call", name) for name in "abc"),
            "is of a and 2 more, and not of",
        ),
        ("a.rttm", LINE.format(0, 0), "line 1 of .* has a turn of 0 s from 0 s, no length of time"),
        ("a.rttm", " " + LINE.format(-1, 2), "line 1 of .* of 2 s from -1 s, before the recording"),
        ("a.rttm", LINE.format(0, "nan"), "line 1 of .* has a turn of nan s"),
        ("a.rttm", LINE.format(0, "one"), "line 1 of .* is not a SPEAKER line"),
        ("a.rttm", "SPEAKER call\n", "line 1 of .* is not a SPEAKER line"),
        ("a.rttm", "", "holds no SPEAKER lines"),
        ("a.rttm", LINE.format(0, 5) + LINE.format(4, 5), "has turns of Ann that overlap at 4 s"),
        ("a.csv", "file,speaker\n", "has no rows; list who speaks"),
        ("a.csv", "file,speaker\ncall.wav,\n", "line 2 of .* names no file or no speaker"),
        ("a.csv", "file,start\ncall.wav,0\n", "has no column speaker"),
        ("gone.rttm", None, "cannot read .*gone.rttm"),
    ],
)
def test_bad_turns_are_one_sentence(tmp_path, name, content, sentence):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=sentence):
        read_turns(tmp_path / name, [tmp_path / "call.wav"])


def test_turns_of_one_of_two_recordings_of_a_name(tmp_path):
    (tmp_path / "a.rttm").write_text(LINE.format(0, 1))
    with pytest.raises(UserError, match=r"call of .* may be a/call\.wav or b/call\.wav"):
        read_turns(tmp_path / "a.rttm", [Path("a/call.wav"), Path("b/call.wav")])


def test_what_cannot_be_split_or_is_of_another_recording(recogniser, call):
    mono = call.with_name("0.wav")
    with pytest.raises(UserError, match=r"0\.wav cannot be used: it has one channel, and none to"):
        predict(recogniser, mono, channels="split")
    with pytest.raises(UserError, match="split channels are speakers already"):
        predict(recogniser, call, channels="split", turns=[Turn(0, 1, "A")])
    with pytest.raises(UserError, match=r"somebody is said to speak until 99\.0 s; give the --sp"):
        predict(recogniser, mono, turns=[Turn(0, 1, "A"), Turn(90, 99, "B")])


def test_a_recording_that_nothing_is_told_of_costs_the_others_nothing(recogniser, call, capsys):
    recordings = find_recordings([str(call.with_name("0.wav")), str(call)])
    done = []
    turns = {call: [Turn(0.0, 1.0, "Ann")]}
    found = predict_each(partial(predict, recogniser), recordings, turns, "", done)
    ((recording, prediction),) = found
    assert recording.path == call
    assert [segment.speaker for segment in prediction.segments] == ["Ann"]
    assert done[0] is None
    assert "0.wav: --speakers does not say who speaks in it" in capsys.readouterr().err


def spoken(*segments, file="call.wav"):
    made = tuple(
        Segment(start, end, label, 0.6, (0.6, 0.4) if label == "joy" else (0.4, 0.6), speaker)
        for start, end, label, speaker in segments
    )
    speakers = ("Ann", "Bo B")
    return Prediction(file, 20.0, ("joy", "żal"), made, np.ones(625, np.float32), (), speakers)


CALL = spoken((0, 3, "joy", "Ann"), (2, 4, "żal", "Bo B"), (5, 6, UNSURE, "Ann"))
CALL = CALL._replace(segments=(*CALL.segments[:2], CALL.segments[2]._replace(confidence=0.3)))


def test_shares_of_speakers():
    assert shares(CALL) == {"Ann": {"joy": 3, UNSURE: 1}, "Bo B": {"żal": 2}}
    assert shares(spoken()) == {"Ann": {}, "Bo B": {}}
    lines = describe_speakers([CALL, spoken(file="b.wav")]).splitlines()
    assert lines[0].split() == ["file", "speaker", "seconds", "joy", "żal", "unsure"]
    assert lines[1].split() == ["call.wav", "Ann", "4.0", "75%", "25%"]
    assert lines[2].split() == ["call.wav", "Bo", "B", "2.0", "100%"]
    assert lines[3].split() == ["b.wav", "Ann", "0.0"]


def test_tables_have_the_speaker_also_where_the_first_recording_has_no_speech(tmp_path):
    out = tmp_path / "out.csv"
    recordings = [(None, spoken(file="a.wav")), (None, CALL)]
    write_all(iter(recordings), FORMATS["csv"], str(out))
    rows = list(csv.DictReader(io.StringIO(out.read_text(), newline="")))
    assert [(row["speaker"], row["label"]) for row in rows] == [
        ("Ann", "joy"),
        ("Bo B", "żal"),
        ("Ann", "unsure"),
    ]


def test_an_overview_says_it_all_and_text_is_text():
    hard = "<b onclick=\"x('y')\">&\n.wav"
    page = overview([CALL, spoken((1, 2, "żal", "Ann"), file=hard)])
    assert "<b " not in page
    assert page.count(html.escape(hard.replace("\n", " "))) == 3  # share, doubt, timeline
    assert not re.search(r"(src|href)=\"(?!#|data:)", page)
    assert "joy 75%, unsure 25%" in page
    assert "2 recordings" in page
    doubts = re.findall(r"<tr><td.*?</tr>", page)
    said = [re.sub(r"<.*?>", " ", row).split()[:4] for row in doubts]
    assert said[0] == ["0:05", "0:06", "unsure", "30%"]
    assert sorted(label for _, _, label, _ in said) == ["joy", "unsure", "żal", "żal"]
    assert page.count("<rect ") == 4
    lonely = overview([spoken()])
    assert "Nobody speaks." in lonely
    assert "no speech" in lonely
