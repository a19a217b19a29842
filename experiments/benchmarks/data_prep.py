"""How fast clips become features, and how much memory that takes; one JSON line a case.

    .venv/bin/pip install -r requirements-benchmarks.txt
    .venv/bin/python -m experiments.benchmarks.data_prep

- `rate`: clips a second, the median over alternating rounds, each in a process of its own: ours
  with one process and with one a core, and a plain loop over the files in one process with
  python_speech_features and with librosa. All start from files, resample to 16 kHz, crop or pad to
  3.5 s and give 348 x 40 coefficients of the same frames; ours also checks each file and evens out
  its level. Starting Python is not counted, starting our processes is.
- `scaling`: the rate of all cores, divided by that of one process and by the number of cores.
- `memory`: peak of the largest process that prepares n, 2n and 4n clips in shards of one size, and
  the slope by which it grows.

The speech is synthetic (`data_prep.synthesise`). Run it on an idle machine.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from absl import flags
from jaxtyping import Float

from data_prep.corpora import Clip
from data_prep.pipeline import extract_all
from data_prep.synthetic import synthesise
from fmaml_jax.audio.decoding import SAMPLE_RATE
from fmaml_jax.audio.features import FEATURES
from fmaml_jax.common import console
from fmaml_jax.common.errors import UserError
from fmaml_jax.common.processes import cores

CONFIG = FEATURES["paper"]
SAMPLES = round(CONFIG.clip_seconds * SAMPLE_RATE)
FRAME, STEP = (round(s * SAMPLE_RATE) for s in (CONFIG.frame_seconds, CONFIG.step_seconds))
SHAPE = (348, CONFIG.coefficients)
DISTINCT = 200  # clips that are synthesised; the others are links to them
MIB = 2**20


def ours(paths: list[Path], processes: int) -> list[tuple[int, ...]]:
    """Shapes of the features, by what `data_prep.prepare` does."""
    clips = [Clip(str(path), "", "") for path in paths]
    found = extract_all(clips, Path(), CONFIG, processes)
    return [recording.features.shape for recording, _ in found if recording]


def with_speech_features(path: Path) -> Float[np.ndarray, "frames coeffs"]:
    """What a script with python_speech_features does for each file."""
    import python_speech_features
    import soundfile
    import soxr

    samples, rate = soundfile.read(path)
    clip = _fit(soxr.resample(samples, rate, SAMPLE_RATE))
    return python_speech_features.mfcc(
        clip,
        SAMPLE_RATE,
        winlen=CONFIG.frame_seconds,
        winstep=CONFIG.step_seconds,
        numcep=CONFIG.coefficients,
        nfilt=CONFIG.mel_filters,
        nfft=CONFIG.fft_size,
        winfunc=np.hamming,
    )


def with_librosa(path: Path) -> Float[np.ndarray, "frames coeffs"]:
    """What a script with librosa does for each file."""
    import librosa

    samples, _ = librosa.load(path, sr=SAMPLE_RATE)
    clip = np.pad(_fit(samples), (0, (SHAPE[0] - 1) * STEP + CONFIG.fft_size - SAMPLES))
    return librosa.feature.mfcc(
        y=clip,
        sr=SAMPLE_RATE,
        n_mfcc=CONFIG.coefficients,
        n_mels=CONFIG.mel_filters,
        n_fft=CONFIG.fft_size,
        win_length=FRAME,
        hop_length=STEP,
        window="hamming",
        center=False,
    ).T


def _fit(samples: np.ndarray) -> np.ndarray:
    return np.pad(samples[:SAMPLES], (0, max(0, SAMPLES - len(samples))))


def _loop(one: Callable[[Path], np.ndarray]) -> Callable[[list[Path]], list[tuple[int, ...]]]:
    return lambda paths: [one(path).shape for path in paths]


CASES = {
    "ours, one process": lambda paths: ours(paths, 1),
    "ours, all cores": lambda paths: ours(paths, cores()),
    "python_speech_features, a loop": _loop(with_speech_features),
    "librosa, a loop": _loop(with_librosa),
}


def measure(case: str, folder: Path) -> dict[str, float]:
    """Clips a second and peak memory of one case over a folder's clips, in this process."""
    paths = sorted(folder.rglob("*.wav"))
    run = CASES[case]
    run(paths[:2])  # imports and compiles
    start = time.perf_counter()
    shapes = run(paths)
    seconds = time.perf_counter() - start
    assert set(shapes) == {SHAPE}, set(shapes)
    peak = max(
        resource.getrusage(who).ru_maxrss
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return {"clips_per_second": len(paths) / seconds, "peak_mib": peak * 1024 / MIB}


def rates(folder: Path, rounds: int) -> Iterator[dict]:
    """A line for each case, and one for the scaling; the cases take turns."""
    found: dict[str, list[dict[str, float]]] = {case: [] for case in CASES}
    with console.progress("rates", rounds * len(CASES), " runs") as bar:
        for _ in range(rounds):
            for case, results in found.items():
                results.append(json.loads(_python("-m", __spec__.name, case, str(folder))[0]))
                bar.update()
    median = {}
    for case, results in found.items():
        values = [result["clips_per_second"] for result in results]
        median[case] = statistics.median(values)
        yield {
            "case": "rate",
            "of": case,
            "clips_per_second": round(median[case], 1),
            "least": round(min(values), 1),
            "most": round(max(values), 1),
            "of_ours_one_process": round(median[case] / median["ours, one process"], 3),
            "peak_mib": round(max(result["peak_mib"] for result in results), 1),
        }
    speedup = median["ours, all cores"] / median["ours, one process"]
    yield {"case": "scaling", "cores": cores(), "of_linear": round(speedup / cores(), 3)}


def memory(folders: list[Path], shard_clips: int) -> Iterator[dict]:
    """A line for each folder of clips, and one for the slope over them."""
    counts, peaks = [], []
    for folder in folders:
        count = sum(1 for _ in folder.rglob("*.wav"))
        with tempfile.TemporaryDirectory() as scratch:
            _, peak = _python(
                *("-m", "data_prep.prepare", "--corpus=folders", "--language=en"),
                *(f"--audio_dir={folder}", f"--out={scratch}/x.npz"),
                f"--shards={count // shard_clips}",
            )
        counts.append(count)
        peaks.append(peak)
        yield {
            "case": "memory",
            "clips": count,
            "shards": count // shard_clips,
            "peak_mib": round(peak / MIB, 1),
        }
    slope = np.polyfit(counts, peaks, 1)[0]
    yield {
        "case": "memory slope",
        "bytes_per_clip": round(slope),
        "mib_at_a_million_clips": round((peaks[0] + slope * (10**6 - counts[0])) / MIB),
    }


def _python(*arguments: str) -> tuple[str, int]:
    """Output of a Python command, and the peak memory in bytes of its largest process."""
    with subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        output, errors = process.stdout.read(), process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise UserError(f"{' '.join(arguments)} failed: {errors.strip().splitlines()[-1]}")
    return output, usage.ru_maxrss * 1024


def link_clips(originals: list[Path], folder: Path, count: int) -> Path:
    """A folder of `count` names for the originals, in turn."""
    (folder / "neutral").mkdir(parents=True)
    for index in range(count):
        os.link(originals[index % len(originals)], folder / "neutral" / f"{index:07d}.wav")
    return folder


def main() -> None:
    args = flags.FLAGS
    with tempfile.TemporaryDirectory() as scratch:
        speech = Path(scratch) / "speech"
        synthesise("neutral", speech, ["en"], min(DISTINCT, args.clips), seed=0)
        originals = sorted(speech.rglob("*.wav"))
        folders = [
            link_clips(originals, Path(scratch) / str(times), times * args.clips)
            for times in (1, 2, 4)
        ]
        for lines in (
            rates(folders[0], args.rounds),
            memory(folders, min(args.clips, args.shard_clips)),
        ):
            for line in lines:
                print(json.dumps(line), flush=True)


def define_flags() -> None:
    flags.DEFINE_integer("clips", 2000, "Clips to prepare; for memory, also 2 and 4 times.", 1)
    flags.DEFINE_integer("rounds", 3, "Times that each rate is measured.", 1)
    flags.DEFINE_integer("shard_clips", 500, "Clips of a shard, for memory.", 1)


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in CASES:  # a process of its own, see `rates`
        print(json.dumps(measure(sys.argv[1], Path(sys.argv[2]))))
    else:
        define_flags()
        console.run(main)
