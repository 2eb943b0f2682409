#!/usr/bin/env bash
# Train the small networks that score the source.
#   slurm/surrogate.sh STUDY        the surrogates of the study's plan
#   slurm/surrogate.sh FLAGS...     `pretrain FLAGS`
# With bash it runs on this machine; submit.sh queues it as a job with the options of env.sh.
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=USR1@180
WINNOW=${WINNOW:-${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}}
# shellcheck source=slurm/job.sh
. "$WINNOW/slurm/job.sh"
stage "surrogate" "pretrain" "$@"
