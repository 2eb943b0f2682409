"""`python -m prune STEP`: the steps from images to an index."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from prune.runs import command_line

STEPS = {
    "write": "prune.write: images to a beton and its manifest",
    "verify": "prune.verify: check a beton and its manifest",
    "surrogate": "prune.surrogate: a timm model with trained weights becomes the surrogate",
    "features": "prune.features: the surrogate's features and logits of every image",
    "adopt": "prune.adopt: features and logits computed elsewhere",
    "score": "prune.score: class weights and sample scores",
    "leaks": "prune.leaks: test images that the source also holds",
    "select": "prune.selection: which samples to keep: quota times rank",
    "curves": "prune.curves: bytes and feature error of every image on a ladder of JPEG qualities",
    "budget": "prune.budget: which samples to keep at which quality, so that the bytes fit",
    "codecs": "prune.codec_table: codecs by feature error at equal bytes",
    "show": "prune.show: an index in words, a table or a page",
    "combine": "prune.combine: union, intersection or difference of indices",
    "export": "prune.export: an index as .npy, .txt, .csv or .indices",
    "import": "prune.importing: rows or ids from elsewhere become an index",
    "materialize": "prune.materialize: index and source become a beton of their own",
    "generate": "prune.generate: a small data set where the truth is known",
}


def main(argv: Sequence[str] | None = None, program: str = "prune") -> int:
    """Run a step; the exit code."""
    return command_line.main(program, "Choose which images to pretrain on.", STEPS, argv)


if __name__ == "__main__":
    sys.exit(main())
