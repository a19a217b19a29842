"""Names that look the same, and tables as spreadsheets and hands write them."""

import pytest

from fmaml_jax.common.errors import UserError
from fmaml_jax.common.text import (
    LONGEST_NAME,
    Row,
    clean_name,
    did_you_mean,
    is_text,
    listed_file,
    name_key,
    one_spelling,
    read_part,
    read_table,
    require_name,
    shortened,
)


@pytest.mark.parametrize(
    "other",
    [
        *("ÜBERRASCHUNG", "U\u0308berraschung", " Überraschung\n", "\ufeffÜberraschung"),
        *("Über\u00adraschung", "\u200eÜberraschung\u200f", "\uff35\u0308berraschung"),
    ],
)
def test_names_that_look_the_same_have_one_key(other):
    assert name_key(other) == name_key("Überraschung")
    assert name_key(name_key(other)) == name_key(other)
    assert one_spelling(["Überraschung", other, "Angst"]) == ["Überraschung"] * 2 + ["Angst"]


def test_other_names_stay_others():
    names = ["gniew", "gniév", "gnie w", "गुस्सा", "怒り", "怒", ""]
    assert len(set(map(name_key, names))) == len(names)
    assert one_spelling(names) == names


def test_a_name_is_kept_as_it_is_written_but_for_blanks_and_accents():
    assert clean_name("  Cafe\u0301\t Noir\n") == "Café Noir"
    assert clean_name("\uff2aoy²") == "\uff2aoy²"
    assert is_text("żal")
    assert not is_text("\udcfc")


def test_the_nearest_name_is_suggested():
    known = ("anger", "Happiness", "fear")
    assert did_you_mean("Anger", known) == did_you_mean("angry", known) == "; did you mean anger?"
    assert did_you_mean("happines", known) == "; did you mean Happiness?"
    assert did_you_mean("boredom", known) == ""


def cells(path, raw, *needed):
    path.write_bytes(raw)
    return [row.cells for row in read_table(path, *needed)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_every_delimiter_line_end_and_encoding(tmp_path, delimiter, end, encoding):
    lines = [
        [" Path", "LABEL ", "note"],
        ["a b.wav", " żal ", '"1,5; ""so""\tit is"'],
        [],
        ["c.wav", "joy"],
        ["d.wav", "joy", "", "", ""],
    ]
    text = end.join(map(delimiter.join, lines))
    first, second, third = cells(tmp_path / "x.csv", text.encode(encoding), "path", "label")
    assert first == {"path": "a b.wav", "label": "żal", "note": '1,5; "so"\tit is'}
    assert second == {"path": "c.wav", "label": "joy", "note": ""}
    assert third == {"path": "d.wav", "label": "joy", "note": ""}


def test_columns_without_a_name_are_no_columns(tmp_path):
    index = b",file,label,,\n0,a.wav,joy,,\n"  # as pandas writes an index, and spreadsheets borders
    assert cells(tmp_path / "x.csv", index) == [{"file": "a.wav", "label": "joy"}]
    assert cells(tmp_path / "x.csv", b"\n,,\nfile\n\na.wav\n") == [{"file": "a.wav"}]


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (b"", "is empty; its first line names the columns"),
        (b" \n,,\n", "is empty"),
        (b"file,label\n", "has no column path; it has file, label"),
        (b"path,Label,label\n", r"has two columns label \(Label and label\); rename or remove one"),
        (b"path,start,end\na,1,2\n\nb,1,5,2,5\n", "line 4 of .* has 5 cells for 3 columns"),
        (b'path,label\na,"joy\nb,fear\n', "line 3 of .* is not a line of a CSV file"),
        (b'path,label\na,"joy" x\n', "line 2 of .* is not a line of a CSV file"),
        (b"path,label\na\0b,joy\n", "line 2 of .* has a NUL byte; save the file as CSV in UTF-8"),
        ("path,label\na,b\n".encode("utf-16-le"), "line 1 of .* has a NUL byte"),
        (b"path,label\nw\xfctend,b\n", "is not a CSV file in UTF-8"),
        (b"\xff\xfep", "is not a CSV file in UTF-8"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, raw, sentence):
    with pytest.raises(UserError, match=sentence):
        cells(tmp_path / "clips.csv", raw, "path")
    with pytest.raises(UserError, match=r"cannot read .*gone.csv: No such file"):
        read_table(tmp_path / "gone.csv")


@pytest.mark.parametrize(
    ("table", "part"),
    [
        ("file\na\n", (0.0, None)),
        ("file,start,end\na,,\n", (0.0, None)),
        ("file,start,end\na,1.5,2.5\n", (1.5, 2.5)),
        ("file,start,end\na,,nan\n", (0.0, None)),
        ("file;start;end\na;1,5;2.5\n", (1.5, 2.5)),
        ("file\tEnd\tSTART\na\t2,25\t\n", (0.0, 2.25)),
    ],
)
def test_parts(tmp_path, table, part):
    (tmp_path / "x.csv").write_text(table)
    (row,) = read_table(tmp_path / "x.csv")
    assert read_part(row) == part


@pytest.mark.parametrize(
    ("start", "end", "sentence"),
    [
        ("soon", "", "line 2 of x.csv has the start 'soon', no number of seconds such as 1.5"),
        ("0", "1,5", "line 2 of x.csv has the end '1,5', no number"),
        ("2", "1", "line 2 of x.csv has a part from 2 s to 1 s;"),
        ("-1", "", "line 2 of x.csv has a part from -1 s to the end;"),
        ("1", "1", "ends after it starts"),
        ("-1", "", "starts at 0 or later"),
        ("inf", "", "starts at 0 or later"),
        ("0", "inf", "from 0 s to inf"),
    ],
)
def test_impossible_parts(start, end, sentence):
    with pytest.raises(UserError, match=sentence):
        read_part(Row({"start": start, "end": end}, "line 2 of x.csv"))


def test_listed_files(tmp_path):
    (tmp_path / "sub").mkdir()
    for file in ("sub/e\u0301.wav", "sub\\x.wav", "sub/y.wav", "sub/\u017c.wav"):
        (tmp_path / file).touch()
    for name, file in {
        "sub\\\u00e9.wav": "sub/e\u0301.wav",
        "sub/z\u0307.wav": "sub/\u017c.wav",
        "sub\\x.wav": "sub\\x.wav",  # where a file is called so, it is that one
        "sub\\y.wav": "sub/y.wav",
        str(tmp_path / "sub" / "y.wav"): "sub/y.wav",
        "sub\\gone.wav": "sub/gone.wav",
    }.items():
        assert listed_file(tmp_path, name) == tmp_path / file


def test_a_name_has_an_end():
    require_name("ż" * LONGEST_NAME, "label")
    with pytest.raises(UserError, match=r"the label 'aaaaaaaaaaaaaaaaaaaa'... has 81 letters, and"):
        require_name("a" * 81, "label")
    assert shortened("gniew") == "gniew"
    assert shortened("a" * 99) == "a" * 23 + "…"
