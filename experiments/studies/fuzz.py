"""Damaged sound files through `prepare`, `enrol` and `predict`: what becomes of them.

    python -m experiments.studies.fuzz --checkpoint=runs/start --model=my.model --files=1600

A file may be answered, with a warning or without, or refused by a sentence. Anything else raised is
printed as it is, and what takes longer than `LONGEST` seconds is a hang. An answer without a
warning is counted as mostly damaged where less than half of the speech is where it was.
"""

import contextlib
import io
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import NamedTuple, NoReturn

import numpy as np
import soundfile
from absl import flags
from jaxtyping import Float, Float32

from data_prep.pipeline import prepare
from fmaml_jax.audio.decoding import SAMPLE_RATE, AudioError, read_clip
from fmaml_jax.audio.features import FEATURES
from fmaml_jax.common import console
from fmaml_jax.common.errors import UserError
from fmaml_jax.recognition import Recogniser, load, predict
from fmaml_jax.recognition.checkpoint import Start, load_start
from fmaml_jax.recognition.support import read_clip_as
from fmaml_jax.training.devices import set_up_device

LONGEST = 20
UNSAID = "mostly damaged, not a word"
FRAME = SAMPLE_RATE // 10
"""Samples of the frames in which the speech is looked for."""
SUBTYPES = {"WAV": "PCM_16", "FLAC": "PCM_16", "OGG": "VORBIS", "OPUS": "OPUS", "MP3": None}
SUBTYPES["AIFF"] = "PCM_16"
DAMAGE = ("flips", "cut", "header", "joined", "noise", "zeros", "not_finite", "channels")


class Case(NamedTuple):
    """A file of the fuzz: its format, what was done to it, and its bytes."""

    format: str
    damage: str
    raw: bytes


def speech(rng: np.random.Generator) -> Float[np.ndarray, " samples"]:
    """Three seconds like speech: a voice whose pitch glides, in syllables."""
    time = np.arange(3 * SAMPLE_RATE) / SAMPLE_RATE
    pitch = 150 + 50 * np.sin(2 * np.pi * 0.7 * time + rng.uniform(0, 6))
    voice = sum(np.sin(n * 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE) / n for n in range(1, 20))
    syllables = np.abs(np.sin(2 * np.pi * 1.7 * time)) ** 0.5
    return 0.2 * voice * syllables + 0.003 * rng.standard_normal(len(time))


def encoded(
    samples: Float[np.ndarray, " frames *channels"], kind: str, subtype: str | None
) -> bytes:
    """The bytes of a file of one of the formats."""
    file = io.BytesIO()
    container = "OGG" if kind == "OPUS" else kind
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    with soundfile.SoundFile(file, "w", SAMPLE_RATE, channels, subtype, format=container) as sound:
        for at in range(0, len(samples), 4000):
            sound.write(samples[at : at + 4000])
    return file.getvalue()


