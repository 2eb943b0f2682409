"""Parts of the check: the speed of a step and what it waits for, every kind of training, stopping and resuming."""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.gpu_check.data_parts import wait
from tests.gpu_check.sizes import CLASSES, Setting

ROOT = Path(__file__).parents[2]


def step(c: Setting) -> None:
    """A blurred ResNet-50 in bf16 at two sizes: falling loss, speed beside a raw step, no waiting, two compilations."""
    from pretrain import optimisation
    from pretrain.distributed import open_ranks
    from pretrain.learner import Learner
    from pretrain.recipes import RECIPES
    from pretrain.training_run import augmented
    from prune.data.dataset import open_dataset
    from prune.data.loader import open_loader
    from prune.models import networks

    sides, batch = c.sides[:2], 8 if c.tiny else 256
    recipe = replace(RECIPES["lamps" if c.tiny else "rn50-16ep"], batch=batch, lr=0.02 if c.tiny else 0.1, warmup=0.0)
    recipe = replace(recipe, start_resolution=sides[0], resolution=sides[1], crop="resized", scale=(0.35, 1.0))
    torch.manual_seed(0)
    spec = {"arch": recipe.arch, "kwargs": recipe.kwargs, "stem": recipe.stem, "classes": list(range(CLASSES))}
    source = open_dataset(c.made["photos"])
    counts = torch._dynamo.utils.counters["stats"]
    counts.clear()
    with open_ranks("auto") as ranks:
        network = networks.build(spec).to(c.device)
        loss = optimisation.classification(recipe, 0, 0)
        with networks.safe_memory_format(network):
            learner = Learner(network, recipe, ranks, loss, networks.MEAN, networks.STD, 0, None)
            learner.wrap()
            learner.try_largest(batch, batch)
            reader = open_loader(source, resolution=max(sides), batch_size=batch, loader=c.loader)
            with closing(reader) as images:
                for side in sides:
                    _measure_step(c, learner, augmented(images, recipe, 0), len(source), batch, side)
    if learner.compiled:
        graphs = int(counts["unique_graphs"])
        c.report.must("one compilation for each size", graphs == len(sides), f"{graphs} graphs")
        torch._dynamo.reset()
    else:
        c.report.unchecked("compilations", "nothing is compiled here")


