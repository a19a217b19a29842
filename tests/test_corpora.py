"""File names to labels, languages, speakers and scenes, against the published lists."""

import csv
import os
from pathlib import Path

import pytest

from data_prep.corpora import (
    CORPORA,
    KNOWN,
    Clip,
    Skipped,
    clip_names,
    list_clips,
    namesakes,
    parse,
)
from fmaml_jax.common.errors import UserError

SHARED = Path(__file__).resolve().parents[2] / "shared"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="no shared/ beside the checkout")


def touch(folder, *files):
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()


@needs_shared
@pytest.mark.parametrize("corpus", ["emodb", "emovo", "ravdess", "cremad", "nemo"])
def test_every_name_of_the_real_corpora(corpus):
    manifest = SHARED / "corpora" / corpus / "manifest.csv"
    with manifest.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) >= 500
    for row in rows:
        clip = parse(CORPORA[corpus], row["path"])
        assert isinstance(clip, Clip), clip
        assert (clip.label, clip.language, clip.speaker) == (
            row["emotion"],
            row["language"],
            row["speaker"],
        )
        assert clip.scene


@needs_shared
def test_manifest_and_names_agree():
    folder = SHARED / "corpora" / "emovo"
    by_name = list_clips("emovo", folder).clips
    by_manifest = list_clips("manifest", folder).clips
    assert [clip._replace(scene="") for clip in by_name] == by_manifest


@needs_shared
def test_all_published_emofilm_names(tmp_path):
    published = SHARED / "emofilm_labels" / "EmoFilm_labels_v2.csv"
    with published.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    emotions = {"an": "anger", "co": "disgust", "fe": "fear", "ha": "happiness", "sa": "sadness"}
    touch(tmp_path, *(row["file"] for row in rows))
    bare = {clip.file: clip for clip in list_clips("emofilm", tmp_path).clips}
    assert len(bare) == len(rows) == 1115
    for row in rows:
        clip = bare[row["file"]]
        assert (clip.label, clip.language) == (emotions[row["emo"]], row["language"])
        assert clip.speaker == ""
        assert clip.scene == row["file"][:8]

    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / published.name).write_bytes(published.read_bytes())
    joined = {clip.file: clip for clip in list_clips("emofilm", tmp_path).clips}
    for row in rows:
        clip = joined[row["file"]]
        unknown = ("????", "unknown male", "unknown female")
        assert clip.speaker == ("" if row["speaker"] in unknown else row["speaker"])
        assert clip.scene == f"{row['film']}/{row['file'][:8]}"


def test_emofilm_label_list_without_the_rate_in_the_names(tmp_path):
    touch(tmp_path, "es/f_ans001aes.flac")
    (tmp_path / "EmoFilm_labels.csv").write_text("file,speaker,film\nf_ans001aes_16k.wav,ann,up\n")
    (clip,) = list_clips("emofilm", tmp_path).clips
    assert clip == Clip("es/f_ans001aes.flac", "fear", "es", "ann", "up/f_ans001")


@pytest.mark.parametrize(
    ("corpus", "file", "label", "language", "speaker", "scene"),
    [
        ("emofilm", "m_dis012bit.wav", "disgust", "it", "", "m_dis012"),
        ("emodb", "wav/16b10Lb.wav", "boredom", "de", "16", "b10"),
        ("emodb", "03A01NC.WAV", "neutral", "de", "03", "a01"),
        ("emovo", "EMOVO/f1/sor-f1-n5.wav", "surprise", "it", "f1", "n5"),
        ("ravdess", "Actor_12/03-01-02-01-02-01-12.wav", "calm", "en", "12", "02"),
        ("cremad", "1040_ITH_SAD_X.wav", "sadness", "en", "1040", "ith"),
        ("nemo", "samples/SK0_surprise_7.wav", "surprise", "pl", "SK0", "7"),
        ("savee", "AudioData/DC/a01.wav", "anger", "en", "DC", "a01"),
        ("savee", "ALL/KL_sa15.wav", "sadness", "en", "KL", "sa15"),
        ("savee", "JK_su01.wav", "surprise", "en", "JK", "su01"),
        ("tess", "OAF_Pleasant_surprise/OAF_back_ps.wav", "surprise", "en", "OAF", "back"),
        ("tess", "YAF_angry/YAF_germ_angry.wav", "anger", "en", "YAF", "germ"),
        ("tess", "OAF_neutral/OA_bite_neutral.wav", "neutral", "en", "OAF", "bite"),
        ("mesd", "Anger_C_A_abajo.wav", "anger", "es", "C", "abajo"),
        ("mesd", "Happiness_F_B_de_nada.wav", "happiness", "es", "F", "de_nada"),
        ("cafe", "Colère/Fort/01-C-2-1.aiff", "anger", "fr", "01", "1"),
        ("cafe", "12-T-1-6.wav", "sadness", "fr", "12", "6"),
        ("aesdd", "anger/a03 (4).wav", "anger", "el", "4", "03"),
        ("aesdd", "sadness/s05 (3)b.wav", "sadness", "el", "3", "05"),
    ],
)
def test_names_of_each_corpus(corpus, file, label, language, speaker, scene):
    assert parse(CORPORA[corpus], file) == Clip(file, label, language, speaker, scene)


