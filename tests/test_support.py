"""The labelled clips of an enrolment: every way to list them, and what is said of them."""

import numpy as np
import pytest
import soundfile

from fmaml_jax.common.errors import UserError
from fmaml_jax.recognition.naming import name_classes
from fmaml_jax.recognition.support import look_over, read_clip_as, read_support
from fmaml_jax.web.session import Session, add_clips
from tests.test_prepare import noise


@pytest.fixture
def folder(tmp_path, trained):
    """Clips in a folder for each label; one name is hard."""
    _, speech = trained
    for label, name in (("anger", "anger"), ("fear", 'stra"ch\n i żal')):
        (tmp_path / "clips" / name / "deeper").mkdir(parents=True)
        for path in speech.of(label)[:2]:
            (tmp_path / "clips" / name / path.name).write_bytes(path.read_bytes())
    deep = speech.of("fear")[2]
    (tmp_path / "clips" / name / "deeper" / deep.name).write_bytes(deep.read_bytes())
    (tmp_path / "clips" / "anger" / "notes.txt").write_text("no audio")
    return tmp_path / "clips"


def test_a_folder_for_each_label(folder, start):
    clips = read_support(folder, start)
    assert [clip.label for clip in clips] == ["anger"] * 2 + ['stra"ch i żal'] * 3
    assert {clip.speaker for clip in clips} == {""}


def test_a_csv_with_parts_and_speakers(tmp_path, trained, start):
    _, speech = trained
    samples, rate = zip(*(soundfile.read(path) for path in speech.paths[:2]), strict=True)
    seconds = [len(clip) / rate[0] for clip in samples]
    soundfile.write(tmp_path / "long one.wav", np.concatenate(samples), rate[0])
    table = tmp_path / "clips.csv"
    table.write_text(
        "\ufeffFile,label,start,end,speaker\n"
        f'long one.wav,"joy, or ""so""",0,{seconds[0]},Łucja\n'
        f"long one.wav,żal,{seconds[0]},,\n"
    )
    first, second = read_support(table, start)
    assert (first.label, first.speaker) == ('joy, or "so"', "Łucja")
    assert (second.label, second.speaker) == ("żal", "")
    whole = [read_clip_as(path, "x", start) for path in speech.paths[:2]]
    # The ends of a part have no neighbours to be resampled with.
    for part, clip in zip((first, second), whole, strict=True):
        difference = np.abs(part.features - clip.features).mean()
        assert difference < 0.05 * np.abs(first.features - second.features).mean()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("file,label\n", "holds no clips"),
        ("path,label\na.wav,joy\n", "has no column file; it has path, label; name its columns"),
        ("a.wav;joy\n", "has no columns file and label; .* such as file;label"),
        ("file,label\na.wav,joy\n\n,joy\n", "line 4 of .* names no file"),
        ("file,label\na.wav,\n", "'a.wav' has no label"),
        ("file,label\na.wav,Unsure\n", "no class can be called 'Unsure'"),
        (
            "file,label\nmissing.wav,joy\n",
            "line 2 of .*clips.csv lists 'missing.wav', and there is no /",
        ),
        (f"file,label\n{'x' * 300},joy\n", "line 2 of .*clips.csv lists 'xxx"),
        (
            "file,label,start\na.wav,joy,9\n",
            "line 2 of .*clips.csv: .*only 0.5 s long, which ends before 9 s",
        ),
        ("file,label\nempty.wav,joy\n", "empty"),
        ("file,label\nsilent.wav,joy\n", "all samples are zero"),
        ("file,label\ntext.wav,joy\n", "unreadable"),
        ("file,label\nhour.flac,joy\n", "3,600 s long, and a clip is at most 60 s; cut it"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path, start, content, sentence):
    soundfile.write(tmp_path / "a.wav", noise(), 16_000)
    (tmp_path / "empty.wav").touch()
    soundfile.write(tmp_path / "silent.wav", np.zeros(8000), 16_000)
    (tmp_path / "text.wav").write_text("not audio at all")
    if "hour" in content:
        soundfile.write(tmp_path / "hour.flac", np.resize(np.int16([0, 9]), 3_600_000), 1000)
    (tmp_path / "clips.csv").write_text(content)
    with pytest.raises(UserError, match=sentence):
        read_support(tmp_path / "clips.csv", start)


