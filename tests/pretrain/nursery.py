"""Fork training processes on request: the slow imports are paid once for all of a module's runs.

Reads one JSON request a line: {"world", "config" (fields of pretrain.train.Config), and perhaps "log" (a folder),
"kill" or "signal" ({"rank", "call", perhaps "function"}), "count" (false: do not count calls), "evaluate" (true:
instead of training)}. Answers with one JSON line: {"codes": exit codes by rank, negative for a signal, "calls": how
many calls of watched functions each rank made}.

A moment is a number of calls: the k-th call of any function of `pretrain`, `prune` or safetensors in a rank,
or of the one function that is named. That is finer than steps (inside a step, inside a checkpoint file, between two
renames) and needs no clock.
"""

import json
import os
import signal
import socket
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import timm  # noqa: F401
import torch.distributed

import prune.data.loader
from pretrain import preemption, sampling_order, train, validation
from pretrain.distributed import open_ranks
from pretrain.learner import Learner
from pretrain.recipe import Attack
from pretrain.recipes import RECIPES
from prune.models.networks import load_model

RECIPES["tiny-stateful"] = replace(
    RECIPES["tiny"],
    epochs=2,
    ema=0.9,
    infobatch=0.5,
    mixup=0.4,
    cutmix=1.0,
    optimiser="adamw",
    lr=2e-3,
    clip=5.0,
    kwargs={"channels": (16, 32, 64, 128), "drop_path_rate": 0.2},
)
RECIPES["tiny-free"] = replace(RECIPES["tiny"], epochs=2, attack=Attack("free", steps=2))
SIGNALS = (("kill", signal.SIGKILL), ("signal", signal.SIGUSR1))
WATCHED = ("/pretrain/", "/prune/", "safetensors/torch.py")


def child(request: dict, rank: int, port: int, report: int) -> int:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(request["world"]),
        LOCAL_WORLD_SIZE=str(request["world"]),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    if request["world"] == 1:
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
            del os.environ[name]
    preemption.listen()
    wishes = [(number, request[key]) for key, number in SIGNALS if key in request and request[key]["rank"] == rank]
    calls: Counter[str] = Counter()

    def count(frame, event, argument):
        if event == "call" and any(part in frame.f_code.co_filename for part in WATCHED):
            calls[""] += 1
            calls[name := frame.f_code.co_name] += 1
            for number, wish in wishes:
                function = wish.get("function", "")
                if function in ("", name) and calls[function] == wish["call"]:
                    os.kill(os.getpid(), number)

    if request.get("log"):
        log_positions(Path(request["log"]), rank)
    if request.get("count", True):
        sys.setprofile(count)
    paths = ("beton", "out", "index", "val", "init")
    fields = {k: Path(v) if k in paths and v else v for k, v in request["config"].items()}
    try:
        code = 0
        config = train.Config(**fields)
        evaluate(config, Path(request["log"])) if request.get("evaluate") else train.run(config)
    except SystemExit as leave:
        code = leave.code
    except ValueError as error:
        print(error, file=sys.stderr, flush=True)
        code = 2
    sys.setprofile(None)
    os.write(report, f"{rank} {calls['']}\n".encode())
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    return code


def evaluate(config: train.Config, folder: Path) -> None:
    """Write to FOLDER/RANK.json what `validation.evaluate` finds for the model `config.init` on `config.beton`."""
    network, spec = load_model(config.init)
    loader = prune.data.loader.open_loader(config.beton, resolution=32, batch_size=64, workers=1, loader="torch")
    with open_ranks() as ranks:
        rows = np.arange(len(loader))
        found = validation.evaluate(network, loader, rows, ranks, {**spec, "resolution": 32})
        (folder / f"{ranks.rank}.json").write_text(json.dumps({**found, "world": ranks.world}))


def log_positions(folder: Path, rank: int) -> None:
    """Append what each rank learns from to FOLDER/RANK.log: `world epoch step row row ...`."""
    epoch_order, step, epochs = sampling_order.epoch_order, Learner.step, [0]

    def begins(rows, seed, epoch, batch, pages=None):
        epochs.append(epoch)
        return epoch_order(rows, seed, epoch, batch, pages)

    def learns(self, images, labels, rows, **named):
        with open(folder / f"{rank}.log", "a") as file:
            words = (os.environ.get("WORLD_SIZE", 1), epochs[-1], named["number"], *rows.tolist())
            file.write(" ".join(map(str, words)) + "\n")
        step(self, images, labels, rows, **named)

    sampling_order.epoch_order, Learner.step = begins, learns


def serve(request: dict) -> dict:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    reader, writer = os.pipe()
    ranks = {}
    for rank in range(request["world"]):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.close(reader)
                code = child(request, rank, port, writer)
            finally:
                sys.stderr.flush()
                os._exit(code if isinstance(code, int) else 1)
        ranks[pid] = rank
    os.close(writer)
    codes = {}
    while len(codes) < request["world"]:
        pid, status = os.wait()
        codes[ranks[pid]] = os.waitstatus_to_exitcode(status)
        if codes[ranks[pid]] not in (0, 85):  # as torchrun does: one is gone, the others cannot go on
            for other, rank in ranks.items():
                if rank not in codes:
                    os.kill(other, signal.SIGKILL)
    with os.fdopen(reader) as file:
        calls = dict(map(int, line.split()) for line in file)
    return {"codes": [codes[r] for r in sorted(codes)], "calls": [calls.get(r, 0) for r in sorted(codes)]}


if __name__ == "__main__":
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(serve(json.loads(line))), flush=True)