@pytest.mark.parametrize(
    ("corpus", "file", "reason"),
    [
        ("ravdess", "Actor_01/03-02-03-01-01-01-01.wav", "song"),
        ("ravdess", "03-01-09-01-01-01-01.wav", "the label code '09' is unknown"),
        ("emodb", "03a01Xa.wav", "the label code 'X' is unknown"),
        ("emodb", "x03a01Wa.wav", "the name matches nothing of this corpus"),
        ("emodb", "03a01Wa/noise.wav", "the name matches nothing of this corpus"),
        ("emofilm", "f_ans001afr.wav", "the name matches nothing of this corpus"),
    ],
)
def test_names_that_are_skipped(corpus, file, reason):
    assert parse(CORPORA[corpus], file) == Skipped(file, reason)


def test_search_takes_any_audio_suffix_and_leaves_the_rest(tmp_path):
    touch(
        tmp_path,
        *("a/b/03a01Wa.FLAC", "03a02Wa.ogg", "03a04Wa.mp3", "03a05Wa.Wav"),
        *("._03a01Wa.wav", ".trash/03a07Wa.wav", "readme.txt", "03a01Wa", "a/Thumbs.db"),
    )
    (tmp_path / "loop").symlink_to(tmp_path)
    clips, skipped, ignored = list_clips("emodb", tmp_path)
    assert [clip.file for clip in clips] == [
        *("03a02Wa.ogg", "03a04Wa.mp3", "03a05Wa.Wav", "a/b/03a01Wa.FLAC")
    ]
    assert not skipped
    assert ignored == (
        "1 .txt (readme.txt), 1 hidden (.trash/03a07Wa.wav), 1 without a suffix (03a01Wa)"
    )


def test_names_are_unique():
    files = ["a/x.wav", "a/x.flac", "b/x.wav"]
    clips = [Clip(file, "anger", "en") for file in files]
    assert clip_names(clips) == ["a/x.wav", "a/x.flac", "b/x"]


def test_folders(tmp_path):
    touch(tmp_path, "Anger/1.wav", "deep/down/joy/2.wav", "silence/3.wav", "stray.wav")
    clips, skipped, _ = list_clips("folders", tmp_path, language="fi")
    assert [(clip.label, clip.language) for clip in clips] == [
        ("anger", "fi"),
        ("joy", "fi"),
        ("silence", "zxx"),
    ]
    assert skipped == [Skipped("stray.wav", "it lies in no label's folder")]
    with pytest.raises(UserError, match="add --language=CODE"):
        list_clips("folders", tmp_path)


def test_language_overrides_the_corpus(tmp_path):
    touch(tmp_path, "03a01Wa.wav")
    assert list_clips("emodb", tmp_path, language="nl").clips[0].language == "nl"


def test_manifest(tmp_path):
    touch(tmp_path, "a b.wav", "sub/c.wav", "d.wav", "e.wav")
    (tmp_path / "manifest.csv").write_bytes(
        b"\xef\xbb\xbfPath, Emotion ,language,speaker,scene\n"
        b'"a b.wav",Anger,en,ann,s1\n'
        b"./sub/c.wav,silence,,,\n"
        b"\n"
        b"../d.wav,anger,en,,\n"
        b"gone.wav,anger,en,,\n"
        b"d.wav,,en,,\n"
        b"e.wav,anger,English\n"
        b",anger,en\n"
    )
    clips, skipped, _ = list_clips("manifest", tmp_path)
    table = tmp_path / "manifest.csv"
    assert clips == [
        Clip("a b.wav", "anger", "en", "ann", "s1"),
        Clip("sub/c.wav", "silence", "zxx"),
    ]
    assert dict(skipped) == {
        "(no path)": f"line 9 of {table} has an empty path",
        "../d.wav": "its path leaves --audio_dir",
        "gone.wav": "the manifest lists it, but there is no such file",
        "d.wav": "the manifest gives it no label",
        "e.wav": "the language 'english' is not an ISO 639 code such as en",
    }


