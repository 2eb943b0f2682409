"""How each method of a study is drawn, the same in every figure: a colour, a marker and a dash."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from transfer.verdicts.controls import EQUAL_TIME, FULL_EQUAL, FULL_LENGTH, RANDOM_EQUAL


class Look(NamedTuple):
    """How a method is drawn; `glyph` is its marker as a character, for the legend."""

    color: str
    symbol: str
    dash: str
    glyph: str


CONTROL_LOOKS = {
    "full": Look("#7d7d7d", "line-ew", "dash", "- -"),
    "random": Look("#7d7d7d", "circle-open", "solid", "○"),
    FULL_EQUAL: Look("#7d7d7d", "diamond-open", "dot", "◇"),
    RANDOM_EQUAL: Look("#7d7d7d", "square-open", "dot", "□"),
    EQUAL_TIME: Look("#7d7d7d", "square-open", "dot", "□"),
    FULL_LENGTH: Look("#7d7d7d", "triangle-up-open", "dash", "△"),
}
# Middle tones: at least 3:1 against white and against the page's dark ground.
_LOOKS = (
    Look("#2f7de1", "circle", "solid", "●"),
    Look("#e0690a", "diamond", "solid", "◆"),
    Look("#129a5b", "square", "solid", "■"),
    Look("#c63f9b", "triangle-up", "solid", "▲"),
    Look("#8a63e8", "cross", "solid", "✚"),
    Look("#0e8fa8", "x", "solid", "✖"),
    Look("#b5820a", "star", "solid", "★"),
)


def looks(methods: Sequence[str]) -> dict[str, Look]:
    """A look for every method; `winnow` has the first."""
    free = [m for m in methods if m not in CONTROL_LOOKS]
    free.sort(key=lambda m: m != "winnow")
    return {m: CONTROL_LOOKS[m] for m in methods if m in CONTROL_LOOKS} | {
        m: _LOOKS[place % len(_LOOKS)] for place, m in enumerate(free)
    }
