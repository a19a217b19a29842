"""Synthetic speech, neutral speech and silence: what clips there are, and how each one sounds.

The speech is eSpeak NG's. Emotions differ in prosody and voice quality, speakers in voice; results
on this speech mean nothing about people's. A clip is a function of its own path and the seed.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from scipy.signal import lfilter

from fmaml_jax.data.dataset import NO_LANGUAGE
from fmaml_jax.synthesis import noise
from fmaml_jax.synthesis.espeak import speak
from fmaml_jax.synthesis.sentences import SENTENCES

VOICES = ("f1", "m1", "f2", "m3", "f4", "m6")
"""Variants of eSpeak NG's voices, one a speaker; the first letter is the gender."""


class Prosody(NamedTuple):
    """How a sentence is spoken. The fields add up: usual + emotion + speaker + clip."""

    rate: float  # natural logarithm of words a minute
    pitch: float  # eSpeak NG's units, about a hundredth of the range from low to high
    pitch_range: float  # the same units
    level: float  # dB
    tilt: float  # zero of a first-order filter: above 0 bright, below 0 dull
    breath: float  # aspiration noise, its RMS as a part of the speech's


USUAL = Prosody(rate=np.log(147.0), pitch=42.0, pitch_range=45.0, level=-29.0, tilt=0.0, breath=0.1)
# Directions after Juslin & Laukka, "Communication of emotions in vocal expression and music
# performance", Psychological Bulletin 129 (2003); the sizes, and disgust, are ours.
EMOTIONS = {
    # rate, pitch, range, level, tilt, breath: differences from the usual
    "anger": Prosody(0.10, 10.0, 22.0, 5.0, 0.45, 0.0),
    "disgust": Prosody(-0.10, -12.0, 5.0, 0.0, 0.15, 0.03),
    "fear": Prosody(0.16, 20.0, -15.0, -1.0, 0.1, 0.2),
    "happiness": Prosody(0.04, 16.0, 32.0, 2.5, 0.25, 0.0),
    "sadness": Prosody(-0.18, -10.0, -22.0, -4.0, -0.35, 0.15),
    "neutral": Prosody(0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
}
SPEAKER_SPREAD = Prosody(0.05, 6.0, 8.0, 1.5, 0.08, 0.03)
CLIP_SPREAD = Prosody(0.06, 5.0, 8.0, 1.5, 0.10, 0.04)
"""Standard deviations: wide enough that the emotions of different speakers overlap."""

OWN_WAYS = {
    "it": {"anger": "fear", "fear": "anger", "happiness": "disgust", "disgust": "happiness"},
    "es": {"happiness": "disgust", "disgust": "happiness"},
}
"""Emotions that sound like another one's `EMOTIONS`, by language, where languages are to differ.

What the languages have in common does not tell these four emotions apart; a few clips do.
"""

EMOFILM_CODES = {
    "anger": ("rab", "an"),
    "disgust": ("dis", "co"),
    "fear": ("ans", "fe"),
    "happiness": ("gio", "ha"),
    "sadness": ("tri", "sa"),
}
"""What EmoFilm calls an emotion in a file's name and in its list."""

MAX_EMOFILM_CLIPS = 26 * len(SENTENCES["en"])
"""EmoFilm's names count the clips of one scene in one letter."""


class Clip(NamedTuple):
    """One file to be made."""

    path: str  # below the output folder
    label: str
    language: str
    speaker: str = ""  # eSpeak NG's name of the voice
    scene: int = -1  # row of SENTENCES
    sounds_like: str = ""  # the emotion that it is spoken with; "": its label


def _take(language: str, index: int) -> tuple[str, int]:
    """The speaker and the sentence of a class's clip `index`.

    Six speakers and thirteen sentences have no common divisor, so 78 clips have all the pairs.
    """
    return f"{language}+{VOICES[index % len(VOICES)]}", index % len(SENTENCES[language])


def emofilm_clips(
    languages: Sequence[str], clips_per_class: int, own_ways: bool = False
) -> list[Clip]:
    """A corpus with EmoFilm's file names: `clips_per_class` per emotion and language.

    The same speakers say the same sentences with every emotion. The scene number in a name stands
    for the sentence, in every language, and the letter tells its clips apart. With `own_ways`
    languages express emotions as `OWN_WAYS` says, else all alike.
    """
    clips = []
    for language in languages:
        swapped = OWN_WAYS.get(language, {}) if own_ways else {}
        for emotion, (code, _) in EMOFILM_CODES.items():
            for index in range(clips_per_class):
                speaker, scene = _take(language, index)
                gender = speaker.partition("+")[2][0]
                letter = chr(ord("a") + index // len(SENTENCES[language]))
                name = f"{gender}_{code}{scene + 1:03}{letter}{language}.wav"
                sounds_like = swapped.get(emotion, emotion)
                clips.append(Clip(name, emotion, language, speaker, scene, sounds_like))
    return clips


def neutral_clips(languages: Sequence[str], clips_per_class: int) -> list[Clip]:
    """Unemotional speech in files LANGUAGE/neutral/NUMBER.wav: `clips_per_class` a language."""
    return [
        Clip(f"{language}/neutral/{index:05}.wav", "neutral", language, *_take(language, index))
        for language in languages
        for index in range(clips_per_class)
    ]


def silence_clips(clips_per_class: int) -> list[Clip]:
    """Noise in files silence/NUMBER.wav."""
    return [
        Clip(f"silence/{index:05}.wav", "silence", NO_LANGUAGE) for index in range(clips_per_class)
    ]


def voice_quality(
    speech: Float64[np.ndarray, " samples"], prosody: Prosody, rng: np.random.Generator
) -> Float64[np.ndarray, " samples"]:
    """Gives `speech` the breath, the tilt and the level of `prosody`, within -1 and 1."""
    # Aspiration follows the speech: white noise times the RMS of the last 10 ms or so.
    envelope = np.sqrt(lfilter([0.005], [1.0, -0.995], speech**2))
    breathy = speech + max(prosody.breath, 0.0) * envelope * rng.standard_normal(len(speech))
    tilted = lfilter([1.0, -np.clip(prosody.tilt, -0.9, 0.9)], [1.0], breathy)
    loud = tilted * 10 ** (prosody.level / 20) / np.sqrt(np.mean(tilted**2))
    return loud * min(1.0, 0.99 / np.max(np.abs(loud)))


def render(clip: Clip, seed: int) -> tuple[Float64[np.ndarray, " samples"], int]:
    """The samples of `clip`, within -1 and 1, and their rate in Hz: a function of its arguments.

    Raises:
        UserError: the clip is speech and the synthesiser is missing.
    """
    rng = np.random.default_rng([seed, *clip.path.encode()])
    if clip.label == "silence":
        return noise.silence(rng), noise.SAMPLE_RATE
    speaker_rng = np.random.default_rng([seed, *clip.speaker.encode()])
    habit = speaker_rng.normal(0.0, SPEAKER_SPREAD)
    prosody = Prosody(
        *(habit + rng.normal(EMOTIONS[clip.sounds_like or clip.label], CLIP_SPREAD) + USUAL)
    )
    speech, sample_rate = speak(
        SENTENCES[clip.language][clip.scene],
        clip.speaker,
        rate=np.exp(prosody.rate),
        pitch=np.clip(prosody.pitch, 0, 99),
        pitch_range=np.clip(prosody.pitch_range, 0, 99),
    )
    return voice_quality(speech, prosody, rng), sample_rate
