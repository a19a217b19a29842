"""What people's files are like: formats, lengths, damage, channels, offsets, no sound at all."""

import os
import struct

import av
import numpy as np
import pytest
import soundfile
from scipy.signal import correlate

from fmaml_jax.audio import ogg
from fmaml_jax.audio.decoding import SAMPLE_RATE, AudioError, probe, read_blocks, read_clip
from fmaml_jax.audio.features import FEATURES, extract
from fmaml_jax.common.files import is_audio, passed_over
from tests.test_prepare import noise


def speech(seconds, seed=0):
    """Noise of the spectrum that telephones carry, in syllables; every codec keeps its shape."""
    spectrum = np.fft.rfft(noise(seconds, seed))
    hertz = np.fft.rfftfreq(round(seconds * SAMPLE_RATE), 1 / SAMPLE_RATE)
    band = np.fft.irfft(spectrum * ((hertz > 300) & (hertz < 3000)), round(seconds * SAMPLE_RATE))
    return band * (1 + np.sin(2 * np.pi * 3 * np.arange(len(band)) / SAMPLE_RATE)) / 2


def encode(path, samples, codec, container, rate=SAMPLE_RATE, options=(), settings=()):
    """A file as phones, browsers and encoders write it; `rate` is what the codec takes."""
    with av.open(str(path), "w", format=container, options=dict(options)) as file:
        stream = file.add_stream(codec, rate=rate, options=dict(settings))
        stream.layout = "mono"
        resampler = av.AudioResampler(format=stream.format.name, layout="mono", rate=rate)
        frame = av.AudioFrame.from_ndarray(samples[None].astype(np.float32), "fltp", "mono")
        frame.sample_rate, frame.pts = SAMPLE_RATE, 0
        for part in (*resampler.resample(frame), *resampler.resample(None)):
            file.mux(stream.encode(part))
        file.mux(stream.encode(None))
    return path


def write_ogg(path, samples, subtype):
    """In parts, since libsndfile takes no long one."""
    with soundfile.SoundFile(path, "w", SAMPLE_RATE, 1, subtype, format="OGG") as file:
        for at in range(0, len(samples), 4000):
            file.write(samples[at : at + 4000])
    return path


def likeness(ours, theirs):
    """Correlation at the best delay, which codecs have."""
    return correlate(ours, theirs).max() / np.linalg.norm(ours) / np.linalg.norm(theirs)


RECORDED = {
    "browser.webm": ("libopus", "webm", 48_000),
    "live.webm": ("libopus", "webm", 48_000, {"live": "1"}),
    "a.mka": ("libopus", "matroska", 48_000),
    "whatsapp.opus": ("libopus", "ogg", 48_000),
    "phone.m4a": ("aac", "ipod", 44_100),
    "phone.mp4": ("aac", "mp4", 16_000),
    "lossless.m4a": ("alac", "ipod", 16_000),
    "a.aac": ("aac", "adts", 16_000),
    "old_phone.3gp": ("libopencore_amrnb", "3gp", 8_000),
    "old_phone.amr": ("libopencore_amrnb", "amr", 8_000),
    "mp3_in.wav": ("libmp3lame", "wav", 16_000),
    "from_a_pipe.mp3": ("libmp3lame", "mp3", 16_000, {"write_xing": "0"}),
    "no_xing.mp3": (
        *("libmp3lame", "mp3", 16_000, {"write_xing": "0"}),
        {"flags": "+qscale", "global_quality": "700"},
    ),
}


@pytest.mark.parametrize("name", RECORDED)
def test_what_phones_browsers_and_encoders_write_is_read_whole(tmp_path, name):
    samples = speech(3.0)
    path = encode(tmp_path / name, samples, *RECORDED[name])
    assert is_audio(name)
    sound = read_clip(path)
    assert sound.seconds == pytest.approx(3.0, abs=0.12)  # of encoders' delays
    assert sound.findings == ()
    assert likeness(sound.samples, samples) > (0.4 if "old" in name else 0.95)
    stream = read_blocks(path)
    np.testing.assert_array_equal(np.concatenate(list(stream.blocks)), sound.samples)
    assert (stream.sample_rate, stream.seconds) == (sound.sample_rate, sound.seconds)
    part = read_clip(path, 2.0, 2.5).samples
    whole = sound.samples[32_000:40_000]
    assert np.corrcoef(part, whole)[0, 1] > 0.99  # AAC fills gaps with noise of its own
    with pytest.raises(AudioError, match="which ends before 9 s"):
        read_clip(path, 9.0)


