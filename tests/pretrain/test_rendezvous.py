"""Processes meet soon or say why, wait for long work once they have met, and two machines need torchrun alone."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from prune.runs import process_group
from prune.runs.files import InputError

ROOT = Path(__file__).parents[2]
MEET = """
import sys, time
from prune.runs import process_group
from prune.runs.files import InputError
try:
    state = process_group.join()
except InputError as error:
    sys.exit(str(error))
import torch, torch.distributed as dist
if state.process_index == 0:
    time.sleep(float(sys.argv[1]))
found = torch.ones(1)
dist.all_reduce(found)
print(int(found))
dist.destroy_process_group()
"""


def free_port() -> str:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return str(place.getsockname()[1])


def start(rank: int, port: str, seconds: str, sleep: str = "0") -> subprocess.Popen[str]:
    own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    own |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo", "WINNOW_DEVICE": "cpu"}
    own |= {"WINNOW_RENDEZVOUS_SECONDS": seconds, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", MEET, sleep]
    return subprocess.Popen(command, env={**os.environ, **own}, text=True, stdout=-1, stderr=-1, cwd=ROOT)


def test_a_launcher_that_sets_half_of_the_variables_is_named(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match="WORLD_SIZE is 2, and RANK is not set: start the processes with torchrun"):
        process_group.join()
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(InputError, match="LOCAL_RANK is not set"):  # every process would train alone on the first GPU
        process_group.join()


@pytest.mark.parametrize("text", ["0", "-3", "soon", "nan", "inf"])
def test_a_time_that_is_none_is_refused(monkeypatch, text):
    monkeypatch.setenv("WINNOW_RENDEZVOUS_SECONDS", text)
    with pytest.raises(InputError, match=f"WINNOW_RENDEZVOUS_SECONDS={text}: a positive number"):
        process_group.meeting_seconds()


def test_a_machine_whose_name_leads_to_itself_is_named_with_the_way_out(monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "node7")
    monkeypatch.setenv("MASTER_PORT", "15000")
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setattr(process_group, "_own_address", lambda: "127.0.1.1")
    text = process_group._not_met(RuntimeError("Connection refused\nmore"), "nccl")
    for part in ("process 3 on ", "node7:15000 (Connection refused)", "leads to 127.0.1.1, which the others cannot"):
        assert part in text
    assert "NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME" in text
    assert "slurm/env.sh" in text
    monkeypatch.setattr(process_group, "_own_address", lambda: "10.0.0.7")
    assert "leads to" not in process_group._not_met(RuntimeError("x"), "gloo")


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_whose_partner_does_not_come_ends_soon_and_says_why(rank):
    alone = start(rank, free_port(), "2")
    said = alone.communicate(timeout=120)[1].splitlines()
    assert alone.returncode == 1
    assert f"process {rank} on " in said[-1]
    assert "did not meet the others at 127.0.0.1:" in said[-1]


@pytest.mark.slow
@pytest.mark.processes
def test_long_work_of_one_process_does_not_end_the_others():
    port = free_port()
    both = [start(rank, port, "15", "18") for rank in (0, 1)]  # longer than the rendezvous may take
    said = [process.communicate(timeout=200) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert [out.split()[-1] for out, _ in said] == ["2", "2"]


@pytest.mark.slow
@pytest.mark.processes
def test_two_machines_train_as_one_run_by_torchrun_alone(beton, tmp_path):
    out, port = tmp_path / "run", free_port()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "WINNOW_DEVICE": "cpu"}
    environment = {k: v for k, v in environment.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    nodes = []
    for node in range(2):  # as slurm/README.md shows it; on one machine each node has an address of its own
        command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
        command += [f"--node-rank={node}", "--master-addr=127.0.0.1", f"--master-port={port}"]
        command += [f"--local-addr=127.0.0.{node + 1}", "-m", "pretrain", "--beton", str(beton), "--recipe", "tiny"]
        command += ["--steps", "2", "--loader", "torch", "--workers", "1", "--out", str(out)]
        nodes.append(subprocess.Popen(command, cwd=ROOT, env=environment, text=True, stdout=-1, stderr=-1))
    try:
        said = [node.communicate(timeout=240)[1] for node in nodes]
    finally:
        for node in nodes:
            if node.poll() is None:
                node.kill()
                node.wait()
    assert [node.returncode for node in nodes] == [0, 0], said
    assert json.loads((out / "provenance.json").read_text())["processes"] == 2
    assert "training on cpu" in said[0]
    assert "training on cpu" not in said[1]  # rank 0 alone speaks
