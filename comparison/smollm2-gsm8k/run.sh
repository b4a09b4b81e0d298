#!/usr/bin/env bash
# The runs of the card beside this file: SmolLM2-135M-Instruct, `gsm8k/cot`, then `gsm8k/sim_cot` from it, 100 optimizer steps each.
#   comparison/smollm2-gsm8k/run.sh MODEL_FOLDER DATA_FOLDER      (DATA_FOLDER holds gsm8k_aug/)
set -euo pipefail
model=$1
export UNSPOKEN_DATA=$2 OMP_NUM_THREADS=1
common=(train.epochs=null train.steps=100 train.micro_batch_size=8 train.precision=bf16 train.threads=1 train.warmup_steps=10
  train.schedule=linear train.clip=1.0 train.log_every=5 train.validate_every=50 train.validate_limit=32)
unspoken train gsm8k/cot backbone.path="$model" "${common[@]}" train.batch_size=16 train.save_every=20 --out runs/smollm2-cot
unspoken train gsm8k/sim_cot backbone.path=runs/smollm2-cot "${common[@]}" train.batch_size=8 train.save_every=25 \
  method.inner.epochs_per_stage=0.003 --out runs/smollm2-sim_cot
for run in smollm2-cot smollm2-sim_cot; do
  unspoken eval runs/$run --limit 200 --batch-size 50 --out runs/$run/eval-gsm8k_aug-test.json
done
unspoken eval runs/smollm2-sim_cot --limit 200 --batch-size 50 --explain --out runs/smollm2-sim_cot/thoughts.json
unspoken compare runs/smollm2-cot runs/smollm2-sim_cot
