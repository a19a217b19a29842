"""Few-shot speech emotion recognition: F-MAML in JAX. `fmaml_jax.recognition` is the interface."""

__version__ = "0.1.0"
