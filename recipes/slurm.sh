#!/bin/bash
# Train a recipe on whole nodes:   sbatch --nodes 8 recipes/slurm.sh recipes/paper/gemma-7b.yaml [key=value ...]
#
# One process per GPU. Two minutes before the time is up, and when the job is preempted, Slurm sends each a SIGTERM: the
# run keeps a checkpoint and ends. A preempted job comes back by itself; for more time than one job has, submit the same
# line again (sbatch --dependency=afterany:JOB ...): a run goes on where its newest checkpoint is. The run folder must be
# on a file system that all nodes see. Partition, account and time are your cluster's: give them to sbatch.
#SBATCH --job-name=liquid
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --exclusive
#SBATCH --requeue
#SBATCH --signal=TERM@120
#SBATCH --output=slurm-%j.out
#SBATCH --open-mode=append
set -euo pipefail
: "${1:?usage: sbatch --nodes N recipes/slurm.sh RECIPE [key=value ...]}"

MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_ADDR MASTER_PORT=29500 OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK WORLD_SIZE=$SLURM_NTASKS

# shellcheck disable=SC2016  # the variables are each task's own
srun --kill-on-bad-exit=1 bash -c \
  'RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID exec python -m liquid_mm.cli train "$@" --resume' liquid "$@"
