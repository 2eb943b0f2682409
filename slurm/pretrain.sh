#!/usr/bin/env bash
# Pretrain backbones, on all nodes and GPUs of the job.
#   slurm/pretrain.sh STUDY        the backbones of the study's plan, and the small networks of --keep auto
#   slurm/pretrain.sh FLAGS...     `pretrain FLAGS`
# With bash it runs on this machine; submit.sh queues it as a job with the options of env.sh.
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=USR1@180
WINNOW=${WINNOW:-${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}}
# shellcheck source=slurm/job.sh
. "$WINNOW/slurm/job.sh"
stage "pretrain search" "pretrain" "$@"
