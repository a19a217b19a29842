"""Annotations are made by the programs' own libraries, and what is written is read back by them."""

import io
import itertools
import random
from xml.etree import ElementTree

import numpy as np
import pympi
import pytest
import soundfile
import textgrid
from praatio.utilities.textgrid_io import getTextgridAsStr

from fmaml_jax.common.errors import UserError
from fmaml_jax.recognition.annotations import Interval, is_annotation, parse, read_annotation
from fmaml_jax.recognition.formats import FORMATS, filling
from fmaml_jax.recognition.support import read_support
from fmaml_jax.recognition.timeline import UNSURE, Prediction, Segment

CLASSES = ("joy", "żal", "silence")
SAID = [(0.0, 1.5, "joy"), (1.5, 2.25, ""), (2.25, 6.125, 'żal "x"'), (6.125, 10.0, "joy")]
WORDS = [
    (0.0, 5e-05, " a [1] "),
    (5e-05, 7.0, 'say "item [2]:\nintervals [3]:" = 5'),
    (7.0, 10.0, ""),
]


@pytest.fixture
def call(tmp_path):
    """A folder with a recording of 10 s."""
    soundfile.write(tmp_path / "call.wav", np.zeros(80_000), 8000)
    return tmp_path / "call.wav"


def grid(**tiers):
    """A TextGrid as praatio has it; tiers of pairs are points."""
    span = {"xmin": 0.0, "xmax": 10.0}
    kinds = {3: "IntervalTier", 2: "TextTier"}
    made = [
        {"class": kinds[len(entries[0])], "name": name, "entries": list(entries), **span}
        for name, entries in tiers.items()
    ]
    return {"tiers": made, **span}


def predicted(file, *labels, speakers=()):
    segments = [
        Segment(start, end, label or UNSURE, 0.75, (0.75, 0.15, 0.1), speaker)
        for (start, end, label), speaker in zip(labels, speakers or [""] * len(labels), strict=True)
    ]
    names = tuple(dict.fromkeys(filter(None, speakers)))
    envelope = np.zeros(3, np.float32)
    return Prediction(str(file), 10.0, CLASSES, tuple(segments), envelope, (), names)


def written(form, prediction):
    file = io.StringIO(newline="")
    form.write([prediction], file)
    return file.getvalue()


