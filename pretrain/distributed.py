"""The processes of a run, through Accelerate: ranks, sums over them, agreement and waiting.

The same for one process or many, on CPU (gloo) or CUDA. Several runs may follow each other in one process:
Accelerate's state is reset for each, the process group stays.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DistributedDataParallelKwargs
from torch import nn

from pretrain import sync_batch_norm
from pretrain.compiling import CompileFlag, decide
from prune.models.networks import computes_bf16, pick_precision
from prune.runs import compute_device, process_group
from prune.runs.cores import share_of_cores
from prune.runs.files import InputError, counted, note
from prune.runs.memory_allocator import keep_freed_memory

Precision = Literal["auto", "fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class Agreement:
    """What all ranks agreed on after a step."""

    stop: bool
    save: bool
    bad_step: int
    seconds: float


@dataclass
class Ranks:
    """The processes of one run.

    Attributes
    ----------
    accelerator : Accelerator
    rank, world : int
    device : torch.device
    dtype : torch.dtype or None
        Type in which autocast computes; None: fp32.
    compile : {"auto", "on", "off"}
        See `pretrain.compiling.decide`.
    sync_bn : bool
        Whether batch norm sees the images of all ranks; see `pretrain.sync_batch_norm`.
    """

    accelerator: Accelerator
    rank: int
    world: int
    device: torch.device
    dtype: torch.dtype | None
    _group: Any = None
    compile: CompileFlag = "auto"
    sync_bn: bool = False

    def agree(self, stop: bool, save: bool, bad_step: int, seconds: float) -> Agreement:
        """Exchange a few numbers between all ranks: all stop when one must; saving and the clock are rank 0's.

        On CUDA the exchange uses gloo instead of NCCL, so that it does not wait for the GPU's queue.
        """
        if self.world > 1:
            first = self.rank == 0
            message = torch.tensor([stop, save and first, bad_step, seconds if first else 0.0], dtype=torch.float64)
            dist.all_reduce(message, dist.ReduceOp.MAX, group=self._group)
            stop, save, bad_step, seconds = message.tolist()
        return Agreement(bool(stop), bool(save), int(bad_step), seconds)

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """Add `values` over all ranks."""
        if self.world == 1:
            return values
        values = values.clone()
        dist.all_reduce(values)
        return values

    def from_first(self, number: int) -> int:
        """Give every rank the number of rank 0."""
        if self.world > 1:
            message = torch.tensor([number])
            dist.broadcast(message, 0, group=self._group)
            number = int(message)
        return number

    def wait(self) -> None:
        """Wait until all ranks have called this."""
        if self.world > 1:
            dist.barrier(group=self._group)

    def distribute(self, network: nn.Module) -> nn.Module:
        """Wrap for gradient averaging when there are several ranks.

        Batch-norm statistics stay each rank's own, unless `sync_bn`.
        """
        if self.world == 1:
            return network
        spread = network
        if self.sync_bn:
            if not sync_batch_norm.layers(network):
                note("--sync-bn: this network has no batch norm, so it changes nothing")
            spread = sync_batch_norm.synchronised(network)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # the new name for broadcast_buffers is not in torch 2.6
            found: nn.Module = self.accelerator.prepare(spread)
        if self.sync_bn:
            sync_batch_norm.share_buffers(network, spread)
        return found

    def without_sync(self, model: nn.Module) -> AbstractContextManager[Any]:
        """Accumulate gradients without averaging them yet."""
        return self.accelerator.no_sync(model) if self.world > 1 else nullcontext()

    def announce(self, workers: int | None, compiled: bool) -> None:
        """Say in one line what the training runs on; `compiled`: whether its recipe wants `torch.compile`."""
        card = f"{torch.cuda.get_device_name()}, {compute_device.driver()}" if self.device.type == "cuda" else ""
        precision = {None: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[self.dtype]
        if card and self.dtype is torch.float16 and not computes_bf16(self.device):
            precision += " (this card only emulates bf16)"
        threads = workers or share_of_cores()
        parts = [
            f"training on {self.device.type}{f' ({card})' if card else ''}",
            precision,
            counted(self.world, "process", "processes"),
            f"{counted(threads, 'decoder thread')} each",
            decide(self.compile, compiled, self.device)[1],
        ]
        if self.sync_bn and self.world > 1:
            parts[-1:] = ["not compiled (--sync-bn)", "batch norm over all processes"]
        note(", ".join(parts))

    def autocast(self) -> AbstractContextManager[Any]:
        """Compute in the run's precision."""
        return torch.autocast(self.device.type, self.dtype) if self.dtype else nullcontext()


