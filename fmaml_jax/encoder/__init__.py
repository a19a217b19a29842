"""Pretrained speech encoders: CAM++, which tells speakers apart, and whose layers hear emotion.

`torch_file.py` and `weights.py` make its file once, `campplus.py` is the network, and `features.py`
makes features with it as `fmaml_jax.audio.features` does without. `hub.py` does so with encoders
that people have on disk.
"""

DEFAULT = "data/encoder/campplus.npz"
"""Where the commands look for the weights."""
