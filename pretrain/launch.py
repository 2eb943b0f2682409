"""`torchrun` with the exit codes of this project: the same flags, and the same processes.

    python -m pretrain.launch --standalone --nproc_per_node=2 -m pretrain --beton S.beton --recipe tiny --out runs/tiny

torchrun ends with 1 and a traceback of its own whatever its processes ended with. This ends with their code: 85 after
SIGTERM, when they have written a checkpoint, so that a scheduler restarts the job; 2 for wrong input.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence

from prune.runs.exit_codes import ExitCode


def main(argv: Sequence[str] | None = None) -> int:
    """Run torchrun with these arguments; the exit code that its processes ended with."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    try:
        torchrun(list(sys.argv[1:] if argv is None else argv))
    except SignalException as stopped:  # it has passed the signal on, and waited for the ends of its processes
        asked = signal.Signals(stopped.sigval)
        return int(ExitCode.INTERRUPTED if asked == signal.SIGINT else ExitCode.STOPPED)
    except ChildFailedError as failed:
        codes = sorted(failure.exitcode for failure in failed.failures.values())
        # Once one has failed torchrun sends SIGTERM to the others: theirs is not the reason.
        codes = [code for code in codes if code != -signal.SIGTERM] or codes
        # A process that ended by a signal has a negative code; the others that it took with it end with 1.
        return 128 - codes[0] if codes[0] < 0 else codes[-1]
    return int(ExitCode.DONE)


if __name__ == "__main__":
    sys.exit(main())
