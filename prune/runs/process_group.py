"""The processes of one run meet here: a rendezvous that fails soon and says why, then a group that waits for long.

A launcher (torchrun, `accelerate launch`, `slurm/rank.sh`, an operator of Kubernetes) sets RANK, WORLD_SIZE,
LOCAL_RANK, MASTER_ADDR and MASTER_PORT.
"""

from __future__ import annotations

import os
import socket
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from prune.runs import compute_device
from prune.runs.files import InputError

if TYPE_CHECKING:
    from accelerate import PartialState

_VARIABLES = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
MEETING_SECONDS = 300.0
"""How long a process waits for the others to start; WINNOW_RENDEZVOUS_SECONDS in the environment replaces it."""
PATIENCE_SECONDS = 7200.0
"""How long a process waits for another that works alone: rank 0 writes features of millions of images, for instance."""


def join() -> PartialState:
    """Meet the run's other processes, once in a process; Accelerate's state for the current device.

    Raises
    ------
    InputError
        A variable of the launcher is missing, or the processes do not find each other in time.
    """
    import torch.distributed as dist
    from accelerate import PartialState

    cpu = compute_device.current() == "cpu"
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        _meet(cpu)
    if PartialState._shared_state and PartialState().device.type != ("cpu" if cpu else "cuda"):
        PartialState._reset_state()  # an earlier run of this process computed on another device
    try:
        return PartialState(cpu=cpu)
    except NotImplementedError as error:  # some consumer cards cannot talk to each other directly
        raise InputError(" ".join(str(error).split())) from None


def patient(group: Any = None) -> None:
    """Let a group wait for `PATIENCE_SECONDS` from now on, instead of the time for a rendezvous."""
    from torch.distributed import distributed_c10d as c10d

    change = getattr(c10d, "set_timeout", None) or c10d._set_pg_timeout
    change(timedelta(seconds=PATIENCE_SECONDS), group)


def _meet(cpu: bool) -> None:
    import torch
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    if missing := [name for name in _VARIABLES if not os.environ.get(name)]:
        raise InputError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, and {missing[0]} is not set: start the processes with "
            "torchrun, `accelerate launch` or slurm/rank.sh"
        )
    rank, world, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    if not cpu:
        if local >= (count := torch.cuda.device_count()):
            raise InputError(f"process {local + 1} of this machine has no GPU of its own: there are {count}")
        torch.cuda.set_device(local)
    # gloo on a GPU is for the tests of several processes on one card, which NCCL refuses.
    backend = os.environ.get("WINNOW_BACKEND") or ("gloo" if cpu else "nccl")
    limit = timedelta(seconds=meeting_seconds())
    try:
        store, _, _ = next(rendezvous("env://", rank, world, timeout=limit))
        store.set_timeout(limit)
        dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=limit)
        dist.barrier(device_ids=None if backend == "gloo" else [local])
    except (RuntimeError, ValueError, OSError) as error:
        raise InputError(_not_met(error, backend)) from None
    patient()


def meeting_seconds() -> float:
    """Seconds that a process waits for the others to start."""
    text = os.environ.get("WINNOW_RENDEZVOUS_SECONDS") or str(MEETING_SECONDS)
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise InputError(f"WINNOW_RENDEZVOUS_SECONDS={text}: a positive number is expected in the environment")
    return seconds


def _not_met(error: Exception, backend: str) -> str:
    where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    who = f"process {os.environ['RANK']} on {socket.gethostname()}"
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
    own = _own_address()
    loop = f"; the name of this machine leads to {own}, which the others cannot reach" if own.startswith("127.") else ""
    card = "GLOO_SOCKET_IFNAME" if backend == "gloo" else "NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME"
    return (
        f"{who} did not meet the others at {where} ({reason}){loop}: let MASTER_ADDR be an address of the first "
        f"machine that all reach, and set {card} to the network card that connects them (`ip -brief address`; "
        "slurm/env.sh has the lines)"
    )


def _own_address() -> str:
    try:
        return socket.gethostbyname(socket.gethostname())
    except OSError:
        return "no address"
