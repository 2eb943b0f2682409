#!/usr/bin/env bash
# Turn images into betons, and compute the gate of a study that has one.
#   slurm/write.sh STUDY        every beton of the study's plan, and what --gate needs: thumbnails, scores, index
#   slurm/write.sh FLAGS...     `prune write FLAGS`
# With bash it runs on this machine; submit.sh queues it as a job with the options of env.sh.
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=USR1@180
WINNOW=${WINNOW:-${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}}
# shellcheck source=slurm/job.sh
. "$WINNOW/slurm/job.sh"
stage "write gate" "prune write" "$@"
