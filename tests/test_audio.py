"""Decoding by parts and as a stream: the same samples as of the whole, the same refusals."""

import numpy as np
import pytest
import soundfile

from data_prep.audio import SAMPLE_RATE, AudioError, probe, read_blocks, read_clip
from tests.test_prepare import noise


@pytest.fixture
def path(tmp_path):
    return tmp_path / "clip.wav"


@pytest.mark.parametrize("rate", [8000, 16_000, 44_100])
def test_a_stream_has_the_samples_of_the_clip(path, rate):
    soundfile.write(path, noise(14, rate=rate, channels=2), rate, "FLOAT")
    blocks = list(read_blocks(path))
    whole = read_clip(path)
    assert len(blocks) > 1 or rate == 8000
    np.testing.assert_allclose(np.concatenate(blocks), whole, atol=1e-4)
    assert probe(path) == (rate, 14.0)


def test_a_part_is_a_slice(path):
    samples = noise(3)
    soundfile.write(path, samples, SAMPLE_RATE, "DOUBLE")
    whole = read_clip(path)
    np.testing.assert_array_equal(read_clip(path, 0.5, 1.25), whole[8000:20_000])
    np.testing.assert_array_equal(read_clip(path, 2.5), whole[40_000:])
    np.testing.assert_array_equal(read_clip(path, 2.5, 99), whole[40_000:])
    with pytest.raises(AudioError, match="no samples after 3 s"):
        read_clip(path, 3.0)


def test_a_part_of_a_damaged_file_can_be_read(path):
    soundfile.write(path, noise(3), SAMPLE_RATE)
    path.write_bytes(path.read_bytes()[:-16_000])
    assert len(read_clip(path, 0.0, 1.0)) == SAMPLE_RATE
    for read in (read_clip, lambda p: list(read_blocks(p))):
        with pytest.raises(AudioError, match="truncated"):
            read(path)


def test_what_a_stream_refuses(path):
    samples = noise(20)
    samples[-100] = np.nan
    soundfile.write(path, samples, SAMPLE_RATE, "FLOAT")
    blocks = read_blocks(path)
    assert len(next(blocks))
    with pytest.raises(AudioError, match="NaN"):
        list(blocks)
    path.write_text("no audio")
    for read in (probe, lambda p: list(read_blocks(p))):
        with pytest.raises(AudioError, match="unreadable"):
            read(path)
        with pytest.raises(AudioError, match="unreadable"):
            read(path.with_name("missing.wav"))


def test_silence_is_no_error_in_a_stream(path):
    soundfile.write(path, np.zeros(8000), SAMPLE_RATE)
    assert not np.concatenate(list(read_blocks(path))).any()


def test_a_wav_from_a_pipe_that_declares_no_data(path):
    soundfile.write(path, noise(1), SAMPLE_RATE)
    raw = bytearray(path.read_bytes())
    raw[4:8] = bytes(4)
    at = raw.index(b"data") + 4
    raw[at : at + 4] = bytes(4)
    path.write_bytes(raw)
    assert probe(path) == (SAMPLE_RATE, 1.0)
    np.testing.assert_array_equal(np.concatenate(list(read_blocks(path))), read_clip(path))
