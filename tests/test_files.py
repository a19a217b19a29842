"""Files written whole or not at all, and tables as text."""

import os
import stat
import threading

import pytest

from fmaml_jax.common.errors import UserError
from fmaml_jax.common.files import require_there, whole_file
from fmaml_jax.common.text import text_table


@pytest.mark.parametrize("mode", ["w", "wb"])
def test_a_file_appears_whole_or_not_at_all(tmp_path, mode):
    path = tmp_path / "results.json"
    path.write_text("before")
    text = "after\r\n" if mode == "w" else b"after\r\n"

    def interrupted():
        with whole_file(path, mode) as file:
            file.write(text)
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    assert path.read_text() == "before"
    with whole_file(path, mode) as file:
        file.write(text)
        assert path.read_text() == "before"
    assert path.read_bytes() == b"after\r\n"
    assert os.listdir(tmp_path) == ["results.json"]


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_a_file_has_the_permissions_that_the_umask_leaves(tmp_path, mask):
    before = os.umask(mask)
    try:
        with whole_file(tmp_path / "my.model") as file:
            file.write("voices")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "my.model").stat().st_mode) == 0o666 & ~mask


def test_two_writers_of_one_name_do_not_mix(tmp_path):
    both_open = threading.Barrier(2)

    def write(letter):
        with whole_file(tmp_path / "out.csv") as file:
            file.write(letter * 100)
            file.flush()
            both_open.wait(60)
            file.write(letter * 100)

    threads = [threading.Thread(target=write, args=letter) for letter in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "out.csv").read_text() in ("a" * 200, "b" * 200)


def test_a_link_stays_and_leads_to_what_was_written(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "real.model", tmp_path / "my.model"
    link.symlink_to(target)
    for text in ("first", "second"):  # the target is missing, then there
        with whole_file(link) as file:
            file.write(text)
        assert link.is_symlink()
        assert target.read_text() == text
    assert os.listdir(target.parent) == ["real.model"]


@pytest.mark.parametrize("mode", ["w", "wb"])
def test_a_pipe_is_written_to_and_stays(tmp_path, mode):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    heard = []
    reader = threading.Thread(target=lambda: heard.append(pipe.read_bytes()))
    reader.start()
    with whole_file(pipe, mode) as file:
        file.write("voices" if mode == "w" else b"voices")
    reader.join(60)
    assert heard == [b"voices"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert os.listdir(tmp_path) == ["pipe"]


@pytest.mark.parametrize("name", ["x" * 255, "ż" * 127, "\N{GRINNING FACE}" * 63])
def test_names_as_long_as_the_system_lets_them_be(tmp_path, name):
    with whole_file(tmp_path / name) as file:
        file.write("voices")
    assert os.listdir(tmp_path) == [name]


def test_what_is_not_there_or_not_to_be_looked_at_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    for name in ("none", "file/none", "a\0b"):
        with pytest.raises(UserError, match="does not exist; name another"):
            require_there(tmp_path / name, "name another")
    with pytest.raises(UserError, match=r"cannot read .*: File name too long; name another"):
        require_there(tmp_path / ("x" * 256), "name another")
    require_there(tmp_path, "name another")


def test_columns_of_numbers_are_aligned_right():
    rows = [("class", "clips", "begins"), ("anger", "5", "as new"), ("fear", "12", "")]
    assert text_table(rows) == "class  clips  begins\nanger      5  as new\nfear      12"
