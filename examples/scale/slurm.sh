#!/bin/bash
# A training on 4 machines of 8 GPUs each, which goes on by itself when its time is over:
#     sbatch examples/scale/slurm.sh RECIPE [FIELD=VALUE ...]
#SBATCH --job-name=unspoken
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@600
set -u
out=${OUT:-$SCRATCH/runs/$SLURM_JOB_ID} # the number of a job stays the same when it is queued again
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

srun --kill-on-bad-exit=1 torchrun --nnodes "$SLURM_NNODES" --nproc_per_node 8 --rdzv-backend c10d \
    --rdzv-endpoint "$head:29500" --rdzv-id "$SLURM_JOB_ID" -m unspoken train "$@" --out "$out" &
job=$!
# Ten minutes before the end: SIGTERM, and back into the queue. Processes save a state when they next log
# (train.log_every); torchrun kills those that take more than 30 s, which then go on from the state before.
trap 'kill -TERM "$job"; wait "$job"; scontrol requeue "$SLURM_JOB_ID"' USR1
wait "$job"
