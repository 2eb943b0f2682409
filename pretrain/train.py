"""Pretrain a model on a beton, or on the part of it that an index keeps.

    python -m pretrain --beton S.beton --index pets-lm-30.index.npz --recipe small-rn18 --out runs/lm-30
    accelerate launch -m pretrain --beton S.beton --recipe rn50-16ep --out runs/rn50
    torchrun --nproc_per_node=2 -m pretrain --beton S.beton --recipe tiny --out runs/tiny     (also without a GPU)
    python -m pretrain --list

Writes into OUT: model.safetensors and model.json, metrics.jsonl (a line for each epoch), config.json, provenance.json,
DONE. The same command resumes from the newest checkpoint; once DONE exists, it returns at once. A run starts from OUT's
checkpoint if there is one, else from the weights of --init, else from random weights. On SIGTERM or SIGUSR1 it writes a
checkpoint and ends with exit code 85.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from pretrain.config import Config
from prune.runs.compute_device import current, using
from prune.runs.files import note
from prune.runs.outputs import claim


def run(config: Config) -> None:
    """Train, resume, or return at once when the run is up to date."""
    with using(config.device):
        _run(config)


def _run(config: Config) -> None:
    from pretrain.plan import check

    plan = check(config)  # before torch is imported, which takes seconds
    from pretrain.distributed import dtype_of, open_ranks
    from pretrain.sync_batch_norm import refuse

    dtype_of(config.precision)
    if config.sync_bn:
        refuse(config.compile, int(os.environ.get("WORLD_SIZE", "1")), current())
    with claim(config.out, config, plan.fingerprints) as done:
        if done:
            note(f"{config.out}: up to date")
            _clear(config.out)
            return
        trackers = () if config.tracker == "none" else (config.tracker,)
        how = config.compile, config.deterministic, config.sync_bn
        with open_ranks(config.precision, config.threads, trackers, config.out, *how) as ranks:
            from pretrain import training_run
            from pretrain.peers import ended_with_its_peers

            with ended_with_its_peers(config.out, ranks):
                training_run.pretrain(config, plan, ranks)
            if ranks.rank == 0:
                _clear(config.out)


def _clear(out: Path) -> None:
    """Remove the files that only resuming needs. Called when DONE exists: until then a killed run needs them."""
    for name in ("checkpoint", "dynamics"):
        shutil.rmtree(out / name, ignore_errors=True)