@pytest.mark.parametrize("form", ["long_textgrid", "short_textgrid"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_textgrids_of_both_forms_and_encodings(call, form, encoding):
    text = getTextgridAsStr(grid(words=WORDS, emotion=SAID, p=[(3.5, 'a "b"')]), form, False)
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    path = call.with_suffix(".TextGrid")
    path.write_bytes((mark + text.replace("\n", "\r\n")).encode(encoding))
    sound, intervals = read_annotation(path)
    assert sound == call
    assert [interval[:3] for interval in intervals] == SAID
    heard = [interval[:3] for interval in read_annotation(path, "Words").intervals]
    assert heard == [(start, end, label.replace("\n", "\r\n")) for start, end, label in WORDS]


def test_a_textgrid_of_another_library(call):
    path = call.with_suffix(".textgrid")
    made = textgrid.TextGrid(maxTime=10.0)
    tier = textgrid.IntervalTier("emotion", 0.0, 10.0)
    for start, end, label in SAID:
        if label:
            tier.add(start, end, label)
    made.append(tier)
    made.write(str(path))
    assert [interval[:3] for interval in read_annotation(path).intervals] == SAID


def eaf(path, media="call.wav"):
    """ELAN's file by pympi: speech with who speaks, and emotions that refer to it."""
    made = pympi.Eaf()
    if media:
        made.add_linked_file(f"file:///C:/elsewhere/{media}", f"./{media}", "audio/x-wav")
    made.remove_tier("default")
    made.add_tier("speech", part="Ann")
    for start, end, label in SAID:
        made.add_annotation("speech", round(1000 * start), round(1000 * end), f"say {label}")
    made.add_linguistic_type("of speech", "Symbolic_Association", timealignable=False)
    made.add_tier("emotion", "of speech", "speech", part="Ann")
    for start, _, label in SAID:
        made.add_ref_annotation("emotion", "speech", round(1000 * start) + 10, label)
    made.to_file(path)
    return path


def test_an_eaf_whose_emotions_refer_to_speech(call):
    path = eaf(call.with_name("any name.eaf"))
    sound, intervals = read_annotation(path)
    assert sound == call
    assert intervals == [Interval(*said, "Ann") for said in SAID]
    assert read_annotation(path, "speech").intervals[0] == Interval(0.0, 1.5, "say joy", "Ann")


def test_an_eaf_may_begin_later_than_its_sound(call):
    path = eaf(call.with_name("later.eaf"))
    path.write_text(
        path.read_text().replace("<MEDIA_DESCRIPTOR ", '<MEDIA_DESCRIPTOR TIME_ORIGIN="2000" ')
    )
    assert [interval.start for interval in read_annotation(path).intervals] == [2, 3.5, 4.25, 8.125]
    segments = [(0.5, 1.5, "joy"), (1.5, 3.0, "żal"), (4.0, 9.5, "joy")]
    path.write_text(written(filling(path, "mood"), predicted(call, *segments)))
    assert read_annotation(path, "mood").intervals == [
        Interval(2.0, 3.0, "żal"),
        Interval(4.0, 9.5, "joy"),
    ]


def test_an_eaf_of_another_recording_is_said_to_be_so(call, capsys):
    path = eaf(call.with_suffix(".eaf"), "żółć.mp4")
    for name, said in (("a/żółć.wav", ""), ("call.wav", "call.eaf is about other files than")):
        written(filling(path, "mood"), predicted(name, (0.5, 1.5, "joy")))
        assert said in (err := capsys.readouterr().err)
        assert bool(said) == bool(err)


def test_labels_of_audacity_beside_a_table_of_the_same_suffix(call):
    path = call.with_suffix(".txt")
    path.write_text("0.000000\t1.500000\tjoy\n\\\t100.0\t900.0\n2.25\t6.125\tżal@Ann B\n7\t8\n")
    assert is_annotation(path)
    assert read_annotation(path) == (
        call,
        [
            Interval(0.0, 1.5, "joy"),
            Interval(2.25, 6.125, "żal", "Ann B"),
            Interval(7.0, 8.0, ""),
        ],
    )
    path.write_text("file\tlabel\ncall.wav\tjoy\n")
    assert not is_annotation(path)


@pytest.mark.parametrize("name", ["textgrid", "eaf", "audacity"])
def test_what_predict_writes_is_read_again_with_its_speakers(call, name):
    speakers = ("channel 2", "Ann", "Ann", "channel 2")
    path = call.with_suffix(FORMATS[name].suffix)
    path.write_text(written(FORMATS[name], predicted(call, *SAID, speakers=speakers)))
    sound, intervals = read_annotation(path)
    assert sound == call
    expected = [
        Interval(start, end, label or UNSURE, speaker)
        for (start, end, label), speaker in zip(SAID, speakers, strict=True)
    ]
    assert [interval for interval in intervals if interval.label] == expected
    path.write_text(written(FORMATS[name], predicted(call, *SAID)))
    assert [interval[2:] for interval in read_annotation(path).intervals] == [
        (label or UNSURE, "") for *_, label in SAID
    ]


def test_an_eaf_of_predict_is_read_by_another_library(call):
    path = call.with_suffix(".eaf")
    path.write_text(written(FORMATS["eaf"], predicted(call, *SAID, speakers=["Ann"] * 4)))
    found = pympi.Eaf(path)
    assert list(found.tiers) == ["emotion@Ann", "confidence@Ann"]
    assert found.get_parameters_for_tier("emotion@Ann")["PARTICIPANT"] == "Ann"
    assert found.get_annotation_data_for_tier("emotion@Ann") == [
        (round(1000 * start), round(1000 * end), label or UNSURE) for start, end, label in SAID
    ]
    (media,) = found.media_descriptors
    assert media["MEDIA_URL"] == call.as_uri()
    assert media["RELATIVE_MEDIA_URL"] == "./call.wav"


@pytest.mark.parametrize("form", ["long_textgrid", "short_textgrid"])
def test_a_tier_of_a_textgrid_is_filled_and_the_others_stay(call, form):
    empty = [(0.0, 10.0, "")]
    before = grid(words=WORDS, Emotion=empty, points=[(0.25, ' a "b" '), (9.5, "c")])
    path = call.with_suffix(".TextGrid")
    path.write_text(getTextgridAsStr(before, form, False), encoding="utf-16")
    segments = [(0.5, 1.5, "joy"), (1.5, 10.04, "żal")]
    path.write_text(written(filling(path, "emotion"), predicted(call, *segments)))
    after = {tier["name"]: tier for tier in parse(path)["tiers"]}
    assert list(after) == ["words", "Emotion", "points"]
    assert after["words"]["entries"] == WORDS
    assert after["points"]["entries"] == [(0.25, ' a "b" '), (9.5, "c")]
    filled = textgrid.TextGrid.fromFile(str(path))[1]
    assert [(each.minTime, each.maxTime, each.mark) for each in filled] == [
        (0, 0.5, ""),
        (0.5, 1.5, "joy"),
        (1.5, 10, "żal"),
    ]
    with pytest.raises(UserError, match=r"the tier 'Emotion' of .* is filled already"):
        filling(path, "emotion")
    path.write_text(
        written(filling(path, "mood"), predicted(call, *segments, speakers=("B", "Ann")))
    )
    names = [tier.name for tier in textgrid.TextGrid.fromFile(str(path))]
    assert names == ["words", "Emotion", "points", "mood@B", "mood@Ann"]


def test_a_tier_of_an_eaf_is_filled_and_all_else_stays(call):
    path = eaf(call.with_suffix(".eaf"))
    text = path.read_text()
    text = text.replace('TIME_SLOT_REF2="ts3"', 'CVE_REF="cve7" TIME_SLOT_REF2="ts3"', 1)
    text = text.replace("<HEADER", "<!-- by hand --><HEADER").replace(
        "</HEADER>", '<PROPERTY NAME="lastUsedAnnotationId">9</PROPERTY></HEADER>'
    )
    text = text.replace('TIME_SLOT_ID="ts4"', 'TIME_SLOT_ID="odd name 4"').replace(
        '="ts4"', '="odd name 4"'
    )
    path.write_text(text)
    before = ElementTree.parse(path).getroot()
    path.write_text(
        written(filling(path, "mood"), predicted(call, (0.5, 1.5, "joy"), (2, 9, "żal")))
    )
    assert "<!-- by hand -->" in path.read_text()
    after = ElementTree.parse(path).getroot()
    *tiers, _ = after.findall("TIER")
    assert list(map(plain, tiers)) == list(map(plain, before.findall("TIER")))
    assert any(each.get("CVE_REF") == "cve7" for each in tiers[0].iter())
    times = [int(slot.get("TIME_VALUE")) for slot in after.iter("TIME_SLOT")]
    assert times == sorted(times)
    ids = [each.get("ANNOTATION_ID") for each in after.iter() if each.get("ANNOTATION_ID")]
    assert len(ids) == len(set(ids)) == 10
    assert after.findtext("HEADER/PROPERTY[@NAME='lastUsedAnnotationId']") == ids[-1].strip("a")
    assert [each.tag for each in after][:6] == [
        "HEADER",
        "TIME_ORDER",
        *["TIER"] * 3,
        "LINGUISTIC_TYPE",
    ]
    assert read_annotation(path, "mood").intervals == [
        Interval(0.5, 1.5, "joy"),
        Interval(2.0, 9.0, "żal"),
    ]
    for tier in ("mood", "emotion"):
        with pytest.raises(UserError, match=f"the tier '{tier}' of .* is filled already"):
            filling(path, tier)
    for one in (parent := tiers[1]).findall("ANNOTATION"):
        parent.remove(one)
    ElementTree.ElementTree(after).write(path)
    with pytest.raises(UserError, match="'emotion' depends on 'speech'; name another"):
        written(filling(path, "emotion"), predicted(call, (0.5, 1.5, "joy")))


def plain(element):
    """An element's text without indentation."""
    copy = ElementTree.fromstring(ElementTree.tostring(element))
    ElementTree.indent(copy)
    return ElementTree.tostring(copy).strip()


def test_random_textgrids_come_through_unchanged(tmp_path):
    """Praat's rules against random texts of what matters to them."""
    pieces = ['"', '""', "\n", " ", "!", "<exists>", "1", "5 ", "item [1]:", "xmin = 3", "ż", "\t"]
    chance = random.Random(0)

    def text():
        return "".join(chance.choices(pieces, k=chance.randrange(6)))

    path = tmp_path / "a.TextGrid"
    for form in ("long_textgrid", "short_textgrid") * 30:
        edges = sorted({0.0, 10.0, *(chance.uniform(0, 10) for _ in range(5))})
        intervals = [(a, b, text()) for a, b in itertools.pairwise(edges)]
        made = grid(**{text() or "x": intervals, "points": [(edge, text()) for edge in edges]})
        path.write_text(getTextgridAsStr(made, form, False), newline="")
        assert parse(path) == made


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        (
            "call.TextGrid",
            grid(words=WORDS, a=SAID),
            r"no tier 'emotion'; .* --tier: it has words, a$",
        ),
        (
            "call.TextGrid",
            grid(emotion=[(1.0, "joy")]),
            "'emotion' of .* has points, which last no",
        ),
        (
            "call.TextGrid",
            grid(emotion=[(3.0, 3.0, "joy")]),
            "labels 'joy' from 3 to 3 s, no length",
        ),
        ("call.TextGrid", grid(emotion=[(3.0, 5.0, "a"), (4.0, 6.0, "b")]), "that overlap at 4 s"),
        (
            "call.TextGrid",
            grid(emotion=[(9.0, 9.5, "joy")]) | {"xmin": 8.0, "xmax": 11.0},
            "is from 8 to 11 s of a recording, and .*call.wav lasts 10 s; shift its times to 0",
        ),
        (
            "call.TextGrid",
            'File type = "ooTextFile"\nObject class = "TextGrid"\n0 1e400 <exists> 0',
            "is not a TextGrid that can be read",
        ),
        ("other.TextGrid", grid(emotion=SAID), "no sound is beside .*other.TextGrid; put the file"),
        ("call.TextGrid", "", "is not a TextGrid that can be read"),
        (
            "call.TextGrid",
            'File type = "ooTextFile"\nObject class = "Sound"\n0 1',
            "is not a TextGrid",
        ),
        ("call.TextGrid", b"\xff\xfeodd", "is not a TextGrid in UTF-8 or UTF-16"),
        ("call.eaf", "<a/>", "is not an annotation of ELAN"),
        ("call.eaf", "<a", "is not XML"),
        ("call.eaf", '<?xml version="1.0" encoding="gb2312"?><a/>', "is not XML"),
        ("call.eaf", '<?xml version="1.0" encoding="unknown"?><a/>', "is not XML"),
        (
            "call.eaf",
            '<ANNOTATION_DOCUMENT><TIME_SLOT TIME_VALUE="0.5"/></ANNOTATION_DOCUMENT>',
            "has the TIME_VALUE '0.5', no number of milliseconds",
        ),
        (
            "call.eaf",
            '<ANNOTATION_DOCUMENT><MEDIA_DESCRIPTOR TIME_ORIGIN=""/></ANNOTATION_DOCUMENT>',
            "has the TIME_ORIGIN '', no number of milliseconds",
        ),
        (
            "call.eaf",
            '<ANNOTATION_DOCUMENT><HEADER TIME_UNITS="PAL-frames"/></ANNOTATION_DOCUMENT>',
            "counts time in PAL-frames; save it in ELAN in milliseconds",
        ),
        ("call.txt", "1\t2\tjoy\n3 4 joy", "line 2 of .* is not a start, an end and a label"),
        ("call.txt", "2\t2\tjoy", "labels 'joy' from 2 to 2 s, no length"),
        ("call.txt", "-1\t2\tjoy", "labels 'joy' from -1 to 2 s, before the sound; move it"),
    ],
)
def test_bad_annotations_are_one_sentence(call, name, content, sentence):
    path = call.with_name(name)
    if isinstance(content, dict):
        content = getTextgridAsStr(content, "long_textgrid", False)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=sentence):
        read_annotation(path)


