"""From audio files to an .npz: the features, every kind of bad input, and the same bytes."""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import python_speech_features
import scipy.signal
import soundfile

from data_prep import pipeline as prepare_module
from data_prep.pipeline import (
    check_out,
    choose_features,
    prepare,
    prepare_shards,
    report,
    table,
)
from fmaml_jax.audio.decoding import SAMPLE_RATE, AudioError, Header, probe, read_blocks, read_clip
from fmaml_jax.audio.descriptors import DescriptorConfig
from fmaml_jax.audio.features import FEATURES, extract, restore_config
from fmaml_jax.audio.mfcc import MfccConfig, mfcc
from fmaml_jax.audio.views import random_view
from fmaml_jax.common.errors import UserError
from fmaml_jax.data.dataset import load, save
from fmaml_jax.data.shards import Skipped, join
from tests.commands import run_module

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="no shared/ beside the checkout")
PAPER = FEATURES["paper"]
MFCCS = [name for name, config in FEATURES.items() if isinstance(config, MfccConfig)]


def noise(seconds=0.5, seed=0, rate=SAMPLE_RATE, channels=1):
    shape = (round(seconds * rate), channels) if channels > 1 else round(seconds * rate)
    return np.random.default_rng(seed).uniform(-0.5, 0.5, shape)


def write(path, samples, rate=SAMPLE_RATE, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, **options)
    return path


def command(*arguments):
    return run_module("data_prep.prepare", *arguments)


# ---------------------------------------------------------------------------- features


