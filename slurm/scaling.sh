#!/usr/bin/env bash
# Measure how training scales over the GPUs of one node, and that a stopped run resumes on half of them.
#   slurm/scaling.sh [OUT]
# Run it on a node, for instance: srun --nodes=1 --gpus-per-node=8 --cpus-per-task=96 --pty slurm/scaling.sh runs/scaling
# Trains RECIPE for STEPS steps on drawn images with 1, 2, 4, 8 ... processes, PER images a process and step, and prints
# images a second and the share of linear scaling (goal: 0.93). Then SIGUSR1 stops a run, and half of the processes
# resume it. These variables change it: RECIPE, STEPS, PER, PROCESSES, IMAGES, WIDTH.
set -euo pipefail
WINNOW=$(cd "$(dirname "$0")/.." && pwd)
export WINNOW
# shellcheck source=slurm/env.sh
. "${WINNOW_ENV:-$WINNOW/slurm/env.sh}"
case ${1:-} in -h | --help) sed -nE '2,$ { /^[^#]/q; s/^# ?//; p; }' "$0" && exit ;; esac
OUT=${1:-runs/scaling}
RECIPE=${RECIPE:-rn50-16ep} STEPS=${STEPS:-200} PER=${PER:-128} IMAGES=${IMAGES:-6400} WIDTH=${WIDTH:-500}
if [ -z "${PROCESSES:-}" ]; then
    gpus=$(nvidia-smi --list-gpus 2>/dev/null | wc -l) n=1
    while [ "$n" -le "$gpus" ]; do PROCESSES="${PROCESSES:-} $n" n=$((2 * n)); done
    [ -n "${PROCESSES:-}" ] || { echo "winnow: no GPU here; PROCESSES='1 2' measures a CPU" >&2 && exit 2; }
fi
unset SLURM_PROCID SLURM_NTASKS # this script starts the processes itself

mkdir -p "$OUT"
images=$OUT/images beton=$OUT/photos.beton
[ -e "$beton" ] || python - "$images" "$IMAGES" "$WIDTH" <<'PYTHON'
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

folder, count, width = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
height = 3 * width // 4
for k in range(10):
    (folder / f"class{k}").mkdir(parents=True, exist_ok=True)


def draw(row):
    rng, k = np.random.default_rng(row), row % 10
    wave = np.sin(np.arange(width) * (0.02 + 0.01 * k) + 6 * rng.random())
    pixels = 110 + 60 * wave[None, :, None] + rng.normal(0, 20, (height, width, 3))
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / f"class{k}/{row:06d}.jpg", quality=90)


with ThreadPoolExecutor() as pool:
    list(pool.map(draw, range(count)))
PYTHON
[ -e "$beton" ] || python -m prune write --images "$images" --out "$beton"

# train PROCESSES RUN FLAGS...: train on this machine with so many processes; the exit code is theirs.
train() {
    local n=$1 run=$2
    shift 2
    set -- pretrain --beton "$beton" --recipe "$RECIPE" --steps "$STEPS" --out "$OUT/$run" "$@"
    python -m pretrain.launch --standalone --nproc_per_node="$n" -m "$@"
}

echo "processes  images/s  of linear (goal 0.93)"
one=
for n in $PROCESSES; do
    rm -rf "${OUT:?}/n$n"
    train "$n" "n$n" --batch-size $((PER * n)) 2>"$OUT/n$n.log" || { cat "$OUT/n$n.log" && exit 1; }
    # The first epoch compiles and fills the cache of files: without it, where there are others.
    speed=$(python - "$OUT/n$n/metrics.jsonl" <<'PYTHON'
import json
import sys

lines = [json.loads(line) for line in open(sys.argv[1])]
lines = lines[1:] or lines
print(sum(line["samples"] for line in lines) / sum(line["seconds"] for line in lines))
PYTHON
    )
    one=${one:-$(awk -v s="$speed" -v n="$n" 'BEGIN { print s / n }')}
    awk -v n="$n" -v s="$speed" -v one="$one" 'BEGIN { printf "%9d %9.0f %10.3f\n", n, s, s / n / one }'
done

most=${PROCESSES##* }
rm -rf "${OUT:?}/stopped"
train "$most" stopped --batch-size $((PER * most)) --checkpoint-minutes 0 2>"$OUT/stopped.log" &
launcher=$!
until [ -n "$(find "$OUT/stopped/checkpoint" -maxdepth 1 -name '0*' 2>/dev/null)" ]; do
    kill -0 "$launcher" 2>/dev/null || { cat "$OUT/stopped.log" && exit 1; }
    sleep 0.1
done
# Slurm sends it to the processes, and so do we: to what the launcher in that shell has started.
pgrep -P "$(pgrep -P "$launcher")" | xargs kill -USR1
code=0
wait "$launcher" || code=$?
half=$((most > 1 ? most / 2 : 1))
echo "SIGUSR1 on $most processes: exit code $code (85 is right); resuming on $half"
[ "$code" -eq 85 ] || { cat "$OUT/stopped.log" && exit 1; }
train "$half" stopped --batch-size $((PER * most)) 2>>"$OUT/stopped.log" || { cat "$OUT/stopped.log" && exit 1; }
grep -q "resuming from step" "$OUT/stopped.log" || { echo "winnow: it did not resume" >&2 && exit 1; }
echo "resumed and done: $(grep -o 'resuming from step [0-9]*' "$OUT/stopped.log" | tail -n 1)"
