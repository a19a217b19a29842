"""What recordings are really like: a clip through a telephone, a codec, noise, a room, or cut.

Each view is a function of mono samples at `SAMPLE_RATE` (1.0 is full scale) and a generator of
random numbers, which those without chance leave alone: the same ones give the same samples.
`VIEWS` are those that a start is tested with, and `random_view` makes those that it is trained on.
"""

import io
import zlib
from collections.abc import Callable
from fractions import Fraction
from functools import partial

import numpy as np
import soxr
from jaxtyping import Float32
from scipy.signal import butter, fftconvolve, sosfilt

from fmaml_jax.audio.decoding import SAMPLE_RATE

Samples = Float32[np.ndarray, " _"]
View = Callable[[Samples, np.random.Generator], Samples]

NARROW = 8_000
"""Samples per second of a telephone."""
PASSBAND = 300.0, 3400.0
"""Hz."""
VOICES = 6
"""Of babble."""
REVERBERATION = 0.6
"""Seconds in which a room's sound falls by 60 dB (RT60), as in a bare office."""
KINDS = "telephone", "opus", "mp3", "gain", "babble", "noise", "room", "filter"
"""Of `random_view`."""
_FRAME = SAMPLE_RATE // 50
_TINY = 1e-12
_OCTAVE = 6.0  # dB by which a spectrum falls an octave that is divided by the frequency


def telephone(samples: Samples, rng: np.random.Generator) -> Samples:
    """Band-limited, at 8 kHz, through the mu-law companding of G.711."""
    del rng
    narrow = soxr.resample(samples, SAMPLE_RATE, NARROW)
    sections = butter(4, PASSBAND, "bandpass", fs=NARROW, output="sos")
    coded = _coded(sosfilt(sections, narrow), NARROW, "pcm_mulaw", "wav")
    return _of_length(soxr.resample(coded, NARROW, SAMPLE_RATE), len(samples))


def compressed(
    samples: Samples, rng: np.random.Generator, *, codec: str, container: str, bit_rate: int
) -> Samples:
    """Through a codec of FFmpeg and back, at so many bits a second."""
    del rng
    coded = _coded(samples, SAMPLE_RATE, codec, container, bit_rate)
    return _of_length(coded, len(samples))


def amplified(samples: Samples, rng: np.random.Generator, *, decibels: float) -> Samples:
    """Louder or quieter; what exceeds full scale is clipped."""
    del rng
    return np.clip(samples * 10 ** (decibels / 20), -1, 1).astype(np.float32)


def babble(samples: Samples, rng: np.random.Generator, *, snr: float) -> Samples:
    """With voices that say nothing: the clip's own, backwards, at other speeds, out of step."""
    voices = []
    for _ in range(VOICES):
        speed = rng.uniform(0.75, 1.3)
        voice = soxr.resample(samples[::-1], SAMPLE_RATE, SAMPLE_RATE / speed)
        repeated = np.resize(voice, len(samples))
        voices.append(np.roll(repeated, rng.integers(len(samples))))
    return _with_noise(samples, np.sum(voices, axis=0), snr)


def noisy(samples: Samples, rng: np.random.Generator, *, snr: float, slope: float) -> Samples:
    """With a steady noise, its spectrum falling by so many dB an octave."""
    return _with_noise(samples, _noise(len(samples), rng, slope), snr)


def street(samples: Samples, rng: np.random.Generator, *, snr: float) -> Samples:
    """With a rumble that swells and fades, its spectrum falling by 3 dB an octave."""
    rumble = _noise(len(samples), rng, slope=3)
    seconds = np.arange(len(samples)) / SAMPLE_RATE
    passing = 1 + 0.5 * np.sin(2 * np.pi * (rng.uniform(0.1, 0.5) * seconds + rng.uniform()))
    return _with_noise(samples, rumble * passing, snr)


def room(
    samples: Samples,
    rng: np.random.Generator,
    *,
    reverberation: float = REVERBERATION,
    walls: float = 1.0,
) -> Samples:
    """In a room: from its walls comes an exponentially decaying noise, `walls` times the voice."""
    seconds = np.arange(round(reverberation * SAMPLE_RATE)) / SAMPLE_RATE
    response = rng.normal(size=len(seconds)) * 10 ** (-3 * seconds / reverberation)
    response *= walls / np.sqrt(np.sum(response**2))
    response[0] += 1
    reverberant = fftconvolve(samples, response)[: len(samples)]
    level = np.sqrt(np.mean(samples**2) / max(np.mean(reverberant**2), _TINY))
    return (reverberant * level).astype(np.float32)


def filtered(samples: Samples, rng: np.random.Generator, *, low: float, high: float) -> Samples:
    """Through a poor microphone or loudspeaker, which passes what lies between so many Hz."""
    del rng
    sections = butter(2, (low, high), "bandpass", fs=SAMPLE_RATE, output="sos")
    return np.clip(sosfilt(sections, samples), -1, 1).astype(np.float32)


