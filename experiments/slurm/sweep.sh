#!/bin/bash
# A grid of runs as one Slurm array, from a login node of the cluster. It shows the progress of each;
# stopped with Ctrl-C it cancels them, and started again it continues.
#   experiments/slurm/sweep.sh --flagfile=experiments/public_german_5shot.cfg \
#     --targets=de,it --all_shots=5,10,20 --seeds=0,1,2 --out=runs/grid
exec .venv/bin/python -m fmaml_jax.sweep --cluster=slurm --slurm_gpus=1 "$@"
