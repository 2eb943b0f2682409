"""Does the demo end as it should with other seeds than its own? Draws its world anew and runs its study, several times.

    python tests/benchmarks/demo.py --out runs/demo-seeds --times 10 --results tests/benchmarks/results/demo.md

Run number k draws the world with seed k and trains with ten seeds of its own. It agrees when the winner holds after
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

from published import END, REMARKS, made_here, publish

import prune.__main__
import transfer.__main__
from transfer.pages.tables import interval_text
from transfer.verdicts.analysis import analyse
from transfer.verdicts.headline import headline_rows, smallest_holding, verdict_line
from transfer.verdicts.results_file import load_results
from transfer.verdicts.speed_up_rows import bounded_text

PAGE = f"""# The demo with other seeds

{{made}}.
`python tests/benchmarks/demo.py --out runs/demo-seeds --times {{times}} --results FILE`

Each run draws another world and trains with ten other seeds. It agrees when the smallest keep holds after the
correction, all data need more compute for its accuracy beyond doubt, all data end between 60 and 95 %, and random at
the same keep loses by more than the margin. {{agreed}} of {{times}} agree.

Against all data: points, with 95 % intervals; random at the same keep likewise. The speed-up is what all data need for
the kept part's accuracy, over its cost with everything counted.

{REMARKS}
{END}

| run | all data | smallest keep that holds | against all data | corrected | random | speed-up, one use | agrees |
|---:|---:|---|---:|---|---:|---:|---|
{{rows}}
"""
PROGRAMS = {"prune": prune.__main__.main, "transfer": transfer.__main__.main}
MAKEFILE = Path(__file__).parents[2] / "Makefile"


def commands(out: Path, number: int) -> list[list[str]]:
    """The demo's commands from the Makefile, in another directory, with other seeds."""
    recipe = MAKEFILE.read_text(encoding="utf-8").split("\ndemo:")[1].split("\n\n")[0].replace("\\\n", " ")
    text = recipe.replace("$(DEMO)", str(out)).replace("$(BIN)/", "").replace("@", "")
    lines = [re.sub(r"^\s*(\w+=\S+ )*", "", line) for line in text.splitlines()[1:]]  # without variables in front
    found = [shlex.split(line) for line in lines if line.strip()]
    seeds = " ".join(str(100 * number + k) for k in range(10))
    found[0] += ["--seed", str(number)]
    found[1] = shlex.split(re.sub(r"--seeds( \d+)+", f"--seeds {seeds}", shlex.join(found[1])))
    return found


def judged(study: Path) -> tuple[bool, str, list[str]]:
    """Whether a study ended as the demo should, its verdict, and the cells of its row in the table."""
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
    cells = [f"{rows['full', 1.0]['mean']:.1f}"]
    if winner is not None:
        fast = winner["speed_up"]["1"]
        cells += [
            f"`{winner['method']}` {winner['keep']:g}",
            interval_text(winner["full"], 1),
            winner["verdict_corrected"],
        ]
        cells += [f"{random:+.1f}", f"{bounded_text(fast)} (from {fast['low']:.1f})"]
    return agrees, verdict_line(analysis), cells + [""] * (6 - len(cells))


def main() -> None:
    """Run the demo several times and count how often it agrees."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--results", type=Path, help="Markdown file to write")
    config = parser.parse_args()
    agreed, lines = 0, []
    for number in range(1, config.times + 1):
        folder = config.out / str(number)
        for command in commands(folder, number):
            if code := PROGRAMS[command[0]](command[1:]):
                raise SystemExit(code)
        does, line, cells = judged(folder / "study")
        agreed += does
        lines.append("| " + " | ".join([str(number), *cells, "yes" if does else "**no**"]) + " |")
        print(f"{number}: {'agrees' if does else 'DIFFERS'}: {line}", flush=True)
    print(f"{agreed} of {config.times} agree")
    if config.results is not None:
        publish(config.results, PAGE.format(made=made_here(), times=config.times, agreed=agreed, rows="\n".join(lines)))
    raise SystemExit(0 if agreed >= 0.9 * config.times else 1)


if __name__ == "__main__":
    main()