def _measure_step(c: Setting, learner: Any, batches: Any, rows: int, batch: int, side: int) -> None:
    count = 8 if c.tiny else 40
    order = np.resize(np.random.default_rng(side).permutation(rows), count * batch)
    stream = batches(order, 0, side)
    options = {"batch": batch, "micro_batch": batch, "share": 0.5, "rate": learner.recipe.lr}
    losses, number, kept = [], 0, None
    if c.gpu:
        torch.cuda.reset_peak_memory_stats()
    # The first batches compile; then nothing may wait for the device, until the loss is read at the end.
    for phase, steps in (("first", 3), ("strict", count // 4), ("timed", count - 3 - count // 4)):
        learner.sums.zero_()
        wait(c)
        begin = time.perf_counter()
        with _no_waiting(c) if phase == "strict" else _anything():
            for _ in range(steps):
                kept = next(stream)
                learner.step(*kept, number=number, **options)
                number += 1
        wait(c)
        seconds = time.perf_counter() - begin
        losses.append(float(learner.sums[0] / learner.sums[2]))
    stream.close()
    found = " ".join(f"{one:.3f}" for one in losses)
    c.report.must(f"{side} px: the loss is finite and falls", losses[-1] < losses[0] < float("inf"), found)
    if c.gpu:  # a step that waits is an error above
        c.report.must(f"{side} px: no step waits for the device", True)
    else:
        c.report.unchecked(f"{side} px: no step waits for the device", "needs CUDA")
    speed = steps * batch / seconds
    images, labels = (value.to(c.device) for value in kept[:2])

    def raw() -> None:
        x = (images.float() - learner.mean) / learner.std
        with learner.ranks.autocast():
            logits = learner.model(x).float()
            torch.nn.functional.cross_entropy(logits, labels).backward()
        learner.optimiser.step()
        learner.optimiser.zero_grad(set_to_none=True)

    raw()
    wait(c)
    begin = time.perf_counter()
    for _ in range(steps):
        raw()
    wait(c)
    bare = steps * batch / (time.perf_counter() - begin)
    c.report.speed(f"{side} px: training", speed, "images/s")
    c.report.speed(f"{side} px: training beside a raw step", speed / bare, "of it", 0.95)
    if c.gpu:
        c.report.speed(f"{side} px: peak memory", torch.cuda.max_memory_allocated() / 2**30, "GiB")


@contextmanager
def _no_waiting(c: Setting) -> Iterator[None]:
    """Any operation that waits for the GPU is an error within the block."""
    if not c.gpu:
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@contextmanager
def _anything() -> Iterator[None]:
    yield


def trained(c: Setting, name: str, changes: dict[str, Any] | None = None, **more: Any) -> list[dict[str, Any]]:
    """Train on the small images with these changes of the recipe and these flags; the lines of metrics.jsonl."""
    from pretrain import train
    from pretrain.recipes import RECIPES

    out = c.work / "runs" / name
    base = more.pop("recipe", c.recipe)
    RECIPES["check"] = replace(RECIPES[base], epochs=1.0, warmup=0.1, **(changes or {}))
    try:
        how = {"loader": c.loader, "batch_size": 40 if c.tiny else None, **more}
        if c.tiny:
            how |= {"workers": 1, "threads": 1}
        train.run(train.Config(c.made["train"], out, "check", **how))
    finally:
        del RECIPES["check"]
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def plain(c: Setting) -> list[dict[str, Any]]:
    """A model that has learned the small images, for all parts that need one; the lines of its metrics."""
    c.made["model"] = c.work / "runs/plain"
    return trained(c, "plain", val=c.made["test"], epochs=12.0 if c.tiny else 6.0, batch_size=16 if c.tiny else None)


def variants(c: Setting) -> None:
    """Every kind of training ends with a finite loss and gives its memory back; micro-batches give the same loss."""
    from pretrain.recipe import Attack

    fast, free = Attack("fast", ramp=0.5), Attack("free", steps=2, ramp=0.5)
    lines = plain(c)
    top1 = lines[-1]["val_top1"]
    c.report.must("plain: learns", np.isfinite(lines[-1]["loss"]) and top1 > 1.5 / CLASSES, f"top-1 {top1:.3f}")
    kinds: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "average and clipping": ({"ema": 0.9, "clip": 1.0}, {}),
        "mixup": ({"mixup": 0.2, "cutmix": 1.0}, {}),
        "dynamics": ({}, {"dynamics": True}),
        "InfoBatch": ({"infobatch": 0.5}, {}),
        "fast adversarial": ({"attack": fast, "smoothing": 0.0}, {}),
        "free adversarial": ({"attack": free, "smoothing": 0.0}, {}),
        "SimSiam": ({"method": "simsiam", "crop": "resized", "scale": (0.3, 1.0)}, {}),
    }
    if c.gpu:
        kinds["fp16"] = ({}, {"precision": "fp16"})
    else:
        c.report.unchecked("fp16", "needs CUDA")
    for name, (changes, flags) in kinds.items():
        with c.report.trying(name):
            before = _memory(c)
            found = trained(c, name.replace(" ", "-"), changes, **flags)
            more = (_memory(c) - before) / 2**20
            losses = [line["loss"] for line in found]
            held = f", {more:.0f} MiB more" if c.gpu else ""
            c.report.must(name, bool(np.isfinite(losses).all()) and more < 16, f"loss {losses[-1]:.3f}{held}")
    with c.report.trying("micro-batches"):
        # A transformer: batch norm would see other groups of images.
        whole, parts = (
            trained(c, f"micro-{n}", recipe="tiny-vit", micro_batch=n) for n in (None, 10 if c.tiny else 16)
        )
        apart = abs(whole[-1]["loss"] - parts[-1]["loss"])
        c.report.must("micro-batches: the loss is that of whole ones", apart < 1e-2, f"{apart:.2g} apart")


def _memory(c: Setting) -> int:
    gc.collect()
    return torch.cuda.memory_allocated() if c.gpu else 0


def resume(c: Setting) -> None:
    """A stopped run, a run with a damaged checkpoint and an undisturbed one end alike; two processes, then one."""
    flags = ["--recipe", c.recipe, "--epochs", "2", "--batch-size", "16" if c.tiny else "128", "--loader", c.loader]
    flags += ["--beton", str(c.made["train"]), "--checkpoint-minutes", "0", "--deterministic"]
    flags += ["--workers", "1", "--threads", "1"] if c.tiny else []
    straight = _command(c, flags, "straight")
    c.report.must("straight: exit code 0", straight == 0, f"exit code {straight}")
    for name in ("stopped", "damaged"):
        with c.report.trying(name):
            codes = [_command(c, flags, name, stop=True)]
            if name == "damaged":
                _damage(c.work / "runs/damaged/checkpoint")
            codes.append(_command(c, flags, name))
            c.report.must(f"{name}: exit codes 85 and 0", codes == [85, 0], str(codes))
            one, other = (_weights(c.work / "runs" / place) for place in ("straight", name))
            c.report.must(f"{name}: the weights of the undisturbed run, bit for bit", one == other)
    flags.remove("--deterministic")
    with c.report.trying("two processes"):
        _two_processes(c, flags)
    with c.report.trying("two processes: --sync-bn"):
        _synchronised(c, flags)


def _command(c: Setting, flags: list[str], name: str, *, stop: bool = False) -> int:
    """Run `pretrain` in this process; with `stop` SIGUSR1 arrives once there are two checkpoints."""
    from pretrain.__main__ import main

    out = c.work / "runs" / name
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)}
    if stop:
        threading.Thread(target=_signal_at, args=(out / "checkpoint", os.getpid()), daemon=True).start()
    try:
        return int(main([*flags, "--out", str(out)]) or 0)
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def _signal_at(checkpoints: Path, process: int, count: int = 2) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if sum(1 for _ in checkpoints.glob("0*")) >= count:
            return os.kill(process, signal.SIGUSR1)
        time.sleep(0.002)
    return None


