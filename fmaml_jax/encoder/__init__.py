"""A pretrained speech encoder: CAM++, which tells speakers apart, and whose layers hear emotion.

`torch_file.py` and `weights.py` make its file once, `campplus.py` is the network, and `features.py`
makes features with it as `fmaml_jax.audio.features` does without.
"""

DEFAULT = "data/encoder/campplus.npz"
"""Where the commands look for the weights."""
