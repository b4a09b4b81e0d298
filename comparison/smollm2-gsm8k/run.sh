#!/usr/bin/env bash
# The runs of the card beside this file, 100 optimizer steps each: SmolLM2-135M-Instruct, `gsm8k/cot`, `gsm8k/sim_cot` from it, and with LoRA
# `gsm8k/codi` and `gsm8k/sim_cot_codi` from SmolLM2 itself.
#   comparison/smollm2-gsm8k/run.sh MODEL_FOLDER DATA_FOLDER      (DATA_FOLDER holds gsm8k_aug/)
set -euo pipefail
model=$1
export UNSPOKEN_DATA=$2 OMP_NUM_THREADS=1
common=(train.epochs=null train.steps=100 train.micro_batch_size=8 train.precision=bf16 train.threads=1 train.warmup_steps=10
  train.schedule=linear train.clip=1.0 train.log_every=5 train.validate_every=50 train.validate_limit=32)
unspoken train gsm8k/cot backbone.path="$model" "${common[@]}" train.batch_size=16 train.save_every=20 --out runs/smollm2-cot
unspoken train gsm8k/sim_cot backbone.path=runs/smollm2-cot "${common[@]}" train.batch_size=8 train.save_every=25 \
  method.inner.epochs_per_stage=0.003 --out runs/smollm2-sim_cot
codi=("${common[@]/train.warmup_steps=10/train.warmup_share=0.1}" train.lr=8e-4 train.save_every=20 speaking.max_new_tokens=32)
unspoken train gsm8k/codi backbone.path="$model" "${codi[@]}" train.batch_size=16 method.distill_weight=20 --out runs/smollm2-codi
unspoken train gsm8k/sim_cot_codi backbone.path="$model" "${codi[@]}" train.batch_size=8 method.inner.distill_weight=20 \
  --out runs/smollm2-sim_cot_codi
for task in gsm8k_aug gsm_hard svamp multiarith; do
  reports=()
  for run in cot sim_cot codi sim_cot_codi; do
    report=runs/smollm2-$run/eval-$task-test.json
    unspoken eval runs/smollm2-$run --task $task --limit 200 --batch-size 50 --out "$report"
    reports+=("$report")
  done
  unspoken compare "${reports[@]}" --out "$(dirname "$0")/table-$task.md"
  unspoken compare "${reports[@]}" --out "$(dirname "$0")/table-$task.json"
done
for run in sim_cot sim_cot_codi; do
  unspoken eval runs/smollm2-$run --limit 200 --batch-size 50 --explain --out runs/smollm2-$run/thoughts.json
done
