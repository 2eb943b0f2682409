#!/usr/bin/env bash
# Queue a whole study, from images to the report: one job for each stage, each after the one before it.
#   slurm/submit.sh [--dry-run] --source photos --targets pets=pets --recipe rn50-16ep --keeps 0.3 --out runs/pets
# The flags are those of `transfer study`. Or queue one command:
#   slurm/submit.sh [--dry-run] pretrain --beton runs/photos.beton --recipe rn50-16ep --out runs/rn50
# The same --out again queues only what is not done yet. --dry-run prints the sbatch lines and checks every command.
# shellcheck source=slurm/queue.sh
. "$(dirname "$0")/queue.sh"
own "$@"
set -- "${REST[@]}"
out=$(flag --out "" "$@")
[ -n "$out" ] || fail "--out is missing: slurm/submit.sh --source photos --targets pets=pets --out runs/pets"

case $1 in
    write | surrogate | prune | pretrain | transfer | report)
        stage=$1 && shift
        WINNOW_DRY_RUN=yes "$WINNOW/slurm/$stage.sh" "$@" | check
        idle "$out.slurm"
        submit "$stage" "" "$out.slurm" -- "$@"
        exit
        ;;
esac

idle "$out/slurm"
rows=$(plan "$out" "$@")
[ -n "$rows" ] || { echo "$out: up to date" && exit; }
for stage in write surrogate prune pretrain transfer report; do
    while read -r _ _ kind _; do
        if [ "$(script_of "$kind")" = "$stage" ]; then
            submit "$stage" "$JOB" "$out/slurm" -- "$out"
            break
        fi
    done <<<"$rows"
done
