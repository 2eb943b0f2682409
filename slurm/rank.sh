#!/usr/bin/env bash
# Started by srun once for each process: name its place in the run as torch and Accelerate read it, and become it.
# Signals to the step so reach Python itself, and its exit code reaches srun; a launcher in between would swallow both.
set -euo pipefail
export RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS LOCAL_RANK=$SLURM_LOCALID
export LOCAL_WORLD_SIZE=${SLURM_NTASKS_PER_NODE:-1}
# With --gpus-per-task each process sees its own GPU alone, as number 0.
case ${CUDA_VISIBLE_DEVICES:-,} in *,*) ;; *) LOCAL_RANK=0 ;; esac
exec "$@"
