#!/usr/bin/env bash
# Compute features, scores and selections, and count the test images that the source contains.
#   slurm/prune.sh STUDY        those of the study's plan
#   slurm/prune.sh FLAGS...     `prune FLAGS`, as: slurm/prune.sh features --model runs/s --betons a.beton --out runs/f
# With bash it runs on this machine; submit.sh queues it as a job with the options of env.sh.
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=USR1@180
WINNOW=${WINNOW:-${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}}
# shellcheck source=slurm/job.sh
. "$WINNOW/slurm/job.sh"
stage "features score select leaks" "prune" "$@"