@contextmanager
def open_ranks(
    precision: Precision = "auto",
    threads: int | None = None,
    trackers: tuple[str, ...] = (),
    project: Path | None = None,
    compile: CompileFlag = "auto",
    deterministic: bool = False,
    sync_bn: bool = False,
) -> Iterator[Ranks]:
    """Join the run's other processes (torchrun, accelerate launch, srun) or be the only one.

    torch's number of threads and its random state are restored at the end.

    Parameters
    ----------
    precision : str
        `auto`: bf16 on GPUs and CPUs with bf16 units, fp16 on other GPUs, fp32 on other CPUs.
    threads : int, optional
        Threads of torch in this process; when absent, OMP_NUM_THREADS or this process's share of the cores.
    trackers : tuple of str
        "tensorboard", "wandb"; logged by rank 0.
    project : Path, optional
        Where trackers write.
    compile : {"auto", "on", "off"}
    deterministic : bool
        On CUDA: only operations that give the same bits each time.
    sync_bn : bool
        Batch norm sees the images of all ranks; then nothing is compiled.
    """
    cpu = compute_device.current() == "cpu"
    if cpu:
        keep_freed_memory()
    before = torch.get_num_threads(), torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
    AcceleratorState._reset_state()
    GradientState._reset_state()
    process_group.join()
    if deterministic and not cpu:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        accelerator = Accelerator(
            cpu=cpu,
            mixed_precision="no",  # `Ranks.autocast` does it, for this run alone
            log_with=list(trackers) or None,
            project_dir=project,
            kwargs_handlers=[
                # DDP rebuilds its buckets after the first step, so after a resume it would add the gradients of three
                # ranks or more in another order. With find_unused_parameters it keeps the first buckets.
                DistributedDataParallelKwargs(
                    broadcast_buffers=False,
                    gradient_as_bucket_view=True,
                    find_unused_parameters=cpu and int(os.environ.get("WORLD_SIZE", "1")) > 2,
                )
            ],
        )
        # Accelerate and FFCV change the number of threads.
        torch.set_num_threads(threads or int(os.environ.get("OMP_NUM_THREADS", 0)) or share_of_cores())
        world = accelerator.num_processes
        if not cpu:
            torch.set_float32_matmul_precision("high")  # TF32 for what autocast leaves in fp32
            torch.backends.cudnn.benchmark = not deterministic
            torch.use_deterministic_algorithms(deterministic)
        group = dist.new_group(backend="gloo") if world > 1 and not cpu else None
        if group is not None:
            process_group.patient(group)
        rank, device = accelerator.process_index, accelerator.device
        try:
            if sync_bn and world > 1:
                compile = "off"  # torch breaks its graph at every such layer, or fails
            yield Ranks(accelerator, rank, world, device, dtype_of(precision), group, compile, sync_bn)
        finally:
            if not cpu:
                torch.use_deterministic_algorithms(False)
            accelerator.free_memory()
            torch.set_num_threads(before[0])
            torch.set_float32_matmul_precision(before[1])
            torch.backends.cudnn.benchmark = before[2]


def dtype_of(precision: Precision) -> torch.dtype | None:
    """Resolve a precision for this machine: with "auto" fp16, whose loss is scaled, on GPUs that only emulate bf16.

    Raises
    ------
    InputError
        fp16 without CUDA: there it is slow and its gradients vanish.
    """
    device = torch.device(compute_device.current())
    if precision == "auto":
        emulated = device.type == "cuda" and not computes_bf16(device)
        precision = "fp16" if emulated else pick_precision("auto", device)  # type: ignore[assignment]
    if precision == "fp16" and device.type != "cuda":
        raise InputError("--precision fp16 needs CUDA: use auto, fp32 or bf16")
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def leave() -> None:
    """End the process group, at the very end of a command."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