def cases(samples: Float[np.ndarray, " samples"], count: int, seed: int) -> Iterator[Case]:
    """Files, damaged in turn in each way; the same for the same seed."""
    rng = np.random.default_rng(seed)
    whole = {kind: encoded(samples, kind, subtype) for kind, subtype in SUBTYPES.items()}
    for number in range(count):
        kind = [*SUBTYPES][number % len(SUBTYPES)]
        damage = DAMAGE[number // len(SUBTYPES) % len(DAMAGE)]
        yield Case(kind, damage, _damaged(whole[kind], samples, kind, damage, rng))


def _damaged(
    raw: bytes,
    samples: Float[np.ndarray, " samples"],
    kind: str,
    damage: str,
    rng: np.random.Generator,
) -> bytes:
    changed = bytearray(raw)
    begin, end = sorted(rng.integers(64, len(raw), 2).tolist())
    if damage == "flips":
        for at in rng.integers(0, len(raw), rng.integers(1, 200)).tolist():
            changed[at] ^= 1 << int(rng.integers(8))
    elif damage == "cut":
        del changed[int(rng.integers(len(raw))) :]
    elif damage == "header":
        for at in rng.integers(0, 64, rng.integers(1, 8)).tolist():
            changed[at] = int(rng.integers(256))
    elif damage == "joined":
        changed += raw[: rng.integers(1, len(raw) + 1)]
    elif damage == "noise":
        changed[begin:end] = rng.bytes(end - begin)
    elif damage == "zeros":
        changed[begin:end] = bytes(end - begin)
    elif kind in ("WAV", "AIFF") and damage == "not_finite":
        broken = samples.copy()
        broken[rng.integers(len(samples), size=3)] = [np.nan, np.inf, -np.inf]
        return encoded(broken, kind, "FLOAT")
    elif kind in ("WAV", "AIFF") and damage == "channels":
        return encoded(np.tile(samples[:, None], int(rng.integers(2, 100))), kind, "PCM_16")
    else:
        del changed[begin:end]
    return bytes(changed)


def is_mostly_damaged(
    heard: Float32[np.ndarray, " samples"], samples: Float[np.ndarray, " samples"]
) -> bool:
    """Whether less than half of the speech is found where it was, give or take a codec's delay."""
    frames = range(0, len(samples) - FRAME, FRAME)
    found = [
        np.correlate(around, frame).max() / (np.linalg.norm(frame) * np.linalg.norm(around))
        for at in frames
        for frame in [samples[at : at + FRAME]]
        for around in [heard[max(0, at - 400) : at + FRAME + 2000]]
        if len(around) > FRAME and around.any()
    ]
    return sum(likeness > 0.35 for likeness in found) < len(frames) / 2


def outcome(
    path: Path, samples: Float[np.ndarray, " samples"], start: Start, recogniser: Recogniser
) -> str:
    """What `enrol` and `predict` make of a file.

    Raises:
        Exception: whatever is no refusal.
    """
    said: list[str] = []
    with contextlib.suppress(UserError):
        said += read_clip_as(path, "anger", start).findings
    try:
        said += predict(recogniser, path).warnings
        heard = read_clip(path).samples
    except (AudioError, UserError):
        return "refused"
    if said:
        return "warned of"
    return UNSAID if is_mostly_damaged(heard, samples) else "answered"


def run(count: int, seed: int, start: Start, recogniser: Recogniser) -> Counter[tuple[str, str]]:
    """How many files of each format came to which end; crashes are ends of their own.

    `prepare` gets them all at once, and what it raises is raised.
    """
    samples = speech(np.random.default_rng(seed))
    ends: Counter[tuple[str, str]] = Counter()
    signal.signal(signal.SIGALRM, _hang)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "anger").mkdir()
        soundfile.write(Path(folder, "anger", "whole.wav"), samples, SAMPLE_RATE)
        for number, case in enumerate(cases(samples, count, seed)):
            suffix = "ogg" if case.format == "OPUS" else case.format.lower()
            path = Path(folder, "anger", f"{case.damage}{number:05}.{suffix}")
            path.write_bytes(case.raw)
            signal.alarm(LONGEST)
            try:
                end = outcome(path, samples, start, recogniser)
            except Exception as error:
                end = f"{type(error).__name__}: {error} ({path.name})"
            finally:
                signal.alarm(0)
            ends[case.format, end] += 1
        prepare("folders", Path(folder), FEATURES["descriptors"], "en")
    return ends


def _hang(number: int, frame: FrameType | None) -> NoReturn:
    raise TimeoutError(f"more than {LONGEST} s")


def main() -> None:
    """Prints how many files of each format came to which end."""
    args = flags.FLAGS
    set_up_device()
    ends = run(args.files, args.seed, load_start(args.checkpoint), load(args.model))
    for (kind, end), count in sorted(ends.items()):
        print(f"{kind:5} {count:5} {end}")


def define_flags() -> None:
    """What recognises, and how many files of which seed."""
    flags.DEFINE_string("checkpoint", "", "Folder of a run to enrol in.")
    flags.DEFINE_string("model", "", "A file that `python -m fmaml_jax.enrol` wrote.")
    flags.DEFINE_integer("files", 1600, "How many files are made.")
    flags.DEFINE_integer("seed", 0, "Seed of the damage.")


if __name__ == "__main__":
    define_flags()
    console.run(main)
