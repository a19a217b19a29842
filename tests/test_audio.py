"""Decoding by parts and as a stream: the same samples as of the whole, the same refusals."""

import tracemalloc

import numpy as np
import pytest
import soundfile
import soxr

from fmaml_jax.audio import decoding
from fmaml_jax.audio.decoding import SAMPLE_RATE, AudioError, probe, read_blocks, read_clip
from tests.test_prepare import noise


@pytest.fixture
def path(tmp_path):
    return tmp_path / "clip.wav"


@pytest.mark.parametrize(
    ("rate", "channels"), [(8_000, 1), (11_025, 2), (16_000, 2), (44_100, 1), (48_000, 12)]
)
def test_a_stream_has_the_samples_of_the_clip(path, rate, channels):
    """To the bit; and those of a program that averages and resamples the whole in one go."""
    samples = noise(40 + 1 / 3, rate=rate, channels=channels).astype(np.float32)
    soundfile.write(path, samples, rate, "FLOAT")
    mono = samples.reshape(-1, channels).mean(axis=1)
    whole = read_clip(path).samples
    theirs = soxr.resample(mono - mono.mean(dtype=float), rate, SAMPLE_RATE)
    np.testing.assert_allclose(whole, theirs, atol=1e-6)
    blocks = list(read_blocks(path).blocks)
    assert len(blocks) > 2
    np.testing.assert_array_equal(np.concatenate(blocks), whole)
    assert probe(path) == (rate, len(samples) / rate, channels)


@pytest.mark.parametrize(("suffix", "factor"), [(".wav", -1.0), (".wav", 0.01), (".ogg", -1.0)])
def test_one_channel_is_what_a_file_of_it_alone_is(path, suffix, factor):
    """Also where the other cancels it, or is far stronger."""
    first = noise(2, rate=SAMPLE_RATE)
    path = path.with_suffix(suffix)
    soundfile.write(path, np.stack([first, factor * first], axis=1), SAMPLE_RATE)
    assert probe(path).channels == 2
    decoded, _ = soundfile.read(path, dtype="float32")
    for channel in range(2):
        alone = path.with_name("alone.wav")
        soundfile.write(alone, decoded[:, channel], SAMPLE_RATE, "FLOAT")
        expected = read_clip(alone, 0.5, 1.5)
        found = read_clip(path, 0.5, 1.5, channel)
        np.testing.assert_allclose(found.samples, expected.samples, atol=1e-4)
        assert found.findings == ()
        blocks = np.concatenate(list(read_blocks(path, channel).blocks))
        np.testing.assert_allclose(blocks, read_clip(alone).samples, atol=1e-4)
    with pytest.raises(AudioError, match="without a channel 3"):
        read_blocks(path, 2)


def test_a_part_is_a_slice(path):
    samples = noise(3)
    soundfile.write(path, samples, SAMPLE_RATE, "DOUBLE")
    whole = read_clip(path).samples
    for part, expected in (
        (read_clip(path, 0.5, 1.25), whole[8000:20_000]),
        (read_clip(path, 2.5), whole[40_000:]),
        (read_clip(path, 2.5, 99), whole[40_000:]),
    ):
        np.testing.assert_allclose(part.samples, expected - expected.mean(), atol=1e-6)
    with pytest.raises(AudioError, match="only 3 s long, which ends before 3 s"):
        read_clip(path, 3.0)


@pytest.mark.parametrize("suffix", [".flac", ".ogg", ".mp3"])
def test_a_part_of_a_compressed_file_is_at_its_place(path, suffix):
    path = path.with_suffix(suffix)
    soundfile.write(path, noise(3), SAMPLE_RATE)
    whole = read_clip(path).samples
    for part, expected in (
        (read_clip(path, 0.9, 1.25), whole[14_400:20_000]),
        (read_clip(path, 2.5), whole[40_000:]),
    ):
        np.testing.assert_allclose(part.samples, expected - expected.mean(), atol=1e-4)


def test_a_part_of_a_damaged_file_can_be_read(path):
    soundfile.write(path, noise(3), SAMPLE_RATE)
    path.write_bytes(path.read_bytes()[:-16_000])
    assert len(read_clip(path, 0.0, 1.0).samples) == SAMPLE_RATE
    for read in (read_clip, lambda p: list(read_blocks(p).blocks)):
        with pytest.raises(AudioError, match="truncated"):
            read(path)


def test_what_a_stream_refuses(path):
    samples = noise(20)
    samples[-100] = np.nan
    soundfile.write(path, samples, SAMPLE_RATE, "FLOAT")
    with pytest.raises(AudioError, match="NaN"):
        read_blocks(path)
    path.write_text("no audio")
    for read in (probe, lambda p: list(read_blocks(p).blocks)):
        with pytest.raises(AudioError, match="unreadable"):
            read(path)
        with pytest.raises(AudioError, match="unreadable"):
            read(path.with_name("missing.wav"))


def test_silence_is_no_error_in_a_stream(path):
    soundfile.write(path, np.zeros(8000), SAMPLE_RATE)
    assert not np.concatenate(list(read_blocks(path).blocks)).any()


def test_the_memory_of_a_clip_does_not_grow_with_its_channels(tmp_path, monkeypatch):
    samples = (noise(0.5, rate=8000)[:, None] * np.linspace(0, 1, 1024)).astype(np.float32)
    soundfile.write(tmp_path / "many.wav", samples, 8000, "PCM_16")
    whole = read_clip(tmp_path / "many.wav")
    monkeypatch.setattr(decoding, "MOST_HELD", 1 << 18)
    tracemalloc.start()
    again = read_clip(tmp_path / "many.wav")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(again.samples, whole.samples)
    assert peak < samples.nbytes / 2
