import collections
import csv
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from scipy.io import wavfile
from scipy.signal import welch

from data_prep import synthetic
from data_prep.corpora import list_clips
from fmaml_jax.common.errors import UserError
from fmaml_jax.data.dataset import NO_LANGUAGE
from fmaml_jax.synthesis import noise
from fmaml_jax.synthesis.espeak import speak
from fmaml_jax.synthesis.sentences import SENTENCES
from fmaml_jax.synthesis.speech import EMOFILM_CODES, USUAL, VOICES, Clip, render, voice_quality
from tests.commands import run_module

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
EMOTIONS = tuple(EMOFILM_CODES)


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def rms_db(samples):
    return 10 * np.log10(np.mean(samples**2))


def median_pitch(samples, sample_rate):
    """Median over voiced frames of the best autocorrelation lag's frequency below 1 kHz, in Hz."""
    size, low, high = int(0.04 * sample_rate), sample_rate // 400, sample_rate // 60
    frames = np.lib.stride_tricks.sliding_window_view(samples, size)[:: size // 2]
    frames = frames[frames.std(axis=1) > samples.std() / 3]
    power = np.abs(np.fft.rfft(frames - frames.mean(axis=1, keepdims=True), 2 * size)) ** 2
    power[:, 2 * size * 1000 // sample_rate :] = 0  # no breath
    lags = np.fft.irfft(power)[:, :high]
    lags /= lags[:, :1]
    voiced = lags[lags[:, low:].max(axis=1) > 0.5]
    return np.median(sample_rate / (low + voiced[:, low:].argmax(axis=1)))


# The synthesiser


def test_speech_does_not_depend_on_what_was_said_before_nor_on_the_time():
    sentences = [(SENTENCES["it"][0], f"it+{variant}", 150, 60, 70) for variant in VOICES]
    first = [speak(*sentence) for sentence in sentences]
    time.sleep(1.1)  # the synthesiser seeds its random numbers with the second
    for sentence, (samples, rate) in zip(reversed(sentences), reversed(first), strict=True):
        speak(SENTENCES["en"][1], "en+f2", 230, 90, 20)
        again, _ = speak(*sentence)
        np.testing.assert_array_equal(samples, again)
        assert 1.0 < len(samples) / rate < 8.0


def test_speech_obeys_rate_and_pitch():
    text = SENTENCES["en"][0]
    lengths = [len(speak(text, "en+m3", rate, 50, 50)[0]) for rate in (100, 150, 220)]
    assert lengths == sorted(lengths, reverse=True)
    assert 1.6 < lengths[0] / lengths[2] < 2.6  # 2.2 but for the pauses
    pitches = [median_pitch(*speak(text, "en+m3", 150, pitch, 50)) for pitch in (10, 50, 90)]
    assert pitches[0] < 0.85 * pitches[1] < 0.85**2 * pitches[2]


def test_an_unknown_voice_is_named():
    with pytest.raises(UserError, match=r"xx\+f1"):
        speak("Hello.", "xx+f1", 150, 50, 50)


def test_a_missing_synthesiser_is_named_and_silence_does_without(monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(UserError, match="pip install espeakng-loader"):
        speak("Hello.", "en+f1", 150, 50, 50)
    render(Clip("silence/0.wav", "silence", NO_LANGUAGE), seed=0)


def test_only_one_module_loads_the_gpl_library():
    sources = [*(ROOT / "data_prep").glob("*.py"), *(ROOT / "fmaml_jax").rglob("*.py")]
    loading = [path.name for path in sources if "import espeakng_loader" in path.read_text()]
    assert loading == ["espeak.py"]


# What emotions and speakers sound like


def test_emotions_differ_in_pitch_length_loudness_and_tilt():
    """For each speaker, in the mean of the clips of the same sentences."""
    clips = synthetic.plan("emofilm", ["es"], 12)
    heard = collections.defaultdict(list)
    for clip in clips:
        samples, rate = render(clip, seed=3)
        assert np.max(np.abs(samples)) < 1
        power = np.abs(np.fft.rfft(samples)) ** 2
        centre = np.sum(power * np.fft.rfftfreq(len(samples), 1 / rate)) / np.sum(power)
        heard[clip.speaker, clip.label].append(
            (median_pitch(samples, rate), len(samples) / rate, rms_db(samples), centre)
        )
    mean = {key: np.mean(rows, axis=0) for key, rows in heard.items()}
    assert len({speaker for speaker, _ in mean}) == 6
    for speaker in {speaker for speaker, _ in mean}:
        anger, fear, happiness, sadness = (
            mean[speaker, emotion] for emotion in ("anger", "fear", "happiness", "sadness")
        )
        for high in (anger, fear, happiness):
            assert high[0] > 1.1 * sadness[0]
            assert high[1] < 0.95 * sadness[1]
        assert min(anger[2], happiness[2]) > sadness[2] + 3
        assert anger[3] > sadness[3]


def test_languages_that_have_ways_of_their_own_exchange_emotions():
    languages = ("en", "it", "es")
    alike = synthetic.plan("emofilm", languages, 7)
    own = synthetic.plan("emofilm", languages, 7, own_ways=True)
    exchanged = {
        language: {
            (clip.label, clip.sounds_like)
            for clip in own
            if clip.language == language and clip.label != clip.sounds_like
        }
        for language in languages
    }
    joy, rage = ("disgust", "happiness"), ("anger", "fear")
    assert exchanged == {
        "en": set(),
        "es": {joy, joy[::-1]},
        "it": {joy, joy[::-1], rage, rage[::-1]},
    }
    assert [clip.label for clip in own] == [clip.label for clip in alike]
    # Happiness is spoken higher than disgust, but by Spaniards who have a way of their own.
    for clips, higher in ((alike, "happiness"), (own, "disgust")):
        pitch = {
            label: np.median(
                [
                    median_pitch(*render(clip, 0))
                    for clip in clips
                    if (clip.language, clip.label, clip.speaker) == ("es", label, "es+f1")
                ]
            )
            for label in ("happiness", "disgust")
        }
        assert max(pitch, key=pitch.__getitem__) == higher


def test_the_demo_enrols_five_speakers_of_each_emotion_and_labels_the_sixth(tmp_path):
    shown = subprocess.run(
        ["make", "-nB", "--no-print-directory", "data/demo/clips"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    recipe = shown[
        shown.index("rm -rf data/demo/clips") :
    ]  # after the synthesis, which is not done here
    clips = {clip.path: clip for clip in synthetic.plan("emofilm", ["en", "it", "es"], 40)}
    demo = tmp_path / "data" / "demo"
    (demo / "emotions").mkdir(parents=True)
    for path in clips:
        (demo / "emotions" / path).write_text(path)
    subprocess.run(["sh", "-ec", recipe], cwd=tmp_path, check=True)

    def spoken(path):
        clip = clips[path.read_text()]
        return clip.language, clip.label, clip.speaker

    for emotion in EMOTIONS:
        labelled = {spoken(path) for path in (demo / "clips" / emotion).iterdir()}
        language, label, speaker = spoken(demo / "new" / f"{emotion}.wav")
        assert (language, label) == ("es", emotion)
        assert {clip[:2] for clip in labelled} == {(language, label)}
        assert len(labelled) == 5
        assert speaker not in {clip[2] for clip in labelled}
    assert {path.name for path in demo.iterdir()} == {"emotions", "clips", "new"}
    assert len(list((demo / "clips").iterdir())) == len(list((demo / "new").iterdir())) == 5


def test_speech_has_the_usual_length_in_every_language():
    for language in SENTENCES:
        rendered = [render(clip, 0) for clip in synthetic.plan("neutral", [language], 13)]
        seconds = [len(samples) / rate for samples, rate in rendered]
        assert 3.0 < np.mean(seconds) < 4.2, language
        assert 2.0 < min(seconds) < max(seconds) < 6.0, language


@pytest.mark.parametrize("tilt", [-0.5, 0.0, 0.5])
def test_tilt_is_a_first_order_filter_and_level_is_exact(tilt):
    rng = np.random.default_rng(0)
    white = 0.1 * rng.standard_normal(200_000)
    prosody = USUAL._replace(tilt=tilt, breath=0.0, level=-30.0)
    tilted = voice_quality(white, prosody, rng)
    assert rms_db(tilted) == pytest.approx(-30.0)
    frequency, power = welch(tilted, nperseg=256)
    expected = np.abs(1 - tilt * np.exp(-2j * np.pi * frequency)) ** 2
    ratio = (power / expected)[2:-2]
    assert np.std(ratio) / np.mean(ratio) < 0.1


def test_breath_follows_the_speech_and_nothing_clips():
    rate = 16_000
    seconds = np.arange(rate) / rate
    tone = 0.3 * np.sin(2 * np.pi * 200 * seconds) * (seconds < 0.5)
    plain, breathy = (
        voice_quality(tone, USUAL._replace(breath=breath), np.random.default_rng(0))
        for breath in (0.0, 0.2)
    )

    def above_1_khz(samples):
        return np.sum(np.abs(np.fft.rfft(samples)[len(samples) // 16 :]) ** 2)

    assert above_1_khz(breathy[: rate // 2]) > 10 * above_1_khz(plain[: rate // 2])
    assert np.max(np.abs(breathy[-rate // 4 :])) < 1e-3 * np.max(np.abs(breathy))
    loud = voice_quality(tone, USUAL._replace(level=20.0), np.random.default_rng(0))
    assert np.max(np.abs(loud)) == pytest.approx(0.99)


# Silence


@pytest.mark.parametrize("slope", [-2.0, -1.0, 0.0, 1.0])
def test_coloured_noise_has_its_slope(slope):
    band = (100.0, 6_000.0)
    sound = noise.coloured(np.random.default_rng(1), 40 * noise.SAMPLE_RATE, slope, band)
    assert np.mean(sound**2) == pytest.approx(1.0)
    frequency, power = welch(sound, noise.SAMPLE_RATE, nperseg=4096)
    inside = (frequency > 150) & (frequency < 5_500)
    fitted, _ = np.polyfit(np.log(frequency[inside]), np.log(power[inside]), 1)
    assert fitted == pytest.approx(slope, abs=0.05)
    assert np.mean(power[frequency > 6_500]) < 1e-3 * power[inside][-1]


def test_silence_is_varied_and_never_zero():
    sounds = [noise.silence(np.random.default_rng(seed)) for seed in range(60)]
    seconds = np.array([len(sound) for sound in sounds]) / noise.SAMPLE_RATE
    assert 2.0 <= seconds.min() < 2.3 < 4.7 < seconds.max() <= 5.0
    assert seconds.mean() == pytest.approx(3.5, abs=0.25)
    levels = [rms_db(sound) for sound in sounds]
    assert -66 < min(levels) < -60 < -30 < max(levels) < -24
    assert max(np.max(np.abs(sound)) for sound in sounds) < 1
    quantised = [np.round(sound * 32767) for sound in sounds]
    assert min(np.mean(sound != 0) for sound in quantised) > 0.25
    centres = []
    for sound in sounds:
        frequency, power = welch(sound, noise.SAMPLE_RATE)
        centres.append(np.sum(frequency * power) / np.sum(power))
    assert min(centres) < 200 < 3_000 < max(centres)


# The folders


def test_emofilm_plan_has_every_name_once_and_balanced_classes():
    clips = synthetic.plan("emofilm", ["en", "it", "es"], 40)
    names = [clip.path for clip in clips]
    assert len(set(names)) == len(names) == 600
    for clip in clips:
        match = re.fullmatch(
            r"([fm])_(ans|dis|gio|rab|tri)(\d{3})([a-z])(en|it|es)\.wav", clip.path
        )
        gender, code, scene, _, language = match.groups()
        assert code == EMOFILM_CODES[clip.label][0]
        assert language == clip.language == clip.speaker[:2]
        assert gender == clip.speaker[3]
        assert int(scene) == clip.scene + 1
    assert set(collections.Counter((c.language, c.label) for c in clips).values()) == {40}
    said = collections.defaultdict(set)
    for clip in clips:
        said[clip.language, clip.label].add((clip.speaker, clip.scene))
    for language in ("en", "it", "es"):
        of_language = [said[language, emotion] for emotion in EMOTIONS]
        assert all(pairs == of_language[0] for pairs in of_language)
        assert len({speaker for speaker, _ in of_language[0]}) == 6


def test_emofilm_names_stay_unique_up_to_the_limit():
    limit = synthetic.MAX_EMOFILM_CLIPS
    clips = synthetic.plan("emofilm", ["it"], limit)
    assert len({clip.path for clip in clips}) == 5 * limit
    assert all(re.fullmatch(r"[a-z0-9_]+\.wav", clip.path) for clip in clips)
    with pytest.raises(UserError, match=str(limit)):
        synthetic.plan("emofilm", ["it"], limit + 1)


def test_sentences_are_parallel():
    assert len({len(sentences) for sentences in SENTENCES.values()}) == 1
    for sentences in SENTENCES.values():
        assert len(set(sentences)) == len(sentences) >= 12


def test_same_seed_same_bytes_whatever_the_processes(tmp_path):
    one = synthetic.synthesise("emofilm", tmp_path / "one", ["it"], 2, 7, processes=1)
    two = synthetic.synthesise("emofilm", tmp_path / "two", ["it"], 2, 7, processes=2)
    assert one == two
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]
    clip = synthetic.plan("emofilm", ["it"], 2)[3]
    rate, samples = wavfile.read(tmp_path / "one" / clip.path)
    expected, expected_rate = render(clip, 7)
    assert rate == expected_rate
    np.testing.assert_array_equal(samples, np.round(expected * 32767))
    other_seed, _ = render(clip, 8)
    assert len(other_seed) != len(expected) or not np.array_equal(other_seed, expected)

    with (tmp_path / "one" / "EmoFilm_labels_synthetic.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["file", "speaker", "film", "gender", "language", "emo"]
    assert {row["file"] for row in rows} == {p.name for p in (tmp_path / "one").glob("*.wav")}
    listing = list_clips("emofilm", tmp_path / "one")
    assert not listing.skipped
    assert {(clip.file, clip.label, clip.speaker) for clip in listing.clips} == {
        (clip.path, clip.label, clip.speaker) for clip in synthetic.plan("emofilm", ["it"], 2)
    }


@pytest.mark.parametrize(("kind", "language"), [("neutral", "pl"), ("silence", NO_LANGUAGE)])
def test_manifest_is_what_the_preparer_reads(tmp_path, kind, language, monkeypatch):
    monkeypatch.setattr(synthetic, "process_pool", ThreadPoolExecutor)
    synthetic.synthesise(kind, tmp_path / "out", ["pl"], 3, 0, processes=1)
    listing = list_clips("manifest", tmp_path / "out")
    assert not listing.skipped
    assert [(clip.label, clip.language) for clip in listing.clips] == [(kind, language)] * 3
    assert {clip.file for clip in listing.clips} == {
        path.relative_to(tmp_path / "out").as_posix() for path in tmp_path.rglob("*.wav")
    }
    assert all(bool(clip.speaker) == (kind == "neutral") for clip in listing.clips)


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(synthetic, "process_pool", ThreadPoolExecutor)
    monkeypatch.setattr(synthetic, "_write_table", full_disk)
    with pytest.raises(UserError, match=r"out: No space left"):
        synthetic.synthesise("silence", tmp_path / "out", [], 2, 0, processes=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kind", "languages", "out_dir", "named"),
    [
        ("emofilm", ["de"], "new", "--languages=de .* en,it,es"),
        ("neutral", ["en", "xx"], "new", "--languages=en,xx .* en,it,es,de,pl"),
        ("neutral", [], "new", "--languages= "),
        ("silence", [], "taken", "taken is not empty"),
        ("silence", [], "taken/file/below", "cannot write .*taken/file/below"),
        ("silence", [], "taken/file", "cannot write .*taken/file"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(tmp_path, kind, languages, out_dir, named):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("kept")
    with pytest.raises(UserError, match=named):
        synthetic.synthesise(kind, tmp_path / out_dir, languages, 2, 0, processes=1)
    assert contents(tmp_path) == {"taken/file": b"kept"}


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--kind=music"], "--kind=music"),
        (["--kind=silence", "--clips_per_class=0"], "--clips_per_class=0"),
        (["--kind=emofilm", "--languages=fr"], "--languages=fr"),
        (["--kind=neutral", "--own_ways"], "leave it out with --kind=neutral"),
    ],
)
def test_the_command_ends_with_one_sentence_and_code_2(tmp_path, flags, named):
    done = run_module("data_prep.synthesise", f"--out_dir={tmp_path / 'new'}", *flags)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert named in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_command_writes_the_folder(tmp_path):
    done = run_module(
        *("data_prep.synthesise", "--kind=neutral", f"--out_dir={tmp_path}"),
        *("--languages=de", "--clips_per_class=1", "--seed=4"),
    )
    assert done.returncode == 0, done.stderr
    assert set(contents(tmp_path)) == {"de/neutral/00000.wav", "manifest.csv"}
