"""What a process of a training does when another one has ended: one line, instead of an error of the collective."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed as dist

from pretrain import checkpoint
from pretrain.distributed import Ranks

_WORDS = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "gloo", "NCCL", "Socket Timeout")


@contextmanager
def ended_with_its_peers(out: Path, ranks: Ranks) -> Iterator[None]:
    """End the block with one line and exit code 1 when another process of the run has ended.

    The line comes from the first process that is left on this machine. The code is not the one that makes a scheduler
    restart the job: the other process knows why it ended.
    """
    if ranks.world == 1:
        yield
        return
    own = (socket.gethostname(), os.getpid())
    peers: list[Any] = [own] * ranks.world
    dist.all_gather_object(peers, own)
    try:
        yield
    except RuntimeError as error:
        if not _is_of_a_collective(error):
            raise
        here = [rank for rank, (host, _) in enumerate(peers) if host == own[0]]
        gone = _ended({rank: peers[rank][1] for rank in here if rank != ranks.rank})
        if ranks.rank == min(rank for rank in here if rank not in gone):
            print(f"pretrain: {_in_words(gone, ranks.world, out)}", file=sys.stderr, flush=True)
        raise SystemExit(1) from None


def _is_of_a_collective(error: RuntimeError) -> bool:
    kinds = tuple(getattr(dist, name) for name in ("DistNetworkError", "DistBackendError") if hasattr(dist, name))
    return isinstance(error, kinds) or any(word in str(error) for word in _WORDS)


def _in_words(gone: list[int], world: int, out: Path) -> str:
    found = checkpoint.complete(out / "checkpoint")
    numbers = " and ".join(str(rank) for rank in gone)
    who = f"process{'es' if len(gone) > 1 else ''} {numbers} of {world}" if gone else "a process on another machine"
    if not found:
        return f"{who} ended; there is no checkpoint yet; the same command begins again"
    return f"{who} ended; the last checkpoint is step {int(found[-1].name)}; the same command resumes"


def _ended(processes: dict[int, int], patience: float = 3.0) -> list[int]:
    """Ranks whose process has ended; waits a little for one that is about to, and for others that end with it."""
    deadline = time.monotonic() + patience
    while True:
        gone = [rank for rank, process in processes.items() if _has_ended(process)]
        if gone or not processes or time.monotonic() > deadline:
            return gone
        time.sleep(0.05)


def _has_ended(process: int) -> bool:
    """Whether a process of this machine has ended; one that its parent has not collected yet (a zombie) has."""
    try:
        state = Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return True
    return state in ("Z", "X")
