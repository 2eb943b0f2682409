"""Does the demo end as it should with other seeds than its own? Draws its world anew and runs its study, several times.

    python tests/benchmarks/demo.py --out runs/demo-seeds --times 10

Run number k draws the world with seed k and trains with seven seeds of its own. It agrees when the winner holds after
the correction for many comparisons, all data need more compute for its accuracy beyond doubt, full data end between 60
and 95 %, and random at the same keep lies below by more than the margin. A run takes some 3 minutes on 2 cores; runs
resume.
The exit code is 0 when at least nine tenths agree.
"""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

import prune.__main__
import transfer.__main__
from transfer.verdicts.analysis import analyse
from transfer.verdicts.headline import headline_rows, smallest_holding, verdict_line
from transfer.verdicts.results_file import load_results

PROGRAMS = {"prune": prune.__main__.main, "transfer": transfer.__main__.main}
MAKEFILE = Path(__file__).parents[2] / "Makefile"


def commands(out: Path, number: int) -> list[list[str]]:
    """The demo's commands from the Makefile, in another directory, with other seeds."""
    recipe = MAKEFILE.read_text(encoding="utf-8").split("\ndemo:")[1].split("\n\n")[0].replace("\\\n", " ")
    text = recipe.replace("$(DEMO)", str(out)).replace("$(BIN)/", "").replace("@", "")
    lines = [re.sub(r"^\s*(\w+=\S+ )*", "", line) for line in text.splitlines()[1:]]  # without variables in front
    found = [shlex.split(line) for line in lines if line.strip()]
    seeds = " ".join(str(100 * number + k) for k in range(7))
    found[0] += ["--seed", str(number)]
    found[1] = shlex.split(re.sub(r"--seeds( \d+)+", f"--seeds {seeds}", shlex.join(found[1])))
    return found


def judged(study: Path) -> tuple[bool, str]:
    """Whether a study ended as the demo should, and its verdict."""
    analysis = analyse(load_results(study), study)
    rows = {(row["method"], row["keep"]): row for row in headline_rows(analysis)}
    winner = smallest_holding(analysis)
    random = winner and rows["random", winner["keep"]]["full"]["value"]
    agrees = (
        winner is not None
        and winner["verdict_corrected"] == "holds"
        and winner["speed_up"]["1"]["low"] > 1
        and 60 < rows["full", 1.0]["mean"] < 95
        and random < -analysis["margin"]
    )
    return agrees, verdict_line(analysis)


def main() -> None:
    """Run the demo several times and count how often it agrees."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--times", type=int, default=10)
    config = parser.parse_args()
    agreed = 0
    for number in range(1, config.times + 1):
        folder = config.out / str(number)
        for command in commands(folder, number):
            if code := PROGRAMS[command[0]](command[1:]):
                raise SystemExit(code)
        does, line = judged(folder / "study")
        agreed += does
        print(f"{number}: {'agrees' if does else 'DIFFERS'}: {line}", flush=True)
    print(f"{agreed} of {config.times} agree")
    raise SystemExit(0 if agreed >= 0.9 * config.times else 1)


if __name__ == "__main__":
    main()