def test_folders_that_hold_nothing_or_stray_clips(tmp_path, start):
    with pytest.raises(UserError, match="does not exist"):
        read_support(tmp_path / "nothing", start)
    with pytest.raises(UserError, match=r"cannot read .*: File name too long; give a folder"):
        read_support(tmp_path / ("x" * 300), start)
    with pytest.raises(UserError, match="holds no clips"):
        read_support(tmp_path, start)
    soundfile.write(tmp_path / "stray.wav", noise(), 16_000)
    with pytest.raises(UserError, match=r"stray.wav lies in no folder of a label"):
        read_support(tmp_path, start)


def test_folders_of_labels_within_others_are_refused_or_said(tmp_path, trained, start, capsys):
    for speaker in ("ewa", "jan"):
        for label in ("anger", "fear"):
            (tmp_path / "outside" / label / speaker).mkdir(parents=True)
            (tmp_path / "within" / speaker / label).mkdir(parents=True)
            for clip in (f"outside/{label}/{speaker}", f"within/{speaker}/{label}"):
                (tmp_path / clip / "a.wav").write_bytes(trained[1].paths[0].read_bytes())
    with pytest.raises(UserError, match=r"ewa/anger/a.wav .* outside \(anger/ewa\), or list the"):
        read_support(tmp_path / "within", start)
    assert [clip.label for clip in read_support(tmp_path / "outside", start)] == [
        *("anger", "anger", "fear", "fear")
    ]
    assert "not told apart: anger/ewa, anger/jan, fear/ewa, fear/jan" in capsys.readouterr().err


def test_a_recording_is_no_list_of_clips(tmp_path, start):
    soundfile.write(tmp_path / "interview.wav", noise(), 16_000)
    with pytest.raises(UserError, match=r"interview.wav is one recording, without labels; put"):
        read_support(tmp_path / "interview.wav", start)


def test_a_table_of_semicolons_lists_files_beside_it(tmp_path, trained, start):
    (tmp_path / "list" / "sound").mkdir(parents=True)
    (tmp_path / "list/sound/a.wav").write_bytes(trained[1].paths[0].read_bytes())
    (tmp_path / "list/clips.csv").write_text("file;label;start;end\nsound/a.wav;joy;0,1;0,9\n")
    (clip,) = read_support(tmp_path / "list/clips.csv", start)
    assert (clip.label, clip.part) == ("joy", (0.1, 0.9))


def test_labels_are_text(trained, start):
    with pytest.raises(UserError, match=r"has the label .*udcff.*, no text"):
        read_clip_as(trained[1].paths[0], "jo\udcffy", start)
    clip = read_clip_as(trained[1].paths[0], " z\u0307al\u00a0 b \n", start, "\tAnn  B ")
    assert (clip.label, clip.speaker) == ("\u017cal b", "Ann B")


