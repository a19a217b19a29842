"""Tests run on the CPU, whose float32 the tolerances are made for, whatever else there is."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
