"""`python -m transfer STEP`: evaluate a backbone on the targets; compress, export and watch it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence

from pretrain import preemption
from prune.runs import command_line

STEPS = {
    "auto": "transfer.auto: from images to an index in one command, with a page",
    "probe": "transfer.probe: evaluate a model on one target by a linear probe, from all images or a few per class",
    "knn": "transfer.knn: evaluate a model on one target by the nearest neighbours of its features",
    "finetune": "transfer.finetune: fine-tune a model on one target and evaluate it",
    "preserve": "transfer.preserve: choose the images on which a compressed model must not get worse",
    "compress": "transfer.compress: shrink a model in steps, each tested on a preservation set",
    "compress-language": "transfer.compress_language: shrink a language model in steps, each tested on text",
    "approve": "transfer.approve: answer for a step of a compression that waits for a person",
    "rollback": "transfer.rollback: restore an accepted step of a compression",
    "explain": "transfer.explain: say why a step of a compression removed what it removed",
    "compress-report": "transfer.compress_report: write a page about compressions",
    "export": "transfer.export: write a model as ONNX files for a device, fp32 and int8, compared and measured",
    "watch": "transfer.watch: compare a compressed model with its original on new images",
    "watch-codec": "transfer.watch_codec: watch the feature error and bytes of compressed images as they come",
    "study": "transfer.study: compare backbones trained on all, random and selected images, on the same targets",
    "report": "transfer.report: write a study's page: verdicts, charts and costs",
    "decide": "transfer.decide: what to store: bytes, accuracy, cost and time of each way, and what is unknown",
    "incremental": "transfer.incremental: learn classes in tasks, with a memory of raw or compressed exemplars",
    "stream": "transfer.stream: learn from samples in order, with a memory that never exceeds its byte budget",
    "show": "transfer.show: print a study's verdicts as tables, and its overall verdict in one line",
}
TRAINING = ("finetune", "compress", "compress-language", "incremental", "stream")
"""Steps that a signal ends at a point from which they resume."""


def main(argv: Sequence[str] | None = None, program: str = "transfer") -> int:
    """Run a step and return its exit code (see `prune.runs.exit_codes`)."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and argv[0] in TRAINING and threading.current_thread() is threading.main_thread():
        preemption.listen()  # before the slow imports: until then either signal would kill the process
    return command_line.main(program, "Evaluate and compress pretrained backbones on the targets.", STEPS, argv)


if __name__ == "__main__":
    sys.exit(main())