def second(samples: Samples, rng: np.random.Generator) -> Samples:
    """The loudest second."""
    del rng
    power = np.concatenate([[0], np.cumsum(np.square(samples, dtype=np.float64))])
    starts = np.arange(0, max(1, len(samples) - SAMPLE_RATE + 1), _FRAME)
    ends = np.minimum(starts + SAMPLE_RATE, len(samples))
    loudest = starts[np.argmax(power[ends] - power[starts])]
    return samples[loudest : loudest + SAMPLE_RATE]


def ten_seconds(samples: Samples, rng: np.random.Generator) -> Samples:
    """Ten seconds: the clip's beginning, or, since most are shorter, the clip again and again."""
    del rng
    return np.resize(samples, 10 * SAMPLE_RATE)


VIEWS: dict[str, View] = {
    "telephone": telephone,
    "opus": partial(compressed, codec="libopus", container="ogg", bit_rate=16_000),
    "mp3": partial(compressed, codec="libmp3lame", container="mp3", bit_rate=32_000),
    "quiet": partial(amplified, decibels=-10.0),
    "loud": partial(amplified, decibels=10.0),
    **{f"babble{snr}": partial(babble, snr=float(snr)) for snr in (20, 10, 5)},
    **{f"street{snr}": partial(street, snr=float(snr)) for snr in (20, 10, 5)},
    "room": room,
    "second": second,
    "ten_seconds": ten_seconds,
}
"""By name; a number is the signal-to-noise ratio in dB."""


def random_view(samples: Samples, number: int) -> Samples:
    """A clip as it may be recorded, by chance; the same clip and number give the same samples.

    Args:
        samples: the clip.
        number: from 1; the first views of a clip, as many as there are `KINDS`, differ in kind.
    """
    sound = zlib.crc32(samples.tobytes())
    kinds = np.random.default_rng(sound).permutation(KINDS)
    rng = np.random.default_rng((sound, number))
    match kinds[(number - 1) % len(KINDS)]:
        case "telephone":
            view = telephone
        case "opus":
            bit_rate = int(rng.choice([12_000, 16_000, 24_000]))
            view = partial(compressed, codec="libopus", container="ogg", bit_rate=bit_rate)
        case "mp3":
            bit_rate = int(rng.choice([24_000, 32_000, 48_000]))
            view = partial(compressed, codec="libmp3lame", container="mp3", bit_rate=bit_rate)
        case "gain":
            view = partial(amplified, decibels=rng.uniform(-10, 10))
        case "babble":
            view = partial(babble, snr=rng.uniform(10, 20))
        case "noise":
            view = partial(noisy, snr=rng.uniform(5, 20), slope=rng.uniform(0, 6))
        case "room":
            view = partial(room, reverberation=rng.uniform(0.2, 0.8), walls=rng.uniform(0.5, 1.2))
        case _:
            view = partial(filtered, low=rng.uniform(50, 500), high=rng.uniform(2000, 7500))
    return view(samples, rng)


def _noise(length: int, rng: np.random.Generator, slope: float) -> np.ndarray:
    """Noise whose spectrum falls by so many dB an octave, from 50 Hz on."""
    spectrum = np.fft.rfft(rng.normal(size=length))
    hertz = np.fft.rfftfreq(length, 1 / SAMPLE_RATE)
    return np.fft.irfft(spectrum / hertz.clip(50) ** (slope / _OCTAVE), length)


def _with_noise(samples: Samples, noise: np.ndarray, snr: float) -> Samples:
    """The noise is so many dB below the speech, which is the louder half of the clip."""
    frames = np.resize(samples, (-(-len(samples) // _FRAME), _FRAME)).astype(np.float64)
    powers = np.sort(np.mean(frames**2, axis=1))
    speech = powers[len(powers) // 2 :].mean()
    scale = np.sqrt(speech / max(np.mean(noise**2), _TINY) / 10 ** (snr / 10))
    return np.clip(samples + scale * noise, -1, 1).astype(np.float32)


def _coded(
    samples: np.ndarray, rate: int, codec: str, container: str, bit_rate: int | None = None
) -> Samples:
    import av  # late, as in `ffmpeg.py`

    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate, layout="mono")
        assert isinstance(stream, av.AudioStream)
        if bit_rate:
            stream.bit_rate = bit_rate
        whole = np.clip(np.round(samples * 32767), -32768, 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(whole[None], "s16", "mono")
        frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), 0
        for part in (frame, None):
            output.mux(stream.encode(part))
    file.seek(0)
    with av.open(file, "r") as source:
        back = av.AudioResampler("flt", "mono", rate)
        frames = [part for frame in source.decode(audio=0) for part in back.resample(frame)]
        frames += back.resample(None)
    return np.concatenate([frame.to_ndarray()[0] for frame in frames])


def _of_length(samples: np.ndarray, length: int) -> Samples:
    """Cut, or with zeros at its end, as codecs pad and delay."""
    padded = np.pad(samples, (0, max(0, length - len(samples))))
    return padded[:length].astype(np.float32)
