"""A real Slurm on this machine for the tests: munged, slurmctld and two slurmd that call themselves n1 and n2.

No systemd, no root, nothing outside one folder below /tmp. All that is started is ended, jobs and daemons.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch")
CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=1,sched_min_interval=0
AccountingStorageType=accounting_storage/none
# Without cgroups Slurm itself looks every second whether a step holds more memory than it asked for.
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
JobRequeue=1
# Jobs get the share of the processor that their caller has.
PropagatePrioProcess=1
KillWait=30
MinJobAge=3600
SlurmctldTimeout=30
SlurmdTimeout=30
MailProg=/bin/true
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=16000 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory=16000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
CGROUPS = "CgroupPlugin=cgroup/v1\n"
"""None are used. Unlike the default, this plugin does not ask where they are mounted: containers may lack them."""
ENV = """\
PATH={binaries}:$PATH
[ -z "${{SHIM:-}}" ] || PATH=$SHIM:$PATH
export WINNOW_LOCAL='{folder}/local/$SLURMD_NODENAME'
EVERY=(--time=20 --cpus-per-task=1 "--mem=${{MEMORY:-3000}}")
WRITE=(--nodes=1 --ntasks=1)
SURROGATE=(--nodes=1 --ntasks-per-node=1)
PRUNE=(--nodes=1 --ntasks-per-node=1)
PRETRAIN=("--nodes=${{NODES:-2}}" --ntasks-per-node=1)
TRANSFER=(--nodes=1 --ntasks=1)
REPORT=(--nodes=1 --ntasks=1)
LIMIT=2
"""


class Cluster:
    """A running cluster and the ways that tests talk to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.daemons: dict[str, subprocess.Popen] = {}
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_", "WINNOW_"))}
        self.environment |= {"SLURM_CONF": str(folder / "slurm.conf"), "WINNOW_ENV": str(folder / "env.sh")}
        self.environment |= {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}

    def begin(self) -> None:
        """Start all daemons; returns when both nodes are idle."""
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
        ports = [one.getsockname()[1] for one in sockets]
        for one in sockets:
            one.close()
        host = socket.gethostname().split(".")[0]
        user = subprocess.check_output(["id", "-un"], text=True).strip()
        for name in ("state", "spool.n1", "spool.n2", "munge"):
            (self.folder / name).mkdir(mode=0o700)
        (self.folder / "slurm.conf").write_text(CONF.format(host=host, user=user, folder=self.folder, ports=ports))
        (self.folder / "cgroup.conf").write_text(CGROUPS)
        (self.folder / "env.sh").write_text(ENV.format(binaries=Path(sys.executable).parent, folder=self.folder))
        key = self.folder / "munge" / "key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))
        munge = [f"--{name}-file={self.folder}/munge/{name}" for name in ("key", "seed", "pid", "log")]
        self._start("munged", "--foreground", "--force", f"--socket={self.folder}/munge.sock", *munge)
        self.until("munged answers", (self.folder / "munge.sock").exists)
        self._start("slurmctld", "-D")
        for node in ("n1", "n2"):
            self.start_node(node)
        self.until("both nodes are idle", self.idle)

    def idle(self) -> bool:
        """Whether both nodes wait for work."""
        return self.ask("sinfo", "-h", "-t", "idle", "-o", "%D", check=False).strip() == "2"

    def start_node(self, node: str) -> None:
        """Start a node's daemon. What it starts carries the node's name: its tasks from Slurm, the rest from here."""
        self._start("slurmd", "-D", "-N", node, name=node, SLURMD_NODENAME=node)

    def _start(self, program: str, *arguments: str, name: str | None = None, **more: str) -> None:
        path = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
        assert path
        with open(self.folder / f"{name or program}.out", "a") as log:
            self.daemons[name or program] = subprocess.Popen(
                [path, *arguments], env={**self.environment, **more}, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    def end(self) -> None:
        """End jobs, daemons, and whatever still carries this cluster's configuration."""
        self.ask("scancel", "--signal=KILL", "--full", "--me", check=False)
        self.ask("scancel", "--me", check=False)
        with contextlib.suppress(AssertionError):
            self.until("no job is left", lambda: not self.ask("squeue", "-h", check=False).strip(), seconds=10)
        for daemon in self.daemons.values():
            daemon.terminate()
        for daemon in self.daemons.values():
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(AssertionError):
            self.until("all are gone", lambda: not self.processes(), seconds=10)

    def processes(self) -> list[int]:
        """Processes that were started in or by this cluster."""
        mark, found = str(self.folder / "slurm.conf").encode(), []
        for place in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if int(place.name) != os.getpid() and mark in (place / "environ").read_bytes():
                    found.append(int(place.name))
        return found

    def kill_node(self, node: str) -> None:
        """End a node as a failing machine would: its daemon and all that runs on it, at once."""
        self.daemons.pop(node).kill()
        for pid in self.processes():
            with contextlib.suppress(OSError):
                if f"SLURMD_NODENAME={node}".encode() in Path(f"/proc/{pid}/environ").read_bytes():
                    os.kill(pid, signal.SIGKILL)
        self.ask("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")

    def ask(self, *command: str, check: bool = True, **more: str) -> str:
        """Run a Slurm command or a script of slurm/; what it said on standard output."""
        done = subprocess.run(
            command, env={**self.environment, **more}, capture_output=True, text=True, timeout=60, cwd=self.folder
        )
        assert not check or done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def submit(self, script: str, *arguments: object, **more: str) -> list[str]:
        """Run slurm/SCRIPT with arguments; the ids of the jobs that it queued."""
        said = self.ask(str(ROOT / "slurm" / script), *map(str, arguments), **more)
        return [line.split(": job ")[1].split(",")[0] for line in said.splitlines() if ": job " in line]

    def state(self, job: str) -> str:
        """State of a job, as `COMPLETED`; of an array, its tasks' states without repetition."""
        shown = self.ask("scontrol", "--oneliner", "show", "job", job)
        return "+".join(sorted({self._field(line, "JobState") for line in shown.splitlines() if line.strip()}))

    def fact(self, job: str, name: str) -> str:
        """One field of `scontrol show job`."""
        return self._field(self.ask("scontrol", "--oneliner", "show", "job", job), name)

    @staticmethod
    def _field(line: str, name: str) -> str:
        return next((word.split("=", 1)[1] for word in line.split() if word.startswith(f"{name}=")), "")

    def ended(self, *jobs: str, seconds: float = 400) -> list[str]:
        """Wait until the jobs have ended; their states."""
        over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL")

        def all_over() -> bool:
            return all(set(self.state(job).split("+")) <= set(over) for job in jobs)

        self.until(f"jobs {jobs} have ended", all_over, seconds)
        return [self.state(job) for job in jobs]

    def release(self, job: str, restarts: int = 1) -> None:
        """Wait until a job was put back in the queue, and let it start at once instead of after two minutes.

        In another second, though: its nodes refuse the credentials of the job that they have just ended. And again
        when the job's end, as it reaches the controller, has put the start off anew; but not while its start is
        "Unknown": that job waits for the scheduler's next look, and another date would put it off for ever.
        """
        self.until(f"job {job} is back in the queue", lambda: self.fact(job, "Restarts") == str(restarts))

        def started() -> bool:
            if self.fact(job, "Restarts") != str(restarts):
                return True
            if (state := self.state(job)) != "PENDING":
                return state != "COMPLETING"  # what it shows until its nodes are done with it
            start = self.fact(job, "StartTime")
            if start != "Unknown" and datetime.fromisoformat(start) > datetime.now() + timedelta(seconds=5):
                self.ask("scontrol", "update", f"JobId={job}", "StartTime=now+2", check=False)
            return False

        self.until(f"job {job} has started again", started)

    def until(self, what: str, holds: Callable[[], object], seconds: float = 240) -> None:
        """Ask again and again until it holds; fails with `what` when it takes too long."""
        deadline = time.monotonic() + seconds
        while not holds():
            logs = [p for p in self.folder.glob("**/*.log") if "munge" not in p.parts] + [*self.folder.glob("*.out")]
            if time.monotonic() > deadline:
                tails = "\n".join(f"--- {p}\n{p.read_text(errors='replace')[-1500:]}" for p in logs)
                raise AssertionError(f"not within {seconds} s: {what}\n{tails}")
            time.sleep(0.25)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster, for one test file: another worker of pytest would start its own."""
    absent = [name for name in DAEMONS if not shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")]
    if absent:
        pytest.fail(f"{', '.join(absent)}: not installed, and these tests are never skipped: install/system.sh test")
    folder = Path(tempfile.mkdtemp(prefix="winnow-slurm-", dir="/tmp"))  # munge's socket needs a short path
    running = Cluster(folder)
    try:
        running.begin()
        yield running
    finally:
        running.end()
        assert not running.processes(), "processes of the cluster are left"
        shutil.rmtree(folder, ignore_errors=True)