def test_manifest_as_a_spreadsheet_writes_it(tmp_path):
    touch(tmp_path, "sub/a.wav", "sub/b.wav")
    text = "Path;Label;Language;Start;End\r\nsub\\a.wav;Wut;de;1,5;2,5\r\nsub\\b.wav;Angst;de\r\n"
    (tmp_path / "manifest.csv").write_text(text, "utf-16", newline="")
    assert list_clips("manifest", tmp_path).clips == [
        Clip("sub/a.wav", "wut", "de", part=(1.5, 2.5)),
        Clip("sub/b.wav", "angst", "de"),
    ]


def test_parts_of_a_manifest(tmp_path):
    touch(tmp_path, "a.wav", "b.wav")
    rows = [("a", 4, 6), ("a", 0, 2), ("a", 1.95, 4), ("a", 3, 5), ("a", 0, 2), ("b", "", "")]
    lines = (f"{file}.wav,joy,en,{begin},{end}\n" for file, begin, end in rows)
    (tmp_path / "manifest.csv").write_text("path,label,language,start,end\n" + "".join(lines))
    clips, skipped, _ = list_clips("manifest", tmp_path)
    parts = [(0.0, 2.0), (0.0, 2.0), (1.95, 4.0), (4.0, 6.0)]
    assert [(clip.file, clip.part) for clip in clips] == [
        *(("a.wav", part) for part in parts),
        ("b.wav", (0.0, None)),
    ]
    assert skipped == [Skipped("a.wav", "its part from 3 to 5 s overlaps that from 1.95 to 4 s")]
    assert clip_names(clips) == [
        *("a from 0 to 2 s", "a from 0 to 2 s", "a from 1.95 to 4 s", "a from 4 to 6 s", "b")
    ]


def test_names_that_look_the_same_are_one(tmp_path):
    names = [
        ("\u00dcber", "Ann", "A 1"),
        ("u\u0308BER ", "ANN", "a  1"),
        ("\uff35\u0308ber", "ann", ""),
    ]
    touch(tmp_path, *(f"{index}.wav" for index in range(3)))
    lines = (f"{index}.wav,{','.join(row)}\n" for index, row in enumerate(names))
    (tmp_path / "manifest.csv").write_text("path,label,speaker,scene\n" + "".join(lines))
    clips = list_clips("manifest", tmp_path, "de").clips
    assert [clip[1:5] for clip in clips] == [
        *(("\u00fcber", "de", "Ann", "A 1"),) * 2,
        ("\u00fcber", "de", "Ann", ""),
    ]
    touch(tmp_path, "f/Angry /1.wav", "f/angry/2.wav", "f/A\u0301/3.wav", "f/\u00e1/4.wav")
    labels = [clip.label for clip in list_clips("folders", tmp_path / "f", "pl").clips]
    assert labels.count("angry") == labels.count("\u00e1") == 2


def test_names_that_are_no_text(tmp_path):
    for name in (b"w\xfctend/1.wav", b"joy/\xfc.wav"):
        path = os.path.join(os.fsencode(tmp_path), name)
        os.makedirs(os.path.dirname(path))
        open(path, "w").close()
    clips, skipped, _ = list_clips("folders", tmp_path, "de")
    assert skipped == [
        Skipped("w\udcfctend/1.wav", "'w\\udcfctend' is not text in UTF-8; rename it")
    ]
    assert [clip.file for clip in clips] == ["joy/\udcfc.wav"]
    assert clip_names(clips) == ["joy/\\xfc"]


