#!/usr/bin/env bash
# srun starts this once for each process: set the variables from which torch and Accelerate read its rank, then become
# the command. So signals reach Python itself and its exit code reaches srun; a launcher in between would swallow both.
set -euo pipefail
export RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS LOCAL_RANK=$SLURM_LOCALID
export LOCAL_WORLD_SIZE=${SLURM_NTASKS_PER_NODE:-1}
# With --gpus-per-task each process sees only its own GPU, as number 0.
case ${CUDA_VISIBLE_DEVICES:-,} in *,*) ;; *) LOCAL_RANK=0 ;; esac
exec "$@"
