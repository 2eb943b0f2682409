#!/usr/bin/env bash
# Evaluate backbones on the targets.
#   slurm/transfer.sh STUDY        the evaluations of the study's plan
#   slurm/transfer.sh FLAGS...     `transfer FLAGS`, as: slurm/transfer.sh probe --model runs/b --train a.beton --test b.beton --out runs/p
# With bash it runs on this machine; submit.sh queues it as a job with the options of env.sh.
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=USR1@180
WINNOW=${WINNOW:-${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}}
# shellcheck source=slurm/job.sh
. "$WINNOW/slurm/job.sh"
stage "evaluate" "transfer" "$@"
