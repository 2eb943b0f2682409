"""`python -m transfer STEP`: what a backbone is worth on the targets, and whether pruning paid."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence

from pretrain import preemption
from prune.runs import command_line

STEPS = {
    "probe": "transfer.probe: linear probe of a model on one target, or from a few images per class",
    "knn": "transfer.knn: nearest neighbours of a model's features on one target",
    "finetune": "transfer.finetune: train all of a model on one target",
    "preserve": "transfer.preserve: the images on which a compressed model must not get worse",
    "compress": "transfer.compress: shrink a model step by step, each tested on a preservation set",
    "rollback": "transfer.rollback: go back to an accepted step of a compression",
    "compress-report": "transfer.compress_report: compressions as one page",
    "export": "transfer.export: a model as ONNX files for a device, fp32 and int8, compared and measured",
    "watch": "transfer.watch: compare a compressed model with its original on new images",
    "study": "transfer.study: compare backbones trained on all, random and selected images, on the same targets",
    "report": "transfer.report: a study as one page: verdicts, charts and costs",
    "incremental": "transfer.incremental: classes that arrive in tasks, with a memory of raw or compressed exemplars",
    "stream": "transfer.stream: samples that arrive in order, with a memory whose byte budget is never exceeded",
    "show": "transfer.show: a study's verdicts as tables, and its overall verdict in one line",
}
TRAINING = ("finetune", "compress", "incremental", "stream")
"""Steps that a signal ends at a point from which they resume."""


def main(argv: Sequence[str] | None = None, program: str = "transfer") -> int:
    """Run a step and return its exit code (see `prune.runs.exit_codes`)."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and argv[0] in TRAINING and threading.current_thread() is threading.main_thread():
        preemption.listen()  # before the slow imports: until then either signal would end the process
    return command_line.main(program, "Evaluate and compress pretrained backbones on the targets.", STEPS, argv)


if __name__ == "__main__":
    sys.exit(main())