def golden(samples, c):
    """The definition, written out: framing, window, power, mel filters, log, DCT, lifter."""
    rng = np.random.default_rng(0)
    samples = samples * c.level / np.sqrt(np.mean(np.square(samples)))
    length = round(c.clip_seconds * c.sample_rate)
    padded = np.concatenate([np.zeros(length), samples, np.zeros(length)])
    first = length + ((len(samples) - length) // 2 if c.align == "centre" else 0)
    signal = padded[first : first + length]
    signal = signal + rng.standard_normal(length) * c.level / 1000  # 60 dB below
    signal = np.concatenate([signal[:1], signal[1:] - c.pre_emphasis * signal[:-1]])

    frame, step = round(c.frame_seconds * c.sample_rate), round(c.step_seconds * c.sample_rate)
    count = 1 + -(-(length - frame) // step)
    signal = np.pad(signal, (0, (count - 1) * step + frame - length))
    frames = np.stack([signal[k * step : k * step + frame] for k in range(count)])
    power = np.abs(np.fft.rfft(frames * scipy.signal.windows.hamming(frame), c.fft_size)) ** 2
    power /= c.fft_size

    def mel(hz):
        return 2595 * np.log10(1 + hz / 700)

    edges = np.linspace(mel(c.low_hz), mel(c.high_hz), c.mel_filters + 2)
    edges = np.floor((c.fft_size + 1) * 700 * (10 ** (edges / 2595) - 1) / c.sample_rate)
    bins = np.arange(c.fft_size // 2 + 1)
    filters = np.stack(
        [
            # The library's triangles reach their peak at the middle edge and are zero at the last.
            np.where((bins >= low) & (bins < middle), (bins - low) / max(middle - low, 1), 0.0)
            + np.where((bins >= middle) & (bins < high), (high - bins) / max(high - middle, 1), 0.0)
            for low, middle, high in zip(edges[:-2], edges[1:-1], edges[2:], strict=True)
        ]
    )
    log_mel = np.log(power @ filters.T)
    k, n = np.arange(c.coefficients)[:, None], np.arange(c.mel_filters)[None]
    dct = np.sqrt(2 / c.mel_filters) * np.cos(np.pi * k * (2 * n + 1) / (2 * c.mel_filters))
    dct[0] /= np.sqrt(2)
    cepstra = log_mel @ dct.T
    if c.lifter:
        cepstra *= 1 + c.lifter / 2 * np.sin(np.pi * np.arange(c.coefficients) / c.lifter)
    if c.energy:
        cepstra[:, 0] = np.log(power.sum(axis=1))
    return cepstra


@pytest.mark.parametrize("seconds", [0.7, 3.5, 5.00003])
@pytest.mark.parametrize("name", MFCCS)
def test_mfcc_golden(name, seconds):
    chirp = scipy.signal.chirp(np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE, 100, 3, 3000)
    samples = chirp + 0.01 * noise(seconds)
    features = mfcc(samples, FEATURES[name])
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, golden(samples, FEATURES[name]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seconds", [0.1, 0.513, 3.5])
@pytest.mark.parametrize("name", MFCCS)
def test_mfcc_is_the_librarys_to_the_last_bit(name, seconds):
    c = FEATURES[name]._replace(clip_seconds=seconds)
    samples = noise(seconds)
    level = 0.1 / np.sqrt(np.mean(samples**2))
    dither = np.random.default_rng(0).standard_normal(len(samples)) * 0.1 * 10**-3.0
    theirs = python_speech_features.mfcc(
        samples * level + dither,
        *(c.sample_rate, c.frame_seconds, c.step_seconds, c.coefficients, c.mel_filters),
        *(c.fft_size, c.low_hz, c.high_hz, c.pre_emphasis, c.lifter, c.energy, np.hamming),
    )
    np.testing.assert_array_equal(mfcc(samples, c), theirs.astype(np.float32))


def test_shapes():
    assert mfcc(noise(), PAPER).shape == (348, 40)
    assert mfcc(noise(), FEATURES["authors_code"]).shape == (98, 40)
    assert mfcc(noise(), PAPER._replace(clip_seconds=2.0)).shape == (198, 40)


@pytest.mark.parametrize("band", [3, 17, 35])
def test_a_tone_is_the_loudest_mel_band(band):
    """Undoing the DCT of the plain configuration gives back log-mel energies."""
    c = FEATURES["authors_code"]
    edges = np.linspace(*(2595 * np.log10(1 + f / 700) for f in (c.low_hz, c.high_hz)), 42)
    centre = 700 * (10 ** (edges[band + 1] / 2595) - 1)
    hertz = np.floor(513 * centre / SAMPLE_RATE) * SAMPLE_RATE / 512  # where the triangle peaks
    tone = np.sin(2 * np.pi * hertz * np.arange(SAMPLE_RATE) / SAMPLE_RATE)
    log_mel = scipy.fft.idct(mfcc(tone, c), axis=1, norm="ortho")
    assert (log_mel[:-1].argmax(axis=1) == band).all()


def test_recording_gain_does_not_matter():
    samples = noise()
    np.testing.assert_allclose(mfcc(samples, PAPER), mfcc(samples * 1e-4, PAPER), atol=1e-4)


def test_padding_is_finite_and_of_one_level():
    energies = mfcc(noise(0.5), PAPER)[:, 0]
    assert np.isfinite(energies).all()
    silent = np.r_[energies[:140], energies[-140:]]
    assert silent.max() < energies[174] - np.log(1e5)
    assert np.ptp(silent) < 1.5


def test_alignment():
    click = np.zeros(SAMPLE_RATE)
    click[SAMPLE_RATE // 2] = 1.0
    centred = mfcc(click, PAPER)[:, 0].argmax()
    assert abs(centred - 174) <= 2
    assert abs(mfcc(click, PAPER._replace(align="start"))[:, 0].argmax() - 49) <= 2


@pytest.mark.parametrize("name", [*MFCCS, "descriptors"])
def test_the_stored_configuration_makes_the_features_again(name, tmp_path):
    config = FEATURES[name]._replace(clip_seconds=1.0)
    assert all(isinstance(value, str | int | float) for value in config)
    write(tmp_path / "joy" / "a.wav", noise())
    dataset, *_ = prepare("folders", tmp_path, config, language="en", processes=1)
    save(tmp_path / "x.npz", dataset)
    restored = restore_config(load(tmp_path / "x.npz").feature_config)
    assert restored == config
    assert type(restored) is type(config)
    again = extract(read_clip(tmp_path / "joy" / "a.wav").samples, restored)
    np.testing.assert_array_equal(again, dataset.features[0])


@pytest.mark.parametrize(
    ("stored", "sentence"),
    [
        ({"functionals": "eGeMAPSv02"}, "features with the settings functionals cannot be made"),
        ({**PAPER._asdict(), "new": 1}, "neither MFCCs, nor descriptors, nor"),
        ({"clip_seconds": 3.5}, "neither MFCCs, nor descriptors, nor"),
        ({}, "neither MFCCs, nor descriptors, nor"),
        (
            DescriptorConfig(descriptors=2)._asdict(),
            "of version 2 of the descriptors and this code makes version",
        ),
    ],
)
def test_another_configuration_is_refused(stored, sentence):
    with pytest.raises(UserError, match=f"{sentence}.*; prepare the audio again"):
        restore_config(stored)


def test_clip_seconds_flag():
    assert choose_features("paper", None) == PAPER
    for name in FEATURES:
        assert choose_features(name, 2.5) == FEATURES[name]._replace(clip_seconds=2.5)
    for bad in (0.0, -1.0, 61.0, float("nan")):
        with pytest.raises(UserError, match="between"):
            choose_features("paper", bad)


# ------------------------------------------------------------------------------- audio


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.wav", {}),
        ("a.WAV", {"subtype": "FLOAT"}),
        ("b.wav", {"format": "RF64"}),
        ("a.flac", {}),
        ("a.aiff", {}),
        ("a.au", {}),
        ("a.caf", {}),
        ("a.w64", {}),
        ("a.ogg", {}),
        ("a.opus", {"format": "OGG", "subtype": "OPUS"}),
        ("a.mp3", {}),
    ],
)
def test_whole_files_are_read_and_cut_ones_refused(tmp_path, name, options):
    path = write(tmp_path / name, noise(2.0), **options)
    assert abs(len(read_clip(path).samples) - 2 * SAMPLE_RATE) < 0.05 * SAMPLE_RATE
    raw = path.read_bytes()
    for percent in (60, 97):
        path.write_bytes(raw[: len(raw) * percent // 100])
        with pytest.raises(AudioError, match=r"truncated|malformed"):
            read_clip(path)
        with pytest.raises(AudioError, match=r"truncated|malformed"):
            list(read_blocks(path).blocks)


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFF000])
def test_wav_written_to_a_pipe_is_whole(tmp_path, size):
    path = write(tmp_path / "a.wav", noise())
    expected = read_clip(path).samples
    raw = bytearray(path.read_bytes())
    raw[4:8] = raw[40:44] = size.to_bytes(4, "little")
    path.write_bytes(raw)
    np.testing.assert_array_equal(read_clip(path).samples, expected)
    np.testing.assert_array_equal(np.concatenate(list(read_blocks(path).blocks)), expected)
    assert probe(path) == Header(SAMPLE_RATE, 0.5)


def test_flac_without_a_length_is_read_to_its_end(tmp_path):
    path = write(tmp_path / "a.flac", noise())
    expected = read_clip(path).samples
    raw = bytearray(path.read_bytes())
    raw[21] &= 0xF0
    raw[22:26] = bytes(4)
    path.write_bytes(raw)
    np.testing.assert_array_equal(read_clip(path).samples, expected)
    np.testing.assert_array_equal(np.concatenate(list(read_blocks(path).blocks)), expected)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_resampling_keeps_time_and_pitch(tmp_path, rate):
    tone = np.sin(2 * np.pi * 440 * np.arange(rate) / rate)
    mono = read_clip(write(tmp_path / "a.wav", np.stack([tone, tone / 2], axis=1), rate)).samples
    assert len(mono) == SAMPLE_RATE
    expected = np.sin(2 * np.pi * 440 * np.arange(SAMPLE_RATE) / SAMPLE_RATE) * 0.75
    inner = slice(800, -800)
    np.testing.assert_allclose(mono[inner], expected[inner], atol=1e-3)


@needs_shared
@pytest.mark.parametrize(
    ("original", "version"),
    [
        ("emovo/dis-f1-b1.wav", "emovo/audio/f1/dis-f1-b1.flac"),  # 48 kHz, two channels
        ("emovo/neu-m3-l3.wav", "emovo/audio/m3/neu-m3-l3.flac"),
        ("emovo/tri-m1-n5.wav", "emovo/audio/m1/tri-m1-n5.flac"),
        ("nemo__EB0_anger_14.wav", "nemo/audio/EB0_anger_14.flac"),  # 24 kHz
        (
            "ravdess__03-01-01-01-01-01-01.wav",
            "ravdess/audio/Actor_01/03-01-01-01-01-01-01.flac",
        ),
    ],
)
def test_the_original_equals_its_prepared_version(original, version):
    ours = read_clip(SHARED / "corpora" / "originals" / original).samples
    theirs = read_clip(SHARED / "corpora" / version).samples
    assert abs(len(ours) - len(theirs)) <= 1
    length = min(len(ours), len(theirs))
    error = np.mean((ours[:length] - theirs[:length]) ** 2)
    assert error < 1e-5 * np.mean(theirs**2) + 2.0**-30  # the versions have 16 bits


# ----------------------------------------------------------------- a folder to an .npz


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """EmoDB names: three good clips and one of every kind of bad input."""
    folder = tmp_path_factory.mktemp("corpus")
    write(folder / "03a01Fa.wav", noise(0.5, 1))
    write(folder / "sub" / "08a01Na.flac", noise(1.5, 2, 48_000, channels=2), 48_000)
    write(folder / "16b10Wb.ogg", noise(4.0, 3))
    (folder / "03a01Wa.wav").write_text("no sound")
    (folder / "03a01Wb.wav").touch()
    write(folder / "03a01Wc.wav", np.zeros(0))
    raw = write(folder / "03a01Wd.wav", noise(1.0, 4)).read_bytes()
    (folder / "03a01Wd.wav").write_bytes(raw[: len(raw) // 2])
    write(folder / "03a01We.wav", np.r_[noise(), np.nan], subtype="FLOAT")
    write(folder / "03a01Wf.wav", np.zeros(8000))
    write(folder / "hello.wav", noise())
    write(folder / "03a01Xa.wav", noise(0.5, 5))
    same = (noise(0.5, 6) * 2**15).astype(np.int16)
    write(folder / "09a01Wa.wav", same)
    write(folder / "09a01Ta.flac", np.stack([same, same], axis=1))
    shutil.copy(folder / "03a01Fa.wav", folder / "sub" / "03a01Fb.wav")
    raw = write(folder / "03a02Wa.mp3", noise(3.0, 7)).read_bytes()
    (folder / "03a02Wa.mp3").write_bytes(raw[: len(raw) // 2])
    (folder / "._03a01Fa.wav").write_text("finder")
    (folder / "readme.txt").write_text("hello")
    os.symlink(folder / "nowhere", folder / "03a05Fa.wav")
    return folder


REASONS = {
    "03a01Wa.wav": "unreadable",
    "03a01Wb.wav": "empty (0 bytes)",
    "03a01Wc.wav": "empty (no samples)",
    "03a01Wd.wav": "truncated",
    "03a01We.wav": "NaN",
    "03a01Wf.wav": "zero",
    "03a01Xa.wav": "label code 'X'",
    "03a02Wa.mp3": "truncated",
    "03a05Fa.wav": "unreadable (No such file",
    "09a01Ta.flac": "the same sound has different labels: 09a01Ta.flac is sadness, 09a01Wa.wav is",
    "09a01Wa.wav": "the same sound has different labels",
    "hello.wav": "matches nothing",
    "sub/03a01Fb.wav": "the same sound as 03a01Fa.wav, which is kept",
}


def test_command_keeps_the_good_and_names_the_bad(mixed, tmp_path):
    out = tmp_path / "new" / "folder" / "x.npz"
    done = command("--corpus=emodb", f"--audio_dir={mixed}", f"--out={out}")
    assert done.returncode == 0, done.stderr
    first, *lines = done.stdout.splitlines()
    assert first.startswith("warning: '03a01Fa', ")
    assert first.endswith(" more: no speech was found in it")
    header = "language clips anger happiness neutral speakers mean seconds"
    assert lines[0].split() == header.split()
    assert lines[1].split() == ["de", "3", "1", "1", "1", "3", "2.00"]
    assert f"skipped clips: {len(REASONS)}" in lines
    for file, reason in REASONS.items():
        assert [line for line in lines if line.startswith(f"  {file}: ") and reason in line], file
    assert "no audio, passed over: 1 .txt (readme.txt)" in lines
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
    decoded = 3 + len(REASONS) - 2  # two are known by their names alone
    assert f"{decoded}/{decoded}" in done.stderr.splitlines()[-1]

    dataset = load(out)
    assert dataset.names.tolist() == ["03a01Fa", "16b10Wb", "sub/08a01Na"]
    assert dataset.labels.tolist() == ["happiness", "anger", "neutral"]
    assert dataset.speakers.tolist() == ["03", "16", "08"]
    assert dataset.scenes.tolist() == ["a01", "b10", "a01"]
    assert dataset.features.shape == (3, 348, 40)
    np.testing.assert_allclose(dataset.seconds, [0.5, 4.0, 1.5], atol=0.01)
    assert dataset.feature_config == PAPER._asdict()
    np.testing.assert_array_equal(
        dataset.features[0], mfcc(read_clip(mixed / "03a01Fa.wav").samples, PAPER)
    )


def test_same_bytes_whatever_the_cores_and_times(tmp_path):
    for index in range(20):
        write(tmp_path / "audio" / "joy" / f"{index}.wav", noise(0.3, index))
    hashes = set()
    for processes in (1, 2):
        dataset, skipped, ignored = prepare(
            "folders", tmp_path / "audio", PAPER, language="en", processes=processes
        )
        assert (skipped, ignored) == ([], "")
        save(tmp_path / f"{processes}.npz", dataset)
        hashes.add((tmp_path / f"{processes}.npz").read_bytes())
        for file in (tmp_path / "audio" / "joy").iterdir():
            os.utime(file, (1, 1))
    assert len(hashes) == 1
    assert dataset.names.tolist() == sorted(f"joy/{index}" for index in range(20))


def test_strict_writes_nothing(mixed, tmp_path):
    out = tmp_path / "x.npz"
    done = command("--corpus=emodb", f"--audio_dir={mixed}", f"--out={out}", "--strict")
    assert done.returncode == 2
    assert "03a01Wa.wav: unreadable" in done.stdout
    assert done.stderr.splitlines()[-1].startswith("error: --strict is set and 13 clips were")
    assert list(tmp_path.iterdir()) == []


def test_nothing_usable(tmp_path, capsys):
    folder = tmp_path / "audio"
    write(folder / "03a01Wf.wav", np.zeros(8000))
    with pytest.raises(UserError, match="no usable clip is left"):
        prepare("emodb", folder, PAPER)
    assert "03a01Wf.wav: all samples are zero" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"none of the 1 clips .* 03a01Wf\.wav: the name matches"):
        prepare("emovo", folder, PAPER)
    (folder / "03a01Wf.wav").rename(folder / "clip.txt")
    with pytest.raises(
        UserError, match=r"no audio in .* \(but 1 .txt \(clip.txt\)\).* convert the clips"
    ):
        prepare("emodb", folder, PAPER)


def test_full_disk_leaves_nothing(tmp_path):
    write(tmp_path / "audio" / "03a01Fa.wav", noise())
    out = tmp_path / "out" / "x.npz"
    # A shell sets the limit (in KiB): to fork this process is not safe once JAX has threads.
    done = subprocess.run(
        [
            *("bash", "-c", 'ulimit -f 20; exec "$0" "$@"', sys.executable),
            *("-m", "data_prep.prepare", "--corpus=emodb"),
            *(f"--audio_dir={tmp_path / 'audio'}", f"--out={out}"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1].startswith(f"error: cannot write {out}: File too large")
    assert "Traceback" not in done.stderr
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "--corpus is missing"),
        (["--corpus=emodb"], "--audio_dir is missing"),
        (["--corpus=emodb", "--audio_dir=."], "--out is missing"),
        (["--corpus=x", "--audio_dir=.", "--out=x.npz"], "there is no corpus 'x'"),
        (["--corpus=emodb", "--audio_dir=nowhere", "--out=x.npz"], "nowhere does not exist"),
        (["--corpus=emodb", "--audio_dir=.", "--out=x.csv"], "write --out=FILE.npz"),
        (["--corpora=emodb"], "Unknown command line flag 'corpora'"),
        (["--corpus=emodb", "--audio_dir=x", "--out=x.npz", "--features=mel"], "authors_code"),
    ],
)
def test_bad_command_lines_are_one_line(tmp_path, arguments, sentence):
    done = command(*(a.replace("--out=", f"--out={tmp_path}/") for a in arguments))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert sentence in line
    assert list(tmp_path.iterdir()) == []


def test_unwritable_outputs(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder.npz").mkdir()
    for out in (tmp_path / "file" / "x.npz", Path("/proc/x.npz"), tmp_path / ("x" * 300) / "a.npz"):
        with pytest.raises(UserError, match="cannot write --out="):
            check_out(out)
    with pytest.raises(UserError, match=r"is not the name of a \.npz file"):
        check_out(tmp_path / "folder.npz")


@pytest.mark.usefixtures("one_process")
def test_the_best_copy_of_a_take_that_can_be_read_is_kept(tmp_path, monkeypatch):
    for take, seed in (("1001_IEO_ANG_HI", 1), ("1002_IEO_ANG_HI", 2)):
        write(tmp_path / "AudioWAV" / f"{take}.wav", noise(0.5, seed))
        write(tmp_path / "AudioMP3" / f"{take}.mp3", noise(0.5, seed))
    damaged = tmp_path / "AudioWAV" / "1002_IEO_ANG_HI.wav"
    damaged.write_bytes(damaged.read_bytes()[:9000])
    dataset, skipped, _ = prepare("cremad", tmp_path, PAPER, processes=1)
    assert dataset.speakers.tolist() == ["1001", "1002"]
    kept = ("AudioWAV/1001_IEO_ANG_HI.wav", "AudioMP3/1002_IEO_ANG_HI.mp3")
    for features, file in zip(dataset.features, kept, strict=True):
        np.testing.assert_array_equal(features, mfcc(read_clip(tmp_path / file).samples, PAPER))
    reasons = dict(skipped)
    assert reasons["AudioMP3/1001_IEO_ANG_HI.mp3"] == (
        "another copy of the take in AudioWAV/1001_IEO_ANG_HI.wav, which is kept"
    )
    assert "truncated" in reasons["AudioWAV/1002_IEO_ANG_HI.wav"]
    assert len(reasons) == 2


@pytest.mark.usefixtures("one_process")
def test_parts_of_a_file_are_clips(tmp_path, capsys):
    samples = noise(3.0)
    write(tmp_path / "a.wav", samples)
    rows = "a.wav,joy,0.5,1.25\na.wav,awe,1.25,\nb.wav,joy,1,9\n"
    (tmp_path / "manifest.csv").write_text(f"path,label,start,end\n{rows}")
    write(tmp_path / "b.wav", noise(3.0, 1))
    dataset, skipped, _ = prepare("manifest", tmp_path, PAPER, "en", processes=1)
    assert skipped == []
    assert dataset.names.tolist() == ["a from 0.5 to 1.25 s", "a from 1.25 s on", "b from 1 to 9 s"]
    np.testing.assert_allclose(dataset.seconds, [0.75, 1.75, 2.0])
    part = write(tmp_path / "part.wav", samples[8000:20000])
    np.testing.assert_array_equal(dataset.features[0], mfcc(read_clip(part).samples, PAPER))
    assert "warning: 'b from 1 to 9 s': cut off, since the file ends" in capsys.readouterr().out


@pytest.mark.usefixtures("one_process")
def test_what_may_be_wrong_with_clips_is_said_in_sum(tmp_path, capsys):
    """A finding a line; silence of no language may be silent, and a clip is no two samples."""
    for number in range(5):
        write(tmp_path / "audio" / f"{number}.wav", noise(0.3, number))
    write(tmp_path / "audio" / "hush.wav", 0.0001 * noise(2.0, 7))
    for name, seconds in (("two", 2 / 16_000), ("short", 0.099), ("enough", 0.101)):
        write(tmp_path / "audio" / f"{name}.wav", noise(seconds, 8))
    rows = [f"{path.name},joy,en" for path in sorted((tmp_path / "audio").iterdir())]
    rows = [row.replace("joy,en", "silence,zxx") if "hush" in row else row for row in rows]
    (tmp_path / "audio" / "manifest.csv").write_text("\n".join(["path,label,language", *rows]))
    dataset, skipped, _ = prepare("manifest", tmp_path / "audio", PAPER, processes=1)
    assert dataset.names.tolist() == ["0", "1", "2", "3", "4", "enough", "hush"]
    reason = "shorter than 0.1 s, too short for a clip"
    assert skipped == [Skipped("short.wav", reason), Skipped("two.wav", reason)]
    assert capsys.readouterr().out.splitlines() == [
        "warning: '0', '1', '2' and 3 more: shorter than 0.5 s, too short to hear an emotion in",
        "warning: '0', '1', '2' and 3 more: no speech was found in it",
    ]


@pytest.mark.usefixtures("one_process")
def test_corpora_have_names_and_namesakes_are_warned_of(tmp_path, capsys):
    write(tmp_path / "wav" / "joy" / "1.wav", noise(0.3))
    write(tmp_path / "mp3" / "joy" / "1.mp3", noise(0.3))
    dataset, *_ = prepare("folders", tmp_path, PAPER, "en", processes=1)
    assert dataset.corpus == tmp_path.name
    said = "files that are called as another of their label: 1, such as mp3/joy/1.mp3 and wav/joy/1"
    assert said in capsys.readouterr().out
    dataset, *_ = prepare("folders", tmp_path / "wav", PAPER, "en", name=" My  x", processes=1)
    assert dataset.corpus == "My x"
    assert "another of their label" not in capsys.readouterr().out
    with pytest.raises(UserError, match="--name=  is empty"):
        prepare("folders", tmp_path, PAPER, "en", name=" ")


@pytest.mark.slow
@needs_shared
def test_real_corpus_matches_its_readme():
    dataset, skipped, _ = prepare("emodb", SHARED / "corpora" / "emodb", PAPER)
    assert skipped == []
    assert report(skipped) == ""
    header, row = (line.split() for line in table(dataset).splitlines())
    assert dict(zip(header, row, strict=False)) == {
        **{"language": "de", "clips": "535", "anger": "127", "boredom": "81", "disgust": "46"},
        **{"fear": "69", "happiness": "71", "neutral": "79", "sadness": "62", "speakers": "10"},
        "mean": "2.78",
    }


# ------------------------------------------------------------------------------ shards


@pytest.fixture
def one_process(monkeypatch):
    """Clips are described in this process: to start another takes longer than they do."""
    monkeypatch.setattr(prepare_module, "process_pool", ThreadPoolExecutor)


@pytest.mark.usefixtures("one_process")
def test_views_lie_beside_their_clips(tmp_path, capsys):
    folder = tmp_path / "audio"
    for index in range(2):
        write(folder / "joy" / f"{index}.wav", noise(0.3, index))
    shutil.copy(folder / "joy" / "1.wav", folder / "joy" / "2.wav")
    (folder / "joy" / "3.wav").write_text("no sound")
    clean, *_ = prepare("folders", folder, PAPER, "en", processes=1)
    said = len(capsys.readouterr().out.splitlines())
    dataset, skipped, _ = prepare("folders", folder, PAPER, "en", processes=1, views=2)
    assert len(capsys.readouterr().out.splitlines()) == said  # of clips, not of their views
    names = ["joy/0", "joy/0#view1", "joy/0#view2", "joy/1", "joy/1#view1", "joy/1#view2"]
    assert dataset.names.tolist() == names
    np.testing.assert_array_equal(dataset.features[::3], clean.features)
    sound = read_clip(folder / "joy" / "1.wav").samples
    np.testing.assert_array_equal(dataset.features[5], extract(random_view(sound, 2), PAPER))
    assert [item.file for item in skipped] == [
        "joy/3.wav",
        "joy/2.wav",
        "joy/2#view1",
        "joy/2#view2",
    ]
    manifest = folder / "manifest.csv"
    manifest.write_text("path,language,emotion\njoy/0.wav,zxx,silence\n")
    dataset, *_ = prepare("manifest", folder, PAPER, manifest=manifest, processes=1, views=2)
    assert dataset.names.tolist() == ["joy/0"]  # what has no language has none


@pytest.fixture
def copies(tmp_path):
    """Eleven files; the copies of some lie far apart in the order of names."""
    folder = tmp_path / "audio"
    for index in range(7):
        write(folder / "joy" / f"{index}.wav", noise(0.3, index))
    shutil.copy(folder / "joy" / "0.wav", folder / "joy" / "9.wav")
    for other in ("anger/x.wav", "sadness/a_longer_name.wav"):  # copies with other labels
        (folder / other).parent.mkdir()
        shutil.copy(folder / "joy" / "3.wav", folder / other)
    (folder / "joy" / "5b.wav").write_text("no sound")
    return folder


def make_shards(folder, out, count, **options):
    return prepare_shards(out, "folders", folder, PAPER, "en", count=count, processes=1, **options)


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("count", [1, 3, 11])
def test_merged_shards_equal_the_whole_to_the_byte(copies, tmp_path, count):
    dataset, skipped, _ = prepare("folders", copies, PAPER, language="en", processes=1)
    save(tmp_path / "whole.npz", dataset)
    paths = make_shards(copies, tmp_path / "x.npz", count)
    assert [path.name for path in paths] == [f"x-{i:05d}-of-{count:05d}.npz" for i in range(count)]
    assert sum(len(load(path).names) for path in paths) == 10
    assert len(skipped) == 1 + 1 + 3
    done = run_module(
        "data_prep.merge", f"--data={tmp_path}/x-*.npz", f"--out={tmp_path / 'y.npz'}"
    )
    assert done.returncode == 0, done.stderr
    assert "joy/9: the same sound as joy/0, which is kept" in done.stdout
    assert (tmp_path / "y.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()


@pytest.mark.usefixtures("one_process")
def test_finished_shards_are_kept_and_others_made_again(copies, tmp_path):
    out = tmp_path / "x.npz"
    paths = make_shards(copies, out, 3)
    content = [path.read_bytes() for path in paths]
    assert make_shards(copies, out, 3) == []
    paths[1].unlink()
    paths[2].write_bytes(content[2][:1000])
    assert make_shards(copies, out, 3, only=2) == [paths[2]]
    assert make_shards(copies, out, 3) == [paths[1]]
    assert [path.read_bytes() for path in paths] == content

    replaced = copies / "joy" / "0.wav"  # in the first shard
    os.utime(replaced, (4e9, 4e9))  # its time alone says nothing
    assert make_shards(copies, out, 3) == []
    size = replaced.stat().st_size
    write(replaced, noise(0.3, 50))
    os.utime(replaced, (1, 1))  # as an archive leaves it
    assert replaced.stat().st_size == size
    assert make_shards(copies, out, 3) == [paths[0]]
    assert paths[0].read_bytes() != content[0]


@pytest.mark.usefixtures("one_process")
def test_other_flags_or_files_make_every_shard_again(copies, tmp_path):
    out = tmp_path / "x.npz"
    paths = make_shards(copies, out, 2)
    shorter = PAPER._replace(clip_seconds=1.0)
    options = {"count": 2, "processes": 1}
    assert prepare_shards(out, "folders", copies, shorter, "en", **options) == paths
    assert prepare_shards(out, "folders", copies, shorter, "de", **options) == paths
    (copies / "sadness" / "a_longer_name.wav").unlink()
    assert prepare_shards(out, "folders", copies, shorter, "de", **options) == paths


@pytest.mark.usefixtures("one_process")
def test_strict_shards(copies, tmp_path):
    make_shards(copies, tmp_path / "x.npz", 11)
    before = sorted(tmp_path.glob("*.npz"))
    with pytest.raises(UserError, match="--strict is set and 1 clips were skipped"):
        make_shards(copies, tmp_path / "x.npz", 11, strict=True)
    (copies / "joy" / "5b.wav").unlink()
    assert len(make_shards(copies, tmp_path / "y.npz", 2, strict=True)) == 2
    assert len(before) == 11


@pytest.mark.slow
def test_array_jobs_make_the_same_shards(copies, tmp_path):
    together = make_shards(copies, tmp_path / "x.npz", 2)
    flags = ("--corpus=folders", f"--audio_dir={copies}", "--language=en", "--shards=2")
    for index in (1, 0):
        done = command(*flags, f"--out={tmp_path / 'y.npz'}", f"--shard={index}")
        assert done.returncode == 0, done.stderr
        path = tmp_path / f"y-{index:05d}-of-00002.npz"
        assert path.read_bytes() == together[index].read_bytes()
        assert f"wrote {path}: " in done.stdout


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--shards=12"], "--shards=12 is more than the 11 clips; give fewer"),
        (["--shards=2", "--shard=2"], "--shard=2 is none of the 2 shards, 0 to 1"),
        (["--shard=0"], "--shard goes with --shards"),
    ],
)
def test_impossible_shards(copies, tmp_path, flags, sentence):
    out = tmp_path / "out" / "x.npz"
    source = ("--corpus=folders", f"--audio_dir={copies}", "--language=en", f"--out={out}")
    done = command(*source, *flags)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.usefixtures("one_process")
def test_merge_refuses_what_is_not_one_whole_corpus(copies, tmp_path):
    paths = make_shards(copies, tmp_path / "x.npz", 3)
    others = make_shards(copies, tmp_path / "y.npz", 2)
    shards = {str(path): load(path) for path in (*paths, *others)}
    first, second, third, other, _ = shards
    dataset = shards[first]
    for names, sentence in (
        ([second], "shard 0, 2 of 3 is missing beside"),
        ([first, other, third], "shards of different corpora or flags"),
    ):
        with pytest.raises(UserError, match=sentence):
            join({name: shards[name] for name in names})
    with pytest.raises(UserError, match="are the same shard"):
        join({first: dataset, "copy.npz": dataset})
    with pytest.raises(UserError, match="is not a shard"):
        join({first: dataset._replace(shard=None)})
    done = run_module("data_prep.merge", f"--data={first}", f"--out={tmp_path / 'z.npz'}")
    assert done.returncode == 2
    assert "shard 1, 2 of 3 is missing" in done.stderr
    assert not (tmp_path / "z.npz").exists()