@pytest.mark.parametrize(
    ("corpus", "best", "copy", "other"),
    [
        ("cremad", "WAV/1001_IEO_ANG_HI.wav", "MP3/1001_IEO_ANG_HI.mp3", "1001_IEO_ANG_LO"),
        (
            "ravdess",
            "b/03-01-06-01-02-01-12.wav",
            "01-01-06-01-02-01-12.wav",
            "03-01-06-02-02-01-12",
        ),
        ("cafe", "CaFE_192k/01-C-2-1.aiff", "CaFE_48k/01-C-2-1.aiff", "01-C-1-1"),
        ("emofilm", "f_ans001aen.wav", "16k/f_ans001aen_16k.wav", "f_ans001ben"),
        ("emodb", "03a01Fa.wav", "copy/03A01FA.mp3", "03a01Fb"),
        ("emovo", "dis-f1-b1.wav", "f1/dis-f1-b1.ogg", "dis-f1-b2"),
        ("nemo", "EB0_anger_14.flac", "x/EB0_anger_14.mp3", "EB0_anger_15"),
        ("savee", "DC/a01.wav", "DC_a01.mp3", "JE_a01"),
        ("tess", "OAF_bite_neutral.wav", "OA_bite_neutral.wav", "YAF_bite_neutral"),
        ("mesd", "Anger_C_A_abajo.wav", "x/Anger_C_A_abajo.mp3", "Anger_C_B_abajo"),
        ("aesdd", "a03 (4).wav", "x/a03(4).mp3", "a03 (4)b"),
    ],
)
def test_copies_of_a_take_are_one_clip(tmp_path, corpus, best, copy, other):
    touch(tmp_path, best, copy, f"{other}.wav")
    (tmp_path / best).write_bytes(bytes(20))
    (tmp_path / copy).write_bytes(bytes(40 if copy.endswith("mp3") else 10))
    if corpus == "ravdess":  # of one size: the name tells which is taken from a video
        (tmp_path / copy).write_bytes(bytes(20))
    clips = {clip.file: clip.copies for clip in list_clips(corpus, tmp_path).clips}
    assert clips == {best: (copy,), f"{other}.wav": ()}


def test_namesakes():
    files = ["wav/joy/1.wav", "joy/2.wav", "mp3/joy/1.mp3", "awe/1.wav", "joy/1.wav"]
    clips = [Clip(file, file.split("/")[-2], "en") for file in files]
    assert namesakes(clips) == [("wav/joy/1.wav", "mp3/joy/1.mp3"), ("wav/joy/1.wav", "joy/1.wav")]
    parts = [clips[0]._replace(part=(float(i), i + 1.0)) for i in range(2)]
    assert namesakes([*parts, clips[2]._replace(speaker="ann")]) == []


def test_manifest_elsewhere_and_language_by_flag(tmp_path):
    touch(tmp_path, "audio/a.wav")
    (tmp_path / "list.csv").write_text("label,path\nfear,a.wav\n")
    clips, *_ = list_clips("manifest", tmp_path / "audio", "sv", tmp_path / "list.csv")
    assert clips == [Clip("a.wav", "fear", "sv")]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "does not exist; name the CSV file with --manifest"),
        (b"", "is empty; its first line names the columns"),
        (b"path,label,language\n", "lists no clip"),
        (b"file,label,language\na,b,en\n", "has no column path; it has file, label, language"),
        (b"path,speaker,language\na,b,en\n", "has no column label"),
        (b"path,label\na,b\n", "has no column language; add it, or --language"),
        (b"path,label,language\n\xff\xfe,b,en\n", "is not a CSV file in UTF-8"),
    ],
)
def test_bad_manifests(tmp_path, text, sentence):
    if text is not None:
        (tmp_path / "manifest.csv").write_bytes(text)
    with pytest.raises(UserError, match=sentence) as caught:
        list_clips("manifest", tmp_path)
    assert "manifest.csv" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"corpus": "emobd"},
            "there is no corpus 'emobd'; --corpus is one of emofilm, .*mean emodb",
        ),
        ({"corpus": "emodb", "language": "German"}, "--language=German is not an ISO 639 code"),
        ({"corpus": "emodb", "manifest": Path("x.csv")}, "use --corpus=manifest"),
    ],
)
def test_bad_options(tmp_path, options, sentence):
    with pytest.raises(UserError, match=sentence):
        list_clips(audio_dir=tmp_path, **options)


def test_missing_folder(tmp_path):
    with pytest.raises(UserError, match="nowhere does not exist"):
        list_clips("emodb", tmp_path / "nowhere")


def test_every_corpus_of_the_interface_is_known():
    names = "emofilm emodb emovo ravdess cremad nemo savee tess mesd cafe aesdd folders manifest"
    assert " ".join(KNOWN) == names
