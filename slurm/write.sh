#!/usr/bin/env bash
# Turn images into betons.
#   slurm/write.sh STUDY        every beton of the study's plan
#   slurm/write.sh FLAGS...     `prune write FLAGS`
# With bash it runs on this machine; submit.sh queues it as a job with the options of env.sh.
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=USR1@180
WINNOW=${WINNOW:-${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}}
# shellcheck source=slurm/job.sh
. "$WINNOW/slurm/job.sh"
stage "write" "prune write" "$@"