def test_a_textgrid_of_a_part_of_a_recording(call):
    path = call.with_suffix(".TextGrid")
    part = grid(emotion=[(8.0, 9.0, "joy")]) | {"xmin": 7.0}
    path.write_text(getTextgridAsStr(part, "long_textgrid", False))
    assert read_annotation(path).intervals == [Interval(8.0, 9.0, "joy")]


@pytest.mark.parametrize(
    "address", ["http://[x/call.wav", "file:///C:/a%20b/c#1/call.wav", "C:\\call.wav"]
)
def test_addresses_of_sound_of_every_kind(call, address):
    path = eaf(call.with_suffix(".eaf"))
    tree = ElementTree.parse(path)
    (media,) = tree.iter("MEDIA_DESCRIPTOR")
    media.attrib = {"MEDIA_URL": address}
    tree.write(path)
    call.with_name("other.wav").write_bytes(b"")
    path = path.rename(path.with_name("other.eaf"))
    assert read_annotation(path, "speech").sound == call


def test_sound_that_is_missing_or_there_twice(call):
    path = eaf(call.with_name("a.eaf"), "gone.wav")
    with pytest.raises(UserError, match=r"a\.eaf is about gone\.wav, which is missing; put it"):
        read_annotation(path)
    nameless = eaf(call.with_name("b.eaf"), "")
    with pytest.raises(UserError, match=r"no sound is beside .*b\.eaf; put the file"):
        read_annotation(nameless)
    call.with_name("b.wav").write_bytes(call.read_bytes())
    assert read_annotation(nameless).sound.name == "b.wav"
    call.with_name("b.mp4").write_bytes(call.read_bytes())
    with pytest.raises(UserError, match=r"b\.mp4 and b\.wav lie beside"):
        read_annotation(nameless)


