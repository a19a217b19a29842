"""CAM++ beside the original: how far each stage is from it, and CPU time a clip.

    python -m experiments.benchmarks.encoder --original=3D-Speaker --weights=FILE.pt --clips=A,B

Needs PyTorch, torchaudio, a checkout of 3D-Speaker and its campplus_cn_en_common.pt. Both read the
energies that torchaudio makes; "energies" is how far our own are from these.
"""

import sys
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import flags

from fmaml_jax.audio.decoding import read_clip
from fmaml_jax.audio.filterbank import log_mel_energies
from fmaml_jax.common import console
from fmaml_jax.encoder import campplus
from fmaml_jax.encoder.torch_file import read_tensors
from fmaml_jax.encoder.weights import convert

SECONDS = 3
REPEATS = 10


def main() -> None:
    """Prints the largest difference of each stage over the clips, and the times."""
    args = flags.FLAGS
    sys.path.insert(0, args.original)
    import torch
    from speakerlab.models.campplus.DTDNN import CAMPPlus
    from torchaudio.compliance import kaldi

    torch.set_num_threads(1)
    original = CAMPPlus(embedding_size=192)
    original.load_state_dict(torch.load(args.weights, weights_only=True))
    original.eval()
    theirs: dict[str, np.ndarray] = {}
    parts = original.xvector
    stages = {"front": original.head, "entry": parts.tdnn, "embedding": original}
    stages |= {f"block{number}": getattr(parts, f"block{number}") for number in (1, 2, 3)}
    for name, module in stages.items():

        def keep(module: Any, inputs: Any, output: Any, name: str = name) -> None:
            theirs[name] = output.detach().numpy()[0].T

        module.register_forward_hook(keep)
    params = jax.device_put(campplus.stack(convert(read_tensors(args.weights))))
    compute = jax.jit(campplus.layers)
    worst: dict[str, float] = defaultdict(float)
    for path in args.clips:
        samples = read_clip(path).samples
        energies = kaldi.fbank(torch.from_numpy(samples)[None], num_mel_bins=80)
        energies = energies - energies.mean(0)
        with torch.no_grad():
            original(energies[None])
        theirs["energies"] = energies.numpy()
        layers = compute(params, campplus.lay([energies.numpy()]))
        frames = len(energies)
        steps = -(-frames // 2)
        # The original has channels before frequencies.
        front = layers.front[:frames].reshape(frames, -1, 32).transpose(0, 2, 1)
        ours = {
            "energies": log_mel_energies(samples),
            "front": front.reshape(frames, -1),
            "entry": layers.entry[:steps],
            "embedding": layers.embedding[0],
        }
        for number, block in enumerate(layers.blocks, 1):
            ours[f"block{number}"] = block[:steps]
        for name, values in ours.items():
            difference = np.abs(np.asarray(values) - theirs[name]).max()
            worst[name] = max(worst[name], float(difference))
    for name, difference in worst.items():
        print(f"{name}: {difference:.1e}")
    clip = np.random.default_rng(0).normal(size=(SECONDS * 100 - 2, campplus.MELS))
    clip = clip.astype(np.float32)
    one = campplus.lay([clip])
    read = jax.jit(lambda params, clips: campplus.layers(params, clips).blocks[-1])
    print(f"ours: {_milliseconds(lambda: jax.block_until_ready(read(params, one))):.0f} ms")
    with torch.no_grad():
        batch = torch.from_numpy(clip)[None]
        print(f"the original: {_milliseconds(lambda: original(batch)):.0f} ms of CPU a clip of 3 s")


def _milliseconds(run: Callable[[], Any]) -> float:
    """CPU time of the quickest of some runs, after one that compiles."""
    run()
    times = []
    for _ in range(REPEATS):
        started = time.process_time()
        run()
        times.append(time.process_time() - started)
    return 1000 * min(times)


def define_flags() -> None:
    """Where the original is, and what both hear."""
    flags.DEFINE_string("original", "", "A checkout of 3D-Speaker.")
    flags.DEFINE_string("weights", "", "campplus_cn_en_common.pt.")
    flags.DEFINE_list("clips", [], "Sound files.")


if __name__ == "__main__":
    define_flags()
    console.run(main)