def test_findings(tmp_path, trained, start):
    # What is far from a few hundred clips is near to as many as a real checkpoint has seen.
    start = start._replace(scale=start.scale._replace(matrix=start.scale.matrix / 3))
    _, speech = trained
    samples, rate = soundfile.read(speech.of("anger")[0])

    def findings(clip, sample_rate=rate):
        soundfile.write(tmp_path / "clip.wav", clip, sample_rate, "FLOAT")
        return " ".join(read_clip_as(tmp_path / "clip.wav", "anger", start).findings)

    assert findings(samples) == ""
    assert "clipped" in findings(np.clip(50 * samples, -1, 1))
    assert "hardly any sound" in findings(1e-4 * samples)
    assert "shorter than 0.5 s" in findings(samples[: rate // 3])
    assert "longer than 20 s" in findings(np.tile(samples, 30)[: 21 * rate])
    assert "only 8000 samples a second" in findings(samples[::2], 8000)
    music = sum(np.sin(2 * np.pi * hertz * np.arange(2 * rate) / rate) for hertz in (220, 330))
    assert "far from all speech" in findings(0.2 * music)

    def of_part(end):
        return read_clip_as(speech.of("anger")[0], "anger", start, part=(0.0, end)).findings

    assert of_part(len(samples) / rate + 0.09) == of_part(None) == ()
    assert "ends earlier than its list says" in of_part(len(samples) / rate + 0.2)[0]


def clip_of(start, trained, label="joy", digest="a", speaker="", findings=()):
    path = trained[1].paths[0]
    clip = read_clip_as(path, label, start, speaker)
    return clip._replace(name=f"{digest}.wav", digest=digest, findings=findings)


def test_copies_are_left_out_and_contradictions_too(start, trained):
    clips = [
        clip_of(start, trained, digest="a"),
        clip_of(start, trained, digest="a")._replace(name="again.wav"),
        clip_of(start, trained, digest="b"),
        clip_of(start, trained, "awe", "b")._replace(name="other.wav"),
        clip_of(start, trained, "JOY", "c"),
    ]
    kept, warnings = look_over(clips, ("silence",))
    assert [(clip.digest, clip.label) for clip in kept] == [("a", "joy"), ("c", "joy")]
    assert "'again.wav' is a copy of 'a.wav' and is left out" in warnings
    assert any("different labels" in text and "'other.wav' (awe)" in text for text in warnings)


def test_names_that_look_the_same_are_one(start, trained):
    names = [("\u00dcber", "Ann"), ("u\u0308BER", "ann"), ("\uff35\u0308ber", "ANN\u200b")]
    clips = [
        clip_of(start, trained, label, str(index), speaker)
        for index, (label, speaker) in enumerate(names)
    ]
    kept, warnings = look_over(clips, ("silence",))
    assert {(clip.label, clip.speaker) for clip in kept} == {("\u00dcber", "Ann")}
    assert any("all clips are of one speaker" in warning for warning in warnings)


def test_names_in_flags_may_be_written_in_any_way(start):
    naming = name_classes(start, {"\u017cal", "joy"}, {"Z\u0307AL": "Anger "}, ["SILENCE"])
    assert naming.known_as["\u017cal"] == "anger"
    assert naming.free == ("neutral",)


def test_a_page_spells_names_as_it_has_them(start, trained, tmp_path):
    session = Session()
    for index, label in enumerate(("\u017bal", "z\u0307al ", "joy")):
        path = tmp_path / str(index) / "clip.wav"  # an upload has a folder, which goes with it
        path.parent.mkdir()
        path.write_bytes(trained[1].paths[index].read_bytes())
        assert add_clips(session, start, [path], label, "anger", ("Ann", "ANN", "ann")[index])[0]
    assert [clip.label for clip in session.clips] == ["\u017bal", "\u017bal", "joy"]
    assert {clip.speaker for clip in session.clips} == {"Ann"}
    assert session.same_as == {"\u017cal": "anger", "joy": "anger"}


def test_one_moment_has_one_label(tmp_path, trained, start):
    samples, rate = soundfile.read(trained[1].paths[0])
    soundfile.write(tmp_path / "long.wav", np.tile(samples, 3), rate)

    def clip(label, begin, end):
        return read_clip_as(tmp_path / "long.wav", label, start, part=(begin, end))

    first, whole = clip("joy", 0, 1.2), clip("joy", 0, None)
    assert (first.part, whole.part[0]) == ((0, 1.2), 0)
    assert whole.part[1] == pytest.approx(3 * len(samples) / rate)
    assert first.file == whole.file
    kept, _ = look_over([first, clip("joy", 0.1, 1.3), clip("awe", 1.25, 2)], ())
    assert len(kept) == 3
    with pytest.raises(
        UserError, match=r"'long.wav from 0.1 s' \(awe\) share 1.1 s, which have one"
    ):
        look_over([clip("awe", 0.1, 1.3), first], ())


def test_warnings(start, trained):
    def said(clips, fixed=("silence",)):
        return " | ".join(look_over(clips, fixed)[1])

    few = [clip_of(start, trained, digest=str(i)) for i in range(4)]
    assert "'joy' has 4 clips; 5 or more" in said(few)
    assert "no speakers are named" in said(few)
    one = [clip_of(start, trained, digest=str(i), speaker="A") for i in range(5)]
    assert said(one) == (
        "all clips are of one speaker: other voices will be recognised worse than estimated here"
    )
    two = [*one, clip_of(start, trained, digest="z", speaker="B")]
    assert said(two) == ""
    clipped = [clip._replace(findings=("clipped",)) for clip in two]
    assert said(clipped) == "'0.wav', '1.wav', '2.wav' and 3 more: clipped"
    silent = [clip._replace(label="Silence", findings=("clipped",)) for clip in two]
    assert said(silent) == ""


def test_names_have_an_end(start, trained):
    with pytest.raises(UserError, match=r"the label 'xxx.*'\.\.\. has 100,000 letters, and"):
        read_clip_as(trained[1].paths[0], "x" * 100_000, start)
    with pytest.raises(UserError, match=r"the speaker 'yyy.*'\.\.\. has 81 letters, and"):
        read_clip_as(trained[1].paths[0], "x" * 80, start, speaker="y" * 81)
