"""Write the shards of a large source, or compute their features, on a Ray cluster, as slurm/shards.sh does on Slurm.

    python examples/shards_on_ray.py write --shards 100 --images photos --out runs/photos
    python examples/shards_on_ray.py --gpus 1 features --model runs/surrogate --betons runs/photos --out runs/features

Flags in front of the step say what a task takes of the cluster; those behind it are the step's own. RAY_ADDRESS names
the cluster; without it Ray starts on this machine. Folders are shared by all nodes, as on any cluster. A shard is one
task, whose output appears whole or not at all: the same command runs again those alone that are not done.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import ray


def main() -> int:
    """Run a task for each shard that is not done; the exit code is that of `_work`, or 130 for Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpus", type=float, default=4, help="cores of a task")
    parser.add_argument("--gpus", type=float, default=0, help="GPUs of a task")
    parser.add_argument("step", choices=("write", "features"))
    own = parser.add_argument_group("of the step")
    own.add_argument("--out", type=Path, required=True, help="folder of the shards")
    own.add_argument("--shards", type=int, help="write: number of shards")
    own.add_argument("--betons", type=Path, help="features: folder of shards that write made")
    config, flags = parser.parse_known_args()
    if (config.shards if config.step == "write" else config.betons) is None:
        parser.error(f"{config.step} needs --{'shards' if config.step == 'write' else 'betons'}")
    tasks = _writes(config, flags) if config.step == "write" else _features(config, flags)
    if not tasks:
        print(f"{config.out}: up to date")
        return 0
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray sends nothing to its makers
    here = {} if os.environ.get("RAY_ADDRESS") else {"_node_ip_address": "127.0.0.1"}  # for this machine alone
    ray.init(include_dashboard=False, log_to_driver=False, **here)
    try:
        return _work(config, tasks)
    except KeyboardInterrupt:
        print("interrupted; the same command runs what is not done", file=sys.stderr)
        return 130
    finally:
        ray.shutdown()


def _work(config: argparse.Namespace, tasks: dict[str, list[str]]) -> int:
    """Run the tasks; 1 where some failed, 2 where the input is wrong, which no other attempt would mend."""
    there = ray.cluster_resources()
    for flag, name in (("cpus", "CPU"), ("gpus", "GPU")):
        if (wanted := getattr(config, flag)) > (most := there.get(name, 0)):
            print(f"--{flag} {wanted:g}: the whole cluster has {most:g}", file=sys.stderr)
            return 2
    run = ray.remote(num_cpus=config.cpus, num_gpus=config.gpus)(_run)
    waiting = {run.remote(command, os.getcwd()): name for name, command in tasks.items()}
    failed = 0
    while waiting:
        (done,), _ = ray.wait(list(waiting), num_returns=1)
        code, said = ray.get(done)
        print(f"{waiting.pop(done)}: {said.strip().splitlines()[-1] if said.strip() else code}", flush=True)
        if code == 2:
            return 2
        failed += bool(code)
    print(f"{len(tasks) - failed} of {len(tasks)} shards are done" + ("; the same command retries" if failed else ""))
    return int(failed > 0)


def _run(command: list[str], folder: str) -> tuple[int, str]:
    """Run one task on whatever node it is; its exit code and messages."""
    done = subprocess.run([sys.executable, "-m", *command], cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


def _writes(config: argparse.Namespace, flags: list[str]) -> dict[str, list[str]]:
    """The command of every shard that is not written, by its name."""
    tasks = {}
    for k in range(1, config.shards + 1):
        beton = config.out / f"{k}.beton"
        if not (beton.exists() and beton.with_suffix(".manifest.npz").exists()):
            shard = ["--shard", f"{k}/{config.shards}", "--out", str(beton)]
            tasks[f"{k}.beton"] = ["prune", "write", *flags, *shard]
    return tasks


def _features(config: argparse.Namespace, flags: list[str]) -> dict[str, list[str]]:
    """The command of every shard without features, by its name."""
    betons = sorted(config.betons.glob("[0-9]*.beton"), key=lambda beton: int(beton.stem))
    if not betons:
        raise SystemExit(f"--betons {config.betons}: no shards there, such as 1.beton")
    left = [one for one in betons if not (config.out / f"{one.stem}.features.npz").exists()]
    return {one.name: ["prune", "features", *flags, "--betons", str(one), "--out", str(config.out)] for one in left}


if __name__ == "__main__":
    sys.exit(main())