@pytest.mark.parametrize("suffix", ["mp3", "flac", "ogg", "opus"])
def test_joined_files_are_read_to_the_end(tmp_path, suffix):
    parts = [speech(2.0, seed) for seed in (1, 2)]
    raw = b""
    for samples in parts:
        path = tmp_path / f"a.{suffix}"
        if suffix in ("ogg", "opus"):
            write_ogg(path, samples, {"ogg": "VORBIS", "opus": "OPUS"}[suffix])
        else:
            soundfile.write(path, samples, SAMPLE_RATE)
        raw += path.read_bytes()
    path.write_bytes(raw)
    sound = read_clip(path)
    assert sound.seconds == pytest.approx(4.0, abs=0.15)
    assert sound.findings == ()
    for samples in parts:
        assert likeness(sound.samples, samples) > 0.65  # each is a half, of energy too
    assert likeness(read_clip(path, 3.0, 3.5).samples, sound.samples[48_000:56_000]) > 0.9


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_ogg_without_its_last_bit_is_whole_and_with_a_lost_page_damaged(tmp_path, subtype):
    path = write_ogg(tmp_path / "note.ogg", speech(3.0), subtype)
    raw = bytearray(path.read_bytes())
    pages = [at for at in range(len(raw)) if raw[at : at + 4] == b"OggS"]
    assert ogg.count_pages(path) == (len(pages), 0, False)

    last = raw[pages[-1] :]
    last[5] &= ~4  # the end of the stream, which voice notes do not say
    checksum = ogg._checksum(bytes(last))
    last[22:26] = checksum.to_bytes(4, "little")
    path.write_bytes(raw[: pages[-1]] + last)
    sound = read_clip(path)
    assert (sound.seconds, sound.findings) == (pytest.approx(3.0, abs=0.01), ())

    damaged = bytearray(raw)
    damaged[(pages[2] + pages[3]) // 2] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(AudioError, match=f"damaged .1 of its {len(pages)} pages"):
        read_clip(path)
    path.write_bytes(raw[: pages[2]] + raw[pages[3] :])
    with pytest.raises(AudioError, match="damaged"):
        read_blocks(path)
    path.write_bytes(raw[:-9])
    with pytest.raises(AudioError, match="truncated"):
        read_clip(path)


def test_damage_to_a_little_of_a_long_file_is_a_finding(tmp_path):
    path = write_ogg(tmp_path / "a.ogg", speech(36.0), "VORBIS")
    raw = bytearray(path.read_bytes())
    pages = [at for at in range(len(raw)) if raw[at : at + 4] == b"OggS"]
    raw[pages[9] + 99] ^= 1
    path.write_bytes(raw)
    assert read_clip(path).findings == (f"damaged: 1 of its {len(pages)} pages cannot be read",)


def test_mp3_that_ends_early_or_is_damaged(tmp_path, capfd):
    path = tmp_path / "a.mp3"
    soundfile.write(path, speech(4.0), SAMPLE_RATE)
    raw = bytearray(path.read_bytes())
    path.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(AudioError, match="truncated"):
        read_clip(path)
    rng = np.random.default_rng(0)
    middle = slice(len(raw) // 4, 3 * len(raw) // 4)
    raw[middle] = rng.bytes(len(raw[middle]))
    path.write_bytes(raw)
    with pytest.raises(AudioError, match=r"damaged|truncated"):
        read_clip(path)
    assert capfd.readouterr() == ("", "")  # decoders do not speak for themselves


@pytest.mark.parametrize("offset", [0.001, 0.01, -0.05, 0.2])
def test_a_constant_offset_changes_nothing(tmp_path, offset):
    samples = 0.5 * speech(2.0)
    found = []
    for constant in (0.0, offset):
        soundfile.write(tmp_path / "a.wav", samples + constant, SAMPLE_RATE, "FLOAT")
        sound = read_clip(tmp_path / "a.wav")
        found.append([extract(sound.samples, config) for config in FEATURES.values()])
        assert abs(sound.samples.mean()) < 1e-6
        assert len(sound.findings) == (abs(constant) > 0.05)
    if offset == 0.2:
        assert "constant offset of 20% of full scale" in sound.findings[0]
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=0.01, atol=0.01)
    soundfile.write(tmp_path / "a.wav", np.full(8000, offset), SAMPLE_RATE, "FLOAT")
    with pytest.raises(AudioError, match="one constant"):
        read_clip(tmp_path / "a.wav")


@pytest.mark.parametrize(
    ("others", "channel", "finding"),
    [
        ([-1.0], 1, "cancel each other"),
        ([-0.9], 1, "cancel each other"),
        ([0.0], 1, "empty or very weak"),
        ([0.05], 1, "empty or very weak"),
        ([-0.9, 0.9, -0.9], 1, "cancel each other"),
        ([1.0], None, ""),
        ([0.5], None, ""),
    ],
)
def test_the_better_channel_is_used_where_the_mean_loses(tmp_path, others, channel, finding):
    samples = speech(1.0)
    hiss = 1e-4 * np.random.default_rng(0).standard_normal((len(samples), len(others)))
    channels = np.column_stack([samples, np.outer(samples, others) + hiss + 0.01])
    soundfile.write(tmp_path / "a.wav", channels, SAMPLE_RATE, "FLOAT")
    sound = read_clip(tmp_path / "a.wav")
    if channel:
        assert sound.findings[0].startswith(f"channel {channel} alone is used")
        assert finding in sound.findings[0]
        np.testing.assert_allclose(sound.samples, samples - samples.mean(), atol=1e-6)
    else:
        assert sound.findings == ()
        expected = channels.mean(axis=1)
        np.testing.assert_allclose(sound.samples, expected - expected.mean(), atol=1e-6)
    blocks = list(read_blocks(tmp_path / "a.wav").blocks)
    np.testing.assert_array_equal(np.concatenate(blocks), sound.samples)


def test_a_short_answer_on_a_channel_of_its_own_is_kept(tmp_path):
    """Of two people with a microphone each one says little: that is no weak channel."""
    question, answer = speech(20.0), np.zeros(20 * SAMPLE_RATE)
    answer[: SAMPLE_RATE // 5] = question[: SAMPLE_RATE // 5]
    soundfile.write(tmp_path / "a.wav", np.column_stack([question, answer]), SAMPLE_RATE)
    assert read_clip(tmp_path / "a.wav").findings == ()


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("clip.wav", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        ("clip.mp3", b"<!DOCTYPE html><html>404</html>", "a web page .*; download"),
        ("clip.wav", b"PK\x03\x04" + bytes(99), "an archive; unpack"),
        ("clip.wav", b"\x89PNG\r\n\x1a\n" + bytes(99), "a picture"),
        ("clip.wav", bytes(9999), "nothing but zeros.*copy it again"),
        ("clip.wav", b"file,label\n", "text, no sound"),
        (
            "clip.m4a",
            struct.pack(">I", 20) + b"ftypM4A " + bytes(99),
            "MP4 that was never finished",
        ),
        ("list.wav", b"ffconcat version 1.0\nfile /etc/passwd\n", "text, no sound"),
        ("take.raw", noise(1.0).astype("<f4").tobytes(), "convert it to WAV or FLAC"),
        ("take.mp3", np.random.default_rng(0).bytes(9999), "convert it to WAV or FLAC"),
    ],
)
def test_what_is_no_sound_is_called_what_it_is(tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    for read in (probe, read_clip, read_blocks):
        with pytest.raises(AudioError, match=f"unreadable .*{sentence}"):
            read(tmp_path / name)


def test_the_name_does_not_matter(tmp_path):
    samples = speech(1.0)
    path = encode(tmp_path / "a.webm", samples, "libopus", "webm", 48_000)
    assert likeness(read_clip(path.rename(tmp_path / "browser.wav")).samples, samples) > 0.97
    soundfile.write(tmp_path / "b.wav", samples, SAMPLE_RATE)
    expected = read_clip(tmp_path / "b.wav").samples
    renamed = (tmp_path / "b.wav").rename(tmp_path / "http:take.raw")
    np.testing.assert_array_equal(read_clip(renamed).samples, expected)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "live.wav")
    for read in (probe, read_clip, read_blocks):
        with pytest.raises(AudioError, match=r"a pipe.*save the sound to a file first"):
            read(tmp_path / "live.wav")


def test_any_exception_of_a_decoder_is_a_refusal(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "a.wav", noise(), SAMPLE_RATE)

    def fail(*_, **__):
        raise TypeError("samplerate must be specified")

    monkeypatch.setattr(soundfile, "SoundFile", fail)
    for read in (probe, read_clip, read_blocks):
        with pytest.raises(AudioError, match=r"unreadable \(samplerate must be specified"):
            read(tmp_path / "a.wav")


def test_what_is_passed_over_is_named_by_kind():
    files = ["a/x.wav", "a/README.txt", "labels.CSV", "x.txt", "x", ".DS_Store", "._x.wav"]
    assert passed_over(files) == (
        "1 .csv (labels.CSV), 2 .txt (a/README.txt, x.txt), 1 without a suffix (x)"
    )
    assert passed_over(["a/x.webm", "Thumbs.db", "desktop.ini", ".git/config"]) == ""
    assert passed_over(["a/.old/x.wav"]) == "1 hidden (a/.old/x.wav)"
