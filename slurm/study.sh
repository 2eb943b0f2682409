#!/usr/bin/env bash
# Run a study's plan as array jobs, level after level: one array task for each task of the plan, at most --limit at a time.
#   slurm/study.sh [--dry-run] [--limit 8] --source photos --targets pets=pets --recipe rn50-16ep --out runs/pets
# All other flags are those of `transfer study`. The same --out again queues only what is not done yet.
# shellcheck source=slurm/queue.sh
. "$(dirname "$0")/queue.sh"
own "$@"
set -- "${REST[@]}"
out=$(flag --out "" "$@")
[ -n "$out" ] || fail "--out is missing: slurm/study.sh --source photos --targets pets=pets --out runs/pets"
idle "$out/slurm"
rows=$(plan "$out" "$@")
[ -n "$rows" ] || { echo "$out: up to date" && exit; }

# Slurm's array tasks have numbers below 1000: array task N of a job is task WINNOW_OFFSET + N of the plan.
arrays=$(while read -r number level kind _; do
    echo "$level $(script_of "$kind") $((number / 1000 * 1000)) $((number % 1000))"
done <<<"$rows" | awk '{ key = $1 " " $2 " " $3; if (!(key in tasks)) order[++n] = key; tasks[key] = tasks[key] "," $4 }
    END { for (i = 1; i <= n; i++) print order[i], substr(tasks[order[i]], 2) }')
before='' now='' current=''
while read -r level stage offset tasks; do
    [ "$level" = "$current" ] || { before=$now now='' current=$level; }
    submit "$stage" "$before" "$out/slurm" "--array=$tasks%$LIMIT" "--export=ALL,WINNOW_OFFSET=$offset" -- "$out"
    now=${now:+$now:}$JOB
done <<<"$arrays"
