#!/bin/bash
# One run on several nodes, from the checkout:
#   sbatch experiments/slurm/run.sh --flagfile=experiments/spanish_20shot.cfg
# On one node: sbatch --nodes=1 ... Partition, account and time: sbatch's own flags.
#SBATCH --job-name=fmaml
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gres=gpu:1
#SBATCH --time=02:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@60
# TERM reaches every process a minute before the time is up: the state is saved. Slurm requeues a
# preempted job by itself; one whose time was up is submitted again, and continues.
cd "$SLURM_SUBMIT_DIR" || exit
exec srun .venv/bin/python -m fmaml_jax.main --distributed "$@"
