#!/usr/bin/env bash
# What only an accelerator shows: bash experiments/benchmarks/gpu.sh FOLDER
# The public corpora are prepared (`make public_data CORPORA=DIR`), PyTorch sees the device too.
# Each part has its most seconds. What it has found by then stays in FOLDER.
set -uo pipefail
out=$1
mkdir -p "$out"
part() {
  timeout "$1" python -m "${@:3}" > "$out/$2.log" 2>&1 || echo "$2 did not end: see $out/$2.log"
}
benchmark() { part "$1" "$2" experiments.benchmarks.meta_step --out="$out/$2.jsonl" "${@:3}"; }
accuracy() {
  mkdir -p "$out/$3"
  part "$1" "$3/$2" fmaml_jax.main --flagfile="experiments/public_$2_5shot.cfg" --precision="$3" \
    --seeds_at_once=3 --run_dir="$out/$3/$2"
}

# Never measured: ten minutes at most.
benchmark 90 evaluation --measures=evaluation --repeats=3
benchmark 80 seeds --measures=seeds --seed_counts=1,8 --repeats=5
benchmark 110 shots --measures=cell --cell="--flagfile=experiments/public_italian_5shot.cfg --shots=20"
for target in german english; do
  for precision in float32 bf16; do accuracy 75 $target $precision; done
done

# Measured before.
benchmark 120 steps --measures=meta-step --peers="torch loop" --repeats=5
benchmark 180 tasks --measures=tasks --task_counts=16,256,1024,4096 \
  --precisions=float32,tf32,bf16 --repeats=3
benchmark 120 cell --measures=cell --cell="--flagfile=experiments/public_italian_5shot.cfg"
for precision in float32 tf32 bf16; do accuracy 75 italian $precision; done
python -m fmaml_jax.report "$out"/*/*/ --out="$out/report"
