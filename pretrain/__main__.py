"""`python -m pretrain`: train a model; also under `accelerate launch -m` and `torchrun -m`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pretrain import preemption
from prune.index.version import VERSION


def main(argv: Sequence[str] | None = None, program: str = "pretrain") -> int:
    """Run the command; the exit code: 0, 2 for wrong input, 85 when a signal stopped the training."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] == ["--version"]:
        print(f"{program} {VERSION}")
        return 0
    if "--list" not in argv:
        preemption.listen()  # before the slow imports: until then either signal would kill the process
    from prune.runs import command_line

    if "--list" in argv:
        command_line.drop_unread_output()
        print(_recipes())
        return 0
    try:
        return command_line.run_step(program, "pretrain.train", argv)
    finally:
        if "pretrain.distributed" in sys.modules:
            sys.modules["pretrain.distributed"].leave()


def _recipes() -> str:
    from pretrain.recipes import RECIPES

    lines = []
    for name, recipe in RECIPES.items():
        budget = f"{recipe.epochs:g} epochs, {recipe.resolution} px, batch {recipe.batch}"
        lines += [f"{name}: {recipe.arch}, {budget}", f"    cost    {recipe.cost}", f"    expect  {recipe.expect}"]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
