# shellcheck shell=bash
# What the stage scripts share: they find the tasks of their stage, start each as processes of the job, and requeue it.
set -euo pipefail
WINNOW=$(cd "$WINNOW" && pwd)
export WINNOW
# shellcheck source=slurm/env.sh
. "${WINNOW_ENV:-$WINNOW/slurm/env.sh}"

[ -n "${SRUN+set}" ] || SRUN=() # an env.sh of an older version
[ -n "${INSIDE+set}" ] || INSIDE=()
FINISHED=0 # tasks of the plan that were finished since this job started

say() { echo "winnow: $*" >&2; }

# usage: print the comment at the head of the running script.
usage() { sed -nE '2,$ { /^(# shellcheck|#SBATCH|[^#]|$)/q; s/^# ?//; p; }' "$0"; }

# stage STAGES PROGRAM STUDY: run the tasks of these stages of the study's plan; in an array job, one of them.
# stage STAGES PROGRAM FLAGS...: run that program with these flags; {shard} in them is the number of the array's task.
stage() {
    local stages=$1 program=$2 number kind out name rows outs=() shard=${WINNOW_SHARD:-}
    shift 2
    case ${1:-} in -h | --help) usage && return ;; esac
    if [ $# -ne 1 ] || [ ! -f "$1/plan.jsonl" ]; then
        [ -n "$shard" ] || [ -z "${SLURM_ARRAY_TASK_ID:-}" ] || shard=$((${WINNOW_OFFSET:-0} + SLURM_ARRAY_TASK_ID))
        [ -z "$shard" ] || set -- "${@//\{shard\}/$shard}"
        out=$(flag --out runs/job "$@")
        need_progress "${out%"/$shard.beton"}.slurm" "$out"
        # shellcheck disable=SC2086 # `prune write` is two words
        run "$program ${1:-}" $program "$@"
        return
    fi
    rows=$(python -m transfer study --out "$1" --todo | while read -r number _ kind out name; do
        case " $stages " in *" $kind "*) ;; *) continue ;; esac
        [ -z "${SLURM_ARRAY_TASK_ID:-}" ] || [ "$number" -eq $((WINNOW_OFFSET + SLURM_ARRAY_TASK_ID)) ] || continue
        echo "$number" "$kind" "$out" "$name"
    done)
    [ -n "$rows" ] || { say "up to date: no task of this stage is left" && return; }
    while read -r _ _ out _; do outs+=("$1/$out"); done <<<"$rows"
    need_progress "$1/slurm" "${outs[@]}"
    while read -r number kind _ name; do
        say "task $number: $name"
        run "$kind" transfer study --out "$1" --task "$number"
        FINISHED=$((FINISHED + 1))
    done <<<"$rows"
}

flag() { # flag NAME DEFAULT WORDS...: the value of NAME, given as two words or as NAME=VALUE
    local name=$1 value=$2
    shift 2
    while [ $# -gt 0 ]; do
        case $1 in
            "$name") [ $# -eq 1 ] || value=$2 ;;
            "$name="*) value=${1#*=} ;;
        esac
        shift
    done
    printf '%s\n' "$value"
}

# progress OUTPUTS...: print the state of these outputs: their names, the files and checkpoints in them, and a checksum
# of the journal that `prune materialize` keeps beside its output. Two equal texts: nothing was done in between.
progress() {
    local out
    printf '%s\n' "$@"
    find "$@" -mindepth 1 -name '.*' -prune -o ! -name config.json -print 2>/dev/null | sort || true
    for out; do
        cksum "$(dirname "$out")/.$(basename "$out").journal" 2>/dev/null || true
    done
}

# need_progress LOGS OUTPUTS...: end a job that has been requeued twice in a row without any progress.
need_progress() {
    [ -n "${SLURM_JOB_ID:-}" ] || return 0
    local starts=$1/starts-$SLURM_JOB_ID here
    shift
    here=$(progress "$@" | cksum)
    mkdir -p "$(dirname "$starts")"
    [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ] || rm -f "$starts"
    echo "$here" >>"$starts"
    if [ "$(tail -n 3 "$starts" | grep -cxF "$here")" -eq 3 ]; then
        say "stopping: no progress in two requeues: no new checkpoint and no new output in $*."
        say "Read the log above; a longer --time in slurm/env.sh may help. Submit again to resume."
        exit 1
    fi
}

# run WHAT PROGRAM ARGS...: run it; on exit code 85, and on no other, put the job back in the queue.
run() {
    local code=0 saved="what is done so far is saved"
    launch "$@" || code=$?
    # 138: SIGUSR1 ended a step that cannot be saved half done. The tasks that are finished need no second run.
    if [ "$code" -eq 138 ] && [ "$FINISHED" -gt 0 ]; then
        code=85 saved="the time is nearly up; tasks finished: $FINISHED"
    fi
    case $code in
        0) return ;;
        85)
            [ -n "${SLURM_JOB_ID:-}" ] || exit "$code"
            say "$saved; back to the queue (requeued ${SLURM_RESTART_COUNT:-0} times before)"
            scontrol requeue "$SLURM_JOB_ID" || say "this job cannot be requeued; submit again to resume"
            ;;
        125 | 137)
            say "killed (exit code $code), or another process failed: read above"
            say "With nothing above: too little memory${SLURM_MEM_PER_NODE:+, the limit is $SLURM_MEM_PER_NODE MB a node}. Give the stage a larger --mem in slurm/env.sh; sacct -j ${SLURM_JOB_ID:-JOB} -o JobID,State,MaxRSS says more."
            ;;
        138) say "ended by SIGUSR1, 180 s before the time limit, with nothing saved: give the stage more --time in slurm/env.sh" ;;
    esac
    exit "$code"
}

# launch WHAT PROGRAM ARGS...: start one process, or as many as the job has Slurm tasks if they can share the work.
launch() {
    local what=$1 cores=${SLURM_CPUS_PER_TASK:-1} head
    shift
    if [ -n "${WINNOW_DRY_RUN:-}" ]; then
        echo "python -m $(printf '%q ' "$@")"
        return
    fi
    case $what in surrogate | features | pretrain* | "prune features") ;; *) what= ;; esac
    if [ -z "${SLURM_JOB_ID:-}" ]; then
        if [ -n "$what" ] && [ "$(nvidia-smi --list-gpus 2>/dev/null | wc -l)" -gt 1 ]; then
            accelerate launch --multi_gpu -m "$@"
        else
            python -m "$@"
        fi
        return
    fi
    export WINNOW_CORES=$cores OMP_NUM_THREADS=$cores
    if [ -z "$what" ]; then
        srun "${SRUN[@]}" --nodes=1 --ntasks=1 --cpus-per-task="$cores" "${INSIDE[@]}" python -m "$@" </dev/null
        return
    fi
    head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
    MASTER_ADDR=$(scontrol --oneliner show node "$head" | sed -E 's/.* NodeAddr=([^ ]+).*/\1/')
    MASTER_PORT=$((10000 + SLURM_JOB_ID % 20000)) # below the range from which the system takes ports
    export MASTER_ADDR MASTER_PORT
    # --wait: when one process dies, the others are ended too, instead of waiting for it until the time limit.
    srun "${SRUN[@]}" --cpus-per-task="$cores" --wait=60 "$WINNOW/slurm/rank.sh" "${INSIDE[@]}" python -m "$@" </dev/null
}
