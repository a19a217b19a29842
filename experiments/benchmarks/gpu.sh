#!/usr/bin/env bash
# What only an accelerator shows, in some ten minutes: bash experiments/benchmarks/gpu.sh FOLDER
# The public corpora are prepared (`make public_data CORPORA=DIR`), PyTorch sees the device too.
set -euo pipefail
out=$1
measure() { python -m experiments.benchmarks.meta_step --out="$out/$1.jsonl" --measures="${@:2}"; }

measure steps meta-step,evaluation,seeds --peers="torch loop" --repeats=5 --seed_counts=1,8
measure tasks tasks --task_counts=16,256,1024,4096 --precisions=float32,tf32,bf16 --repeats=3
measure cell cell --cell="--flagfile=experiments/public_italian_5shot.cfg"
for target in german italian english; do
  for precision in float32 tf32 bf16; do
    python -m fmaml_jax.main --flagfile="experiments/public_${target}_5shot.cfg" \
      --precision=$precision --seeds_at_once=3 --run_dir="$out/$precision/$target" > /dev/null
  done
done
python -m fmaml_jax.report "$out"/*/*/ --out="$out/report"
