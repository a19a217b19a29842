"""Python's interface: sound that is in memory, results as plain data, and what is refused."""

import io
import json
import sys
import typing

import jsonschema
import numpy as np
import pytest
import soundfile

from fmaml_jax import recognition
from fmaml_jax.recognition import (
    LabelledClip,
    Prediction,
    Segment,
    Turn,
    UserError,
    enrol,
    load,
    load_start,
    predict,
    predict_folder,
    read_clip_as,
    read_turns,
    save,
    write,
)
from fmaml_jax.recognition.estimate import stretches
from fmaml_jax.recognition.formats import FORMATS, SCHEMA
from fmaml_jax.recognition.timeline import UNSURE
from fmaml_jax.synthesis.speech import emofilm_clips, render

RATE = 22_050


def voice(pitch, seconds=1.0, seed=0, channels=1):
    """Something like a voiced sound, [frames, channels], full scale at 1."""
    time = np.arange(round(seconds * RATE))[:, None] / RATE
    chance = np.random.default_rng(seed)
    tones = sum(np.sin(2 * np.pi * pitch * k * time + k) / k for k in range(1, 20))
    loudness = 0.5 + 0.4 * np.sin(2 * np.pi * 4 * time)
    noise = chance.normal(0, 0.02, (len(time), channels))
    return (0.1 * tones * loudness + noise).astype(np.float32)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A folder for each label."""
    folder = tmp_path_factory.mktemp("clips")
    for label, pitch in (("calm", 110), ("lively", 260)):
        (folder / label).mkdir()
        for number in range(3):
            sound = voice(pitch * (1 + number / 20), seconds=1.2 - number / 10, seed=number)
            soundfile.write(folder / label / f"{number}.wav", sound, RATE, "FLOAT")
    return folder


@pytest.fixture(scope="module")
def recogniser(start, clips):
    """One that is for clips by speaker too, which it hears as they are."""
    made = enrol(start, clips)
    means = np.zeros((len(made.classes), len(made.scale.mean)), np.float32)
    return made._replace(means=means)


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """Some 16 s of speech in two channels, which are no single clip."""
    path = tmp_path_factory.mktemp("recording") / "call.flac"
    said = [render(clip, seed=0)[0] for clip in emofilm_clips(["es"], 1)]
    sound = np.resize(np.concatenate(said), 16 * RATE)
    soundfile.write(path, np.stack([sound, sound[::-1]], axis=1), RATE, "PCM_16")
    return path


def without_name(prediction):
    return (*prediction._replace(file="", envelope=()), prediction.envelope.tolist())


def of_paths(folder):
    return {label: sorted((folder / label).iterdir()) for label in ("calm", "lively")}


@pytest.mark.parametrize("how", [{}, {"channels": "split"}, {"turns": [Turn(1.0, 4.0, "Ann")]}])
def test_sound_in_memory_is_heard_as_its_file_is(recogniser, recording, how):
    of_file = predict(recogniser, recording, **how)
    in_memory = predict(recogniser, soundfile.read(recording), **how)
    assert (of_file.file, in_memory.file) == (str(recording), "sound in memory")
    assert without_name(of_file) == without_name(in_memory)
    assert of_file.segments


def test_a_clip_is_the_same_in_every_form(recogniser, clips):
    path = of_paths(clips)["calm"][0]
    of_path = predict(recogniser, path)
    with open(path, "rb") as opened:
        from_opened = predict(recogniser, opened)
    assert from_opened.file == str(path)
    samples, rate = soundfile.read(path)
    others = [
        predict(recogniser, (samples.astype(np.float32), np.int64(rate))),
        predict(recogniser, (samples[:, None], rate)),
        predict(recogniser, (samples.tolist(), rate)),
        predict(recogniser, io.BytesIO(path.read_bytes())),
    ]
    for other in (from_opened, *others):
        assert without_name(other) == without_name(of_path)


def test_a_mapping_is_enrolled_as_the_folder_of_the_same_clips_is(start, clips, tmp_path):
    paths = of_paths(clips)
    in_memory = {label: [*map(soundfile.read, own)] for label, own in paths.items()}
    mixed = {
        label: (first, soundfile.read(second), io.BytesIO(third.read_bytes()))
        for label, (first, second, third) in paths.items()
    }
    for number, support in enumerate((clips, paths, in_memory, mixed)):
        # Warnings name clips, which have other names in memory.
        save(enrol(start, support)._replace(warnings=()), tmp_path / f"{number}.model")
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_clips_in_memory_are_named_by_their_label_and_place(start, clips):
    sounds = {label: [*map(soundfile.read, own)] for label, own in of_paths(clips).items()}
    sounds["calm"].append(sounds["calm"][0])
    assert "'calm 4' is a copy of 'calm 1' and is left out" in enrol(start, sounds).warnings
    path, sound = of_paths(clips)["calm"][0], sounds["calm"][0]
    (one, other) = (read_clip_as(given, "calm", start) for given in (path, sound))
    assert (one.name, other.name) == ("0.wav", "sound in memory")
    assert other._replace(name=one.name, file=one.file, features=()) == one._replace(features=())
    np.testing.assert_array_equal(other.features, one.features)


def test_channels_of_different_sounds_in_memory_are_no_parts_of_one(start):
    first, second = (
        read_clip_as((voice(pitch, channels=2), RATE), "calm", start, "channel 2")
        for pitch in (110, 260)
    )
    assert len({*stretches([first, second])}) == 2


def test_folders_take_sound_in_memory_too(recogniser, recording, clips):
    names = [str(recording), str(of_paths(clips)["calm"][0])]
    sounds = [soundfile.read(name) for name in names]
    of_files = predict_folder(recogniser, names, speakers="folder")
    of_sounds = predict_folder(recogniser, sounds, speakers="folder")
    assert [*map(without_name, of_files)] == [*map(without_name, of_sounds)]


def test_turns_are_of_a_path_however_it_is_written(recogniser, recording, tmp_path):
    told = tmp_path / "call.rttm"
    told.write_text("SPEAKER call 1 1.0 3.0 <NA> <NA> Ann <NA> <NA>\n")
    turns = read_turns(str(told), [str(recording)])
    assert turns == {str(recording): [Turn(1.0, 4.0, "Ann")]}
    (found,) = predict_folder(recogniser, [recording], speakers="named", turns=turns)
    assert found.speakers == ("Ann",)


def test_turns_in_any_order_are_the_same(recogniser, recording):
    turns = [Turn(1.0, 4.0, "Ann"), Turn(4.0, 9.0, "Bo"), Turn(11.0, 15.0, "Ann")]
    one, other = (predict(recogniser, recording, turns=given) for given in (turns, turns[::-1]))
    assert without_name(one) == without_name(other)


def prediction_of(*segments, file="call.wav", classes=("a", "b")):
    envelope = np.zeros(3, np.float32)
    return Prediction(file, 9.0, classes, segments, envelope)


def test_the_label_is_the_one_that_lasts_longest():
    a, b, c = (
        Segment(0.0, 2.0, "a", 0.9, ()),
        Segment(2.0, 5.0, "b", 0.6, ()),
        Segment(5.0, 7.0, "a", 0.6, ()),
    )
    assert prediction_of(a).label == "a"
    assert prediction_of(a, b).label == "b"
    assert prediction_of(a, b, c).label == "a"
    assert prediction_of().label == UNSURE


def test_results_are_what_the_command_writes(recogniser, recording, tmp_path):
    prediction = predict(recogniser, recording, channels="split")
    write([prediction], tmp_path / "out.json")
    document = json.loads((tmp_path / "out.json").read_text())
    assert document["predictions"] == [prediction.to_dict()]
    jsonschema.validate(document, json.loads(SCHEMA.read_text()))
    write((prediction, prediction), tmp_path / "new" / "out.CSV")
    pandas = pytest.importorskip("pandas", reason="to_frame needs pandas")
    frame = prediction.to_frame()
    twice = pandas.read_csv(tmp_path / "new" / "out.CSV")
    pandas.testing.assert_frame_equal(twice, pandas.concat([frame, frame], ignore_index=True))


def test_a_table_without_pandas_is_an_error_that_can_be_mended(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match="pip install pandas"):
        prediction_of().to_frame()


@pytest.mark.parametrize("name", FORMATS)
def test_the_suffix_says_the_format(name, tmp_path):
    prediction = prediction_of(Segment(0.0, 2.0, "a", 0.9, (0.9, 0.1)))
    write([prediction], tmp_path / f"out{FORMATS[name].suffix}")
    expected = io.StringIO(newline="")
    FORMATS[name].write([prediction], expected)
    written = (tmp_path / f"out{FORMATS[name].suffix}").read_bytes().decode()
    if name == "eaf":  # which has the time in it
        expected, written = expected.getvalue()[-900:], written[-900:]
        assert written == expected
    else:
        assert written == expected.getvalue()


def test_representations_are_short(recogniser, start):
    names = tuple(f"{number} " + "long" * 20 for number in range(50))
    long = prediction_of(
        *(Segment(float(i), i + 1.0, names[0], 0.5, (0.02,) * 50) for i in range(9)),
        file="folder/" * 100 + "call.wav",
        classes=names,
    )
    clip = LabelledClip("a.wav", "a", "", np.zeros((1, 649), np.float32), "", ())
    many = recogniser._replace(classes=names, counts=(9,) * 50)
    for value in (long, recogniser, many, start, clip):
        assert len(repr(value)) < 300
    assert "call.wav" in repr(long)
    assert "9 segments" in repr(long)
    assert "calm" in repr(recogniser)
    assert "6 clips" in repr(recogniser)


def test_progress_is_told_and_nothing_is_printed(start, clips, recording, capfd):
    reading, listening = [], []
    model = enrol(start, clips, report=lambda done, total: reading.append((done, total)))
    predict(model, recording, report=listening.append)
    assert reading == [(0, 6), (6, 6)]
    assert listening[-1] == pytest.approx(16)
    assert "".join(capfd.readouterr()) == ""


def test_every_name_is_there_and_has_types():
    assert set(recognition.__all__) == {name for own in recognition._HOMES.values() for name in own}
    for name in recognition.__all__:
        found = getattr(recognition, name)
        if callable(found):
            assert found.__doc__
            assert found is UserError or typing.get_type_hints(found)
    with pytest.raises(AttributeError, match="has no attribute 'enroll'"):
        _ = recognition.enroll


SOUNDS = {
    "without its rate": np.zeros(9, np.float32),
    "int16; give floats": (np.ones(9, np.int16), RATE),
    r"\(2, 22050\); give": (np.zeros((2, RATE)), RATE),
    "empty": (np.zeros(0), RATE),
    "empty ": (np.zeros((9, 0)), RATE),
    "NaN or infinite": (np.full(RATE, np.nan), RATE),
    "infinite samples": (np.full(RATE, 1e300), RATE),
    "no whole number": (np.zeros(9), 22_050.5),
    "a second": (np.zeros(9), True),
    "no array of samples": ([[0.0], [0.0, 1.0]], RATE),
    "open it with mode 'rb'": io.StringIO("text"),
    "NoneType and no sound": None,
    "bytes and no sound": b"RIFF",
    "list and no sound": ["a.wav"],
    "tuple and no sound": (np.zeros(9), RATE, "calm"),
}
"""What is no sound, and what is said of it."""


@pytest.mark.parametrize("message", SOUNDS)
def test_what_is_no_sound_is_refused(recogniser, start, message):
    with pytest.raises(UserError, match=message.strip()):
        predict(recogniser, SOUNDS[message])
    if isinstance(SOUNDS[message], io.StringIO):
        SOUNDS[message].seek(0)
    with pytest.raises(UserError, match=rf"clip 'calm 1' cannot be used: .*{message.strip()}"):
        enrol(start, {"calm": [SOUNDS[message]]})


def test_other_values_are_refused(recogniser, start, clips, recording, tmp_path):
    sound = (np.ones(99), RATE)
    refused = {
        "the start is of the type int; give": lambda: enrol(3, clips),
        "the start is of the type NoneType": lambda: load_start(None),
        "support is of the type list": lambda: enrol(start, ["a.wav"]),
        "support is of the type NoneType": lambda: enrol(start, None),
        "the mapping holds no clips": lambda: enrol(start, {"a": []}),
        "the mapping holds no clips;": lambda: enrol(start, {}),
        "'a' has no list of clips": lambda: enrol(start, {"a": "a.wav"}),
        "'a' has no list": lambda: enrol(start, {"a": sound}),
        "'a' has no": lambda: enrol(start, {"a": 3}),
        "'a'": lambda: enrol(start, {"a": io.BytesIO()}),
        "the label 1 is of the type int; give text": lambda: enrol(start, {1: [sound]}),
        "a mapping has no tiers": lambda: enrol(start, {"a": [sound]}, tier="emotion"),
        "same_as is of the type str": lambda: enrol(start, clips, same_as="calm=neutral"),
        "without is of the type str": lambda: enrol(start, clips, without="neutral"),
        "tier is of the type NoneType": lambda: enrol(start, clips, tier=None),
        "report is of the type int; give a function": lambda: enrol(start, clips, report=3),
        "report is of the type str": lambda: predict(recogniser, recording, report="on"),
        "look is of the type bool": lambda: predict(recogniser, recording, look=True),
        "speakers='loud' is none of": lambda: enrol(start, clips, speakers="loud"),
        "label is of the type int": lambda: read_clip_as(recording, 3, start),
        "start is of the type str": lambda: read_clip_as(recording, "a", "descriptors"),
        "recogniser is of the type str": lambda: predict("my.model", recording),
        "recogniser is of the type PosixPath": lambda: save(tmp_path / "a.model", recogniser),
        "path is of the type NoneType": lambda: save(recogniser, None),
        "path is of the type Recogniser": lambda: load(recogniser),
        "encoder is of the type int": lambda: load(tmp_path / "a.model", 3),
        "abstain is of the type str": lambda: predict(recogniser, recording, abstain="0.5"),
        "channels='both' is none of": lambda: predict(recogniser, recording, channels="both"),
        "turns is of the type int": lambda: predict(recogniser, recording, turns=3),
        "a turn is of the type tuple": lambda: predict(recogniser, recording, turns=[(0, 1, "A")]),
        "is not a length of time": lambda: predict(recogniser, recording, turns=[Turn(2, 1, "A")]),
        "start of a turn is of the type str": lambda: predict(
            recogniser, recording, turns=[Turn("0", "1", "A")]
        ),
        "speaker of a turn is of the type int": lambda: predict(
            recogniser, recording, turns=[Turn(0, 1, 5)]
        ),
        "the turn from 0 s has no speaker": lambda: predict(
            recogniser, recording, turns=[Turn(0, np.float32(1), " ")]
        ),
        "turns has turns of A that overlap": lambda: predict(
            recogniser, recording, turns=[Turn(1, 3, "A"), Turn(0, 2, "A")]
        ),
        "sources is not a list": lambda: predict_folder(recogniser, "a.wav", speakers="folder"),
        "sources is no": lambda: predict_folder(recogniser, sound, speakers="folder"),
        "sources is": lambda: predict_folder(recogniser, 3, speakers="folder"),
        "speakers='' is none": lambda: predict_folder(recogniser, [recording], speakers=""),
        "turns is of the type list": lambda: predict_folder(
            recogniser, [recording], speakers="named", turns=[Turn(0, 1, "A")]
        ),
        "what is written is of the type": lambda: write(prediction_of(), tmp_path / "a.csv"),
        "predictions is of the type int": lambda: write(3, tmp_path / "a.csv"),
        "path is of the type list": lambda: write([], []),
        "a suffix of no format": lambda: write([prediction_of()], tmp_path / "a.doc"),
        "there are 0; write a file": lambda: write([], tmp_path / "a.TextGrid"),
        "holds one recording, and there are 2": lambda: write(
            [prediction_of()] * 2, tmp_path / "a.eaf"
        ),
    }
    for message, call in refused.items():
        with pytest.raises(UserError, match=message):
            call()
    assert not [*tmp_path.iterdir()]