def test_sound_whose_name_no_file_can_have(call):
    path = eaf(call.with_suffix(".eaf"), f"{'x' * 300}.wav")
    assert read_annotation(path, "speech").sound == call


def test_an_eaf_without_times(call):
    path = eaf(call.with_suffix(".eaf"))
    path.write_text(path.read_text().replace(' TIME_VALUE="0"', ""))
    with pytest.raises(UserError, match="does not say when 'say joy' begins and ends; align it"):
        read_annotation(path, "speech")
    path.write_text(path.read_text().replace(">say joy<", "><"))  # nothing is said there
    assert [each.start for each in read_annotation(path, "speech").intervals] == [1.5, 2.25, 6.125]


def test_a_textgrid_of_another_recording_is_not_filled(call):
    path = call.with_suffix(".TextGrid")
    path.write_text(getTextgridAsStr(grid(words=WORDS), "long_textgrid", False))
    with pytest.raises(UserError, match="lasts 10 s, and the recording 12 s; give the TextGrid"):
        written(filling(path, "emotion"), predicted(call)._replace(seconds=12.0))
    with pytest.raises(UserError, match=r"is neither a .TextGrid nor an .eaf"):
        filling(call, "emotion")


@pytest.fixture
def recording(trained, tmp_path):
    """Four clips as one recording, its path, and where they begin and end."""
    clips = [soundfile.read(path) for path in trained[1].paths[:4]]
    path = tmp_path / "heard" / "call.wav"
    path.parent.mkdir()
    soundfile.write(path, np.concatenate([clip for clip, _ in clips]), clips[0][1])
    edges = np.cumsum([0, *(len(clip) / rate for clip, rate in clips)]).round(3).tolist()
    return path, list(itertools.pairwise(edges))


