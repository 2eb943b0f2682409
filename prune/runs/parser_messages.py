"""What the parser of flags prints in a box of many lines, as one line, with what was perhaps meant."""

from __future__ import annotations

import re


def one_line(said: str, program: str) -> str:
    """The box in which tyro says why it refuses a command line, as one line; other text as it is, in one line.

    Examples
    --------
    >>> box = "╭─ Unrecognized options ─╮\\n│ Unrecognized options: --kep │\\n│ ───── │\\n│ Perhaps you meant: │\\n"
    >>> one_line(box + "│     --keep FLOAT │\\n│         Share. │\\n╰──────╯\\n", "prune select")
    'Unrecognized options: --kep; perhaps you meant --keep; `prune select --help` explains the flags'
    """
    lines = re.sub(r"\x1b\[[0-9;]*m", "", said).splitlines()
    if len(lines) < 2 or not (lines[0].startswith("╭") or re.fullmatch(r" -{3,} *", lines[1])):
        return " ".join(said.split())
    # Below the title; the frame is drawn with lines, or with blanks where the output is not UTF-8.
    inside = [line.rstrip("│ ")[2:] for line in lines[1:] if not line.startswith("╰")]
    parts = []
    for section in re.split(r"(?m)^[─-]{3,}$", "\n".join(inside)):
        head, *below = [line for line in section.splitlines() if line] or [""]
        # What is named stands four columns in, and its help farther.
        named = [line.strip() for line in below if re.match(r" {4}\S", line)]
        if head.startswith("Missing from"):
            parts.append(f"missing: {', '.join(' '.join(one.split()[:2]) for one in named)}")
        elif head.startswith("Perhaps you meant"):
            parts.append(f"perhaps you meant {' or '.join(one.split()[0].rstrip(',') for one in named)}")
        elif head.startswith("Unrecognized options:"):
            parts.append(" ".join([head, *named]))
        elif head and not parts and not head.startswith(("For full helptext", "Argument helptext")):
            parts.append(head.strip().rstrip("."))
    return "; ".join([*parts, f"`{program} --help` explains the flags"])
