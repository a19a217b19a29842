#!/bin/bash
# One run on all hosts of a TPU slice, from anywhere that gcloud is set up:
#   experiments/tpu/run.sh NAME ZONE --flagfile=experiments/spanish_20shot.cfg --run_dir=/mnt/runs/es
# Every host needs this checkout in ~/fmaml_jax with `make venv` and the TPU line of the README, and
# the data and the run folder on a file system that all of them share.
name=$1 zone=$2
shift 2
exec gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="
  cd fmaml_jax && .venv/bin/python -m fmaml_jax.main --distributed $*"
