"""`python -m prune STEP`: the steps from images to an index."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from prune.runs import command_line

STEPS = {
    "write": "prune.write: write images to a beton and its manifest",
    "verify": "prune.verify: check a beton and its manifest",
    "surrogate": "prune.surrogate: make a surrogate of a timm model with trained weights",
    "features": "prune.features: the surrogate's features and logits of every image",
    "adopt": "prune.adopt: take over features and logits computed elsewhere",
    "score": "prune.score: compute class weights and sample scores",
    "extrapolate": "prune.extrapolate: predict the scores of images that no surrogate has seen",
    "leaks": "prune.leaks: report test images that the source also holds",
    "select": "prune.selection: choose the samples to keep: quota times rank",
    "curves": "prune.curves: measure bytes and feature error of every image on a ladder of JPEG qualities",
    "budget": "prune.budget: choose samples and JPEG qualities within a budget of bytes",
    "codecs": "prune.codec_table: compare image codecs for a source and a network, and recommend one",
    "show": "prune.show: print an index as a sentence and a table, or write a page",
    "explain": "prune.explain: say why images and classes were kept or dropped",
    "audit": "prune.audit: compare kept shares of groups with chance, and surrogates with each other",
    "combine": "prune.combine: make the union, intersection or difference of indices",
    "gone": "prune.gone: prove that deleted images are in no output",
    "export": "prune.export: write an index as .npy, .txt, .csv, .json or .indices",
    "card": "prune.card: write the card of an index, for others to read",
    "push": "prune.push: share an index and its card through Hugging Face's hub",
    "pull": "prune.pull: get an index from the hub, verified by its checksum",
    "import": "prune.importing: make an index of rows or ids from elsewhere",
    "materialize": "prune.materialize: copy what an index keeps into a beton of its own",
    "generate": "prune.generate: draw a small data set of which the truth is known",
}


def main(argv: Sequence[str] | None = None, program: str = "prune") -> int:
    """Run a step; the exit code."""
    return command_line.main(program, "Choose which images to pretrain on.", STEPS, argv)


if __name__ == "__main__":
    sys.exit(main())
