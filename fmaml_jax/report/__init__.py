"""`python -m fmaml_jax.report RUN_DIR... --out=DIR`: runs -> tables, figures and one page."""
