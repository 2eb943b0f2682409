"""Two of the same command in one output: every step holds what it writes, whoever the other is."""

import importlib.util
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from prune.__main__ import STEPS as PRUNE
from prune.__main__ import main as prune
from transfer.__main__ import STEPS as TRANSFER

HOLDING = r"\b(claim|claim_file|directory_lock|file_lock|write_beton|extract_to_file|thumbnails_to_file)\("
ONE_FILE = {"prune.audit", "prune.card", "prune.explain", "prune.gone", "prune.pull", "prune.push",
            "prune.export", "prune.show", "prune.verify", "prune.codec_table", "transfer.decide", "transfer.report",
            "transfer.compress_report", "transfer.show", "transfer.explain"}  # fmt: skip
"""Steps that print, or write one file from what they hold in memory: two of them rename equal files into place."""
HOLDER = """
import socket, sys, time
from pathlib import Path
if sys.argv[2]:
    socket.gethostname = lambda: sys.argv[2]
from prune.runs.run_lock import file_lock
with file_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(120)
"""


@pytest.mark.parametrize("step", [*PRUNE.values(), *TRANSFER.values(), "pretrain.train:"])
def test_every_step_holds_its_output_or_writes_one_file_whole(step):
    module = step.split(":")[0]
    source = Path(importlib.util.find_spec(module).origin).read_text()
    if module in ONE_FILE:
        assert not re.search(HOLDING, source), f"{module} holds its output: take it off the list"
    else:
        assert re.search(HOLDING, source), f"{module} writes without holding its output"


def arguments(toy, out: Path) -> list[str]:
    return ["select", "--manifest", str(toy.train), "--method", "random", "--keep", "0.5", "--out", str(out)]


@pytest.mark.parametrize("other", ["at work", "stopped", "on another host", "killed"])
def test_a_second_selection_waits_for_no_one_and_changes_nothing(toy, tmp_path, capsys, other):
    out = tmp_path / "x.index.npz"
    host = "elsewhere.cluster" if other == "on another host" else ""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(out), host], stdout=subprocess.PIPE, text=True, env={**os.environ}
    ) as process:
        try:
            assert process.stdout.readline() == "held\n"
            if other == "stopped":
                process.send_signal(signal.SIGSTOP)
            if other == "killed":
                process.kill()
                process.wait()
            code, said = prune(arguments(toy, out)), capsys.readouterr().err
        finally:
            process.kill()
    if other == "killed":
        assert (code, sorted(path.name for path in tmp_path.iterdir())) == (0, ["x.index.npz"])
        return
    assert code == 2
    assert re.fullmatch(rf"prune select: {out}: another run is at work there \(host .*\); wait for its end.*\n", said)
    assert f"process {process.pid}, since 20" in said
    assert host in said
    assert not out.exists()
    assert prune(arguments(toy, out)) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["x.index.npz"]
