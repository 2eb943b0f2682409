# shellcheck shell=bash
# What submit.sh, study.sh and shards.sh share: one sbatch line, printed or run, and the checks before the first one.
WINNOW=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export WINNOW
# shellcheck source=slurm/job.sh
. "$WINNOW/slurm/job.sh"
JOBS=0
JOB= # id of the job that `submit` made last
DRY=
export SHARDS='' HERE='' # shards.sh's --shards and --here

# own WORDS...: handle the script's own flags (--dry-run, --help, --limit, shards.sh's --shards and --here); REST gets all other words.
own() {
    REST=()
    while [ $# -gt 0 ]; do
        case ${0##*/}:$1 in
            *:-h | *:--help) usage && exit ;;
            *:--dry-run | *:--dry_run) DRY=yes ;;
            shards.sh:--here) HERE=yes ;;
            shards.sh:--shards | shards.sh:--shards=*)
                SHARDS=$(flag --shards "" "${@:1:2}")
                case $SHARDS in '' | 0* | *[!0-9]*) fail "--shards needs a number: how many parts the source has" ;; esac
                [ "$1" != --shards ] || shift
                ;;
            study.sh:--limit | study.sh:--limit=* | shards.sh:--limit | shards.sh:--limit=*)
                LIMIT=$(flag --limit "" "${@:1:2}")
                case $LIMIT in '' | 0* | *[!0-9]*) fail "--limit needs a number: how many tasks run at the same time" ;; esac
                [ "$1" != --limit ] || shift
                ;;
            *) REST+=("$1") ;;
        esac
        shift
    done
}

check() { python "$WINNOW/slurm/check.py" "$@"; }

fail() { echo "winnow: $*" >&2 && exit 2; }

# submit STAGE AFTER LOGS [SBATCH OPTIONS...] -- ARGS: queue a stage script that starts once the jobs AFTER (1:2:3) succeed.
submit() {
    local stage=$1 after=$2 logs=$3 line name="%j"
    local -n given=${stage^^}
    shift 3
    line=(sbatch --parsable "--job-name=$stage" "${EVERY[@]}" "${given[@]}")
    [ -z "$after" ] || line+=("--dependency=afterok:$after" --kill-on-invalid-dep=yes)
    while [ "$1" != -- ]; do
        case $1 in --array=*) name="%A_%a" ;; esac
        line+=("$1")
        shift
    done
    shift
    line+=("--output=$logs/$stage-$name.log" "$WINNOW/slurm/$stage.sh" "$@")
    JOBS=$((JOBS + 1))
    if [ -n "$DRY" ]; then
        JOB=JOB$JOBS
        printf '%q ' "${line[@]}" | sed -E 's/ $/\n/; s/\\([,%])/\1/g'
        return
    fi
    mkdir -p "$logs"
    JOB=$("${line[@]}")
    JOB=${JOB%%;*}
    echo "$JOB" >>"$logs/jobs"
    echo "$stage: job $JOB${after:+, after $after}, log $logs/$stage-${name/\%j/$JOB}.log"
}

# idle LOGS: refuse to submit while earlier jobs of the same output are in the queue.
idle() {
    [ -z "$DRY" ] || return 0
    command -v sbatch >/dev/null || fail "no sbatch here; plain bash runs a stage: slurm/pretrain.sh STUDY"
    [ -f "$1/jobs" ] || return 0
    local waiting
    waiting=$(squeue --me --noheader --format=%F | grep -xFf "$1/jobs" | sort -u | xargs) || true
    [ -z "$waiting" ] || fail "still in the queue: $waiting. Wait for them, or: scancel $waiting"
}

# plan OUT FLAGS...: check the study, write its plan, and print `number level stage out name` of each task to run.
plan() {
    local out=$1
    shift
    if [ -n "$DRY" ]; then
        python -m transfer study "$@" --dry-run --json | check --plan
    else
        >&2 python -m transfer study "$@" --plan-only || return # `set -e` does not hold inside of $(plan ...)
        python -m transfer study --out "$out" --todo
    fi
}

script_of() { # script_of STAGE-OF-THE-PLAN: the script that runs it
    case $1 in
        gate) echo write ;; # before any network, and without a GPU
        features | score | select | leaks) echo prune ;;
        search) echo pretrain ;;
        evaluate) echo transfer ;;
        collect) echo report ;;
        *) echo "$1" ;;
    esac
}
