"""Tests run on the CPU, whose float32 the tolerances are made for, whatever else there is.

It counts as eight devices, so that every test of a run is one of a run on many devices.
"""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "8"