def _damage(checkpoints: Path) -> None:
    newest = max(checkpoints.glob("0*")) / "shared.safetensors"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)


def _weights(out: Path) -> bytes:
    return (out / "model.safetensors").read_bytes()


def _two_processes(c: Setting, flags: list[str]) -> None:
    """Two processes, on one card over gloo, that compile and accumulate; stopped, then resumed by one."""
    from pretrain.compiling import missing

    out = c.work / "runs/two"
    flags = [*flags, "--val", str(c.made["test"]), "--micro-batch", "3" if c.tiny else "32"]
    lack = missing(c.device) if c.gpu else "needs CUDA"
    if lack:
        c.report.unchecked("two processes: compiled", lack)
    flags += ["--compile", "off" if lack else "on"]
    codes, said = _pair(c, flags, "two", stop=True)
    c.report.must("two processes: both end with 85", codes == [85, 85], str(codes))
    if codes != [85, 85]:
        print(said, flush=True)
    c.report.must("two processes: say that they are two", "2 processes" in said)
    code = _command(c, flags, "two")
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    each = {line["samples"] for line in lines}
    c.report.must("two, then one process: done, every epoch as large", code == 0 and len(each) == 1, str(each))
    n = c.thumbnails[1]
    whole = all(abs(line["val_top1"] * n - round(line["val_top1"] * n)) < 1e-3 * n / 100 for line in lines)
    c.report.must("two, then one process: every test image counts once", whole)


def _pair(c: Setting, flags: list[str], name: str, *, stop: bool = False) -> tuple[list[int], str]:
    """Run `pretrain` on two processes of this machine, on one card over gloo; their exit codes and what they print.

    With `stop` the first gets SIGUSR1 once there are two checkpoints.
    """
    out = c.work / "runs" / name
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    common |= {"WINNOW_BACKEND": "gloo", "GLOO_SOCKET_IFNAME": "lo"}
    running = []
    for rank in range(2):
        own = {"RANK": str(rank), "LOCAL_RANK": "0" if c.gpu else str(rank)}
        command = [sys.executable, "-m", "pretrain", *flags, "--out", str(out)]
        with open(c.work / f"{name}-{rank}.log", "w") as log:
            environment = {**os.environ, **common, **own}
            running.append(subprocess.Popen(command, cwd=ROOT, env=environment, stderr=log, stdout=log))
    try:
        if stop:
            _signal_at(out / "checkpoint", running[0].pid)
        codes = [process.wait(100) for process in running]
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
                process.wait()
    return codes, "".join((c.work / f"{name}-{rank}.log").read_text() for rank in range(2))


def _synchronised(c: Setting, flags: list[str]) -> None:
    """Two processes whose batch norm is synchronised learn what one learns; others differ by more."""
    if not c.gpu:
        c.report.unchecked("two processes: --sync-bn", "needs CUDA")
        return
    at = flags.index("--epochs")  # three steps: later ones enlarge any rounding
    flags = [*flags[:at], *flags[at + 2 :], "--steps", "3", "--precision", "fp32"]
    losses = {}
    for name, more in (("sync", ["--sync-bn"]), ("apart", [])):
        codes, said = _pair(c, [*flags, *more], name)
        if codes != [0, 0]:
            print(said, flush=True)
        c.report.must(f"two processes, {name}: exit codes 0", codes == [0, 0], str(codes))
        losses[name] = _last_loss(c, name)
    code = _command(c, [*flags, "--sync-bn"], "alone")
    c.report.must("one process with --sync-bn: exit code 0", code == 0, str(code))
    alone = _last_loss(c, "alone")
    sync, apart = (abs(losses[name] - alone) for name in ("sync", "apart"))
    c.report.must(
        "--sync-bn: two processes learn what one does", sync < 1e-3, f"loss {sync:.2g} apart, else {apart:.2g}"
    )


def _last_loss(c: Setting, name: str) -> float:
    lines = (c.work / "runs" / name / "metrics.jsonl").read_text().splitlines()
    return float(json.loads(lines[-1])["loss"])
