#!/usr/bin/env bash
# Write the shards of a large source, or compute their features, as an array job: one task for each shard.
#   slurm/shards.sh [--dry-run] [--limit 8] write --shards 100 --images photos --out runs/photos
#   slurm/shards.sh [--dry-run] [--limit 8] features --model runs/surrogate --betons runs/photos --out runs/features/photos
# All other flags are those of `prune write` and `prune features`. The same command again queues only the shards that are
# not done, so one that failed runs again alone. With --here, or without Slurm, they run here, one after another.
# shellcheck source=slurm/queue.sh
. "$(dirname "$0")/queue.sh"
own "$@"
set -- "${REST[@]}"
step=${1:-} out=$(flag --out "" "$@") todo=() words=() failed=()
[ -n "$out" ] || fail "--out is missing: the folder of the shards, as in: slurm/shards.sh write --shards 100 --images photos --out runs/photos"
case $step in
    write)
        [ -n "$SHARDS" ] || fail "--shards is missing: how many parts, as in: slurm/shards.sh write --shards 100 --images photos --out $out"
        for ((k = 1; k <= SHARDS; k++)); do [ -f "$out/$k.beton" ] && [ -f "$out/$k.manifest.npz" ] || todo+=("$k"); done
        stage=write place=--out value="$out/{shard}.beton" && shift && set -- "$@" --shard "{shard}/$SHARDS" ;;
    features)
        betons=$(flag --betons "" "$@") stage=prune place=--betons value="$betons/{shard}.beton"
        [ -f "$betons/1.beton" ] || fail "--betons ${betons:-is missing}: a folder of shards is expected, as slurm/shards.sh write makes it"
        for beton in "$betons"/[0-9]*.beton; do k=$(basename "$beton" .beton) && { [ -f "$out/$k.features.npz" ] || todo+=("$k"); }; done ;;
    *) fail "${step:-no step}: write or features is expected in front of the flags" ;;
esac
[ ${#todo[@]} -gt 0 ] || { echo "$out: up to date" && exit; }
while [ $# -gt 0 ]; do
    case $1 in "$place") words+=("$1" "$value") && shift ;; "$place="*) words+=("$place=$value") ;; *) words+=("$1") ;; esac
    shift
done
WINNOW_DRY_RUN=yes WINNOW_SHARD=${todo[0]} "$WINNOW/slurm/$stage.sh" "${words[@]}" | check
command -v sbatch >/dev/null || HERE=yes
if [ -z "$DRY" ] && [ -n "$HERE" ]; then
    for k in "${todo[@]}"; do WINNOW_SHARD=$k "$WINNOW/slurm/$stage.sh" "${words[@]}" </dev/null || failed+=("$k"); done
    [ ${#failed[@]} -eq 0 ] || { say "failed: shards ${failed[*]}; read above, and give the same command for these alone" && exit 1; }
    exit
fi
idle "$out.slurm"
for offset in $(printf '%s\n' "${todo[@]}" | awk '{ print int($1 / 1000) * 1000 }' | sort -nu); do # Slurm's array tasks have numbers below 1000
    tasks=$(printf '%s\n' "${todo[@]}" | awk -v from="$offset" '$1 >= from && $1 < from + 1000 { print $1 - from }' | sort -n | paste -sd,)
    submit "$stage" "" "$out.slurm" "--array=$tasks%$LIMIT" "--export=ALL,WINNOW_OFFSET=$offset" -- "${words[@]}"
done