@pytest.mark.parametrize("name", ["csv", "textgrid", "eaf", "audacity"])
def test_corrected_output_goes_in_again(recording, start, name, capsys, monkeypatch):
    path, parts = recording
    monkeypatch.chdir(path.parents[1])
    labels = [(*part, label) for part, label in zip(parts, ("joy", "", "żal", "awe"), strict=True)]
    found = predicted("heard/call.wav", *labels, speakers=("A", "A", "B", "B"))
    out = path.with_suffix(FORMATS[name].suffix)
    # Two labels corrected, one of them emptied.
    text = written(FORMATS[name], found).replace("joy", "złość").replace("awe", "")
    out.write_text(text, newline="")
    clips = read_support(out, start)
    assert [(clip.label, clip.speaker) for clip in clips] == [("złość", "A"), ("żal", "B")]
    assert clips[1].part == pytest.approx(parts[2], abs=0.01)
    assert "2 labelled, passed over: " in (said := capsys.readouterr().err)
    assert "1 unsure" in said
    if name in ("textgrid", "eaf"):
        out.with_name(f"._{out.name}").write_text("of a Mac")
        assert [clip.label for clip in read_support(path.parent, start, "emotion")] == [
            "złość",
            "żal",
        ]
        with pytest.raises(UserError, match="or name the tier that has labels: --tier=emotion"):
            read_support(path.parent, start)


def test_a_label_of_minutes_is_several_clips(recording, start):
    path, _ = recording
    samples, rate = soundfile.read(path)
    soundfile.write(path, np.resize(samples, 80 * rate), rate)
    labels = [(0.0, 62.0, "joy"), (62.0, 80.0, "awe")]
    out = path.with_suffix(".TextGrid")
    found = predicted(path, *labels)._replace(seconds=80.0)
    out.write_text(written(FORMATS["textgrid"], found))
    clips = read_support(out, start)
    assert [clip.label for clip in clips] == ["joy"] * 5 + ["awe"]
    assert [clip.part[0] for clip in clips] == pytest.approx([0, 12.4, 24.8, 37.2, 49.6, 62])


def test_a_tier_is_of_annotations(recording, start, tmp_path):
    (table := tmp_path / "a.csv").write_text("file,label\na.wav,joy\n")
    with pytest.raises(UserError, match="has no tiers, and no --tier=emotion"):
        read_support(table, start, "emotion")
    with pytest.raises(UserError, match=r"holds neither TextGrids nor .eaf files, as --tier=mood"):
        read_support(tmp_path, start, "mood")


def test_segments_that_are_all_in_doubt_are_no_support(call, start):
    path = call.with_suffix(".txt")
    path.write_text("0\t1\tunsure\n1\t2\t\n")
    with pytest.raises(UserError, match="has no segment with a label; give some of them one"):
        read_support(path, start)
