#!/usr/bin/env bash
# Gather a study's results and make its page.
#   slurm/report.sh STUDY        results.json and report.html of the study
#   slurm/report.sh FLAGS...     `transfer report FLAGS`
# With plain bash on this machine, in a job through submit.sh, which adds the options of env.sh.
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=USR1@180
WINNOW=${WINNOW:-${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}}
# shellcheck source=slurm/job.sh
. "$WINNOW/slurm/job.sh"
stage "collect" "transfer report" "$@"
