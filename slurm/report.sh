#!/usr/bin/env bash
# Collect a study's results and write its report.
#   slurm/report.sh STUDY        results.json and report.html of the study
#   slurm/report.sh FLAGS...     `transfer report FLAGS`
# With bash it runs on this machine; submit.sh queues it as a job with the options of env.sh.
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=USR1@180
WINNOW=${WINNOW:-${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}}
# shellcheck source=slurm/job.sh
. "$WINNOW/slurm/job.sh"
stage "collect" "transfer report" "$@"
