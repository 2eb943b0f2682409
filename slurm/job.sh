# shellcheck shell=bash
# What the stage scripts share: which commands are theirs, how a command is started, and what follows when it ends.
set -euo pipefail
WINNOW=$(cd "$WINNOW" && pwd)
export WINNOW
# shellcheck source=slurm/env.sh
. "${WINNOW_ENV:-$WINNOW/slurm/env.sh}"

FINISHED=0 # tasks of the plan that were finished since this job started

say() { echo "winnow: $*" >&2; }

# usage: what the script that runs says about itself at its head.
usage() { sed -nE '2,$ { /^(# shellcheck|#SBATCH|[^#]|$)/q; s/^# ?//; p; }' "$0"; }

# stage STAGES PROGRAM STUDY: run the tasks of these stages of the study's plan; in an array job, one of them.
# stage STAGES PROGRAM FLAGS...: run that program with these flags.
stage() {
    local stages=$1 program=$2 number kind out name rows outs=()
    shift 2
    case ${1:-} in -h | --help) usage && return ;; esac
    if [ $# -ne 1 ] || [ ! -f "$1/plan.jsonl" ]; then
        out=$(flag --out runs/job "$@")
        guard "$out.slurm" "$out"
        # shellcheck disable=SC2086 # `prune write` is two words
        run "$program ${1:-}" $program "$@"
        return
    fi
    rows=$(python -m transfer study --out "$1" --todo | while read -r number _ kind out name; do
        case " $stages " in *" $kind "*) ;; *) continue ;; esac
        [ -z "${SLURM_ARRAY_TASK_ID:-}" ] || [ "$number" -eq $((WINNOW_OFFSET + SLURM_ARRAY_TASK_ID)) ] || continue
        echo "$number" "$kind" "$out" "$name"
    done)
    [ -n "$rows" ] || { say "nothing is left to do here" && return; }
    while read -r _ _ out _; do outs+=("$1/$out"); done <<<"$rows"
    guard "$1/slurm" "${outs[@]}"
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

# progress OUTPUTS...: how far the work on them is, as text that stays the same while nothing gets further: what is
# still to do, the names of the files and checkpoints that are there, and how far `prune materialize` has copied.
progress() {
    local out
    printf '%s\n' "$@"
    find "$@" -mindepth 1 -name '.*' -prune -o ! -name config.json -print 2>/dev/null | sort || true
    for out; do
        cksum "$(dirname "$out")/.$(basename "$out").journal" 2>/dev/null || true
    done
}

# guard LOGS OUTPUTS...: end a job that was put back in the queue twice and is where it was.
guard() {
    [ -n "${SLURM_JOB_ID:-}" ] || return 0
    local starts=$1/starts-$SLURM_JOB_ID here
    shift
    here=$(progress "$@" | cksum)
    mkdir -p "$(dirname "$starts")"
    [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ] || rm -f "$starts"
    echo "$here" >>"$starts"
    if [ "$(tail -n 3 "$starts" | grep -cxF "$here")" -eq 3 ]; then
        say "stopping: no progress in two requeues: no new checkpoint and no new output in $*."
        say "Read the log above; a longer --time in slurm/env.sh may help. The same submit resumes."
        exit 1
    fi
}

# run WHAT PROGRAM ARGS...: run it, and save-and-requeue, or say why it ended.
run() {
    local code=0 saved=
    launch "$@" || code=$?
    [ "$code" -ne 0 ] || return 0
    [ "$code" -ne 85 ] || saved="what is done so far is saved"
    [ "$code" -ne 138 ] || [ "$FINISHED" -eq 0 ] || saved="the time is nearly up, and tasks are done ($FINISHED)"
    if [ -n "$saved" ] && [ -n "${SLURM_JOB_ID:-}" ]; then
        say "$saved; back to the queue (restart ${SLURM_RESTART_COUNT:-0} so far)"
        scontrol requeue "$SLURM_JOB_ID" || say "this job cannot be requeued; submit again to resume"
    elif [ "$code" -eq 137 ] || [ "$code" -eq 125 ]; then
        say "killed (exit code $code): most likely out of memory${SLURM_MEM_PER_NODE:+, the limit is $SLURM_MEM_PER_NODE MB a node}"
        say "Give the stage a larger --mem in slurm/env.sh; sacct -j ${SLURM_JOB_ID:-JOB} -o JobID,State,MaxRSS says more."
    elif [ "$code" -eq 138 ]; then
        say "ended by SIGUSR1, 180 s before the time limit, with nothing saved: give the stage more --time in slurm/env.sh"
    fi
    exit "$code"
}

# launch WHAT PROGRAM ARGS...: one process, or all of the allocation's where the work can be shared.
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
        srun --nodes=1 --ntasks=1 --cpus-per-task="$cores" python -m "$@" </dev/null
        return
    fi
    head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
    MASTER_ADDR=$(scontrol --oneliner show node "$head" | sed -E 's/.* NodeAddr=([^ ]+).*/\1/')
    MASTER_PORT=$((10000 + SLURM_JOB_ID % 20000)) # below the ports that the system hands out
    export MASTER_ADDR MASTER_PORT
    # --wait: when one process has died, the others end too and do not wait for it until the time is up.
    srun --cpus-per-task="$cores" --wait=60 "$WINNOW/slurm/rank.sh" python -m "$@" </dev/null
}
