"""The acceptance test of a language model: perplexity on held-out text, and the likelihood of reference continuations.

Perplexity is exp of the mean negative log likelihood of a token over all predictions of the held-out windows. A
prompt's statistic is the mean log likelihood of a token of its continuation, in nats; a group's is the mean over its
prompts, each of which counts the same. The candidate is compared with the original on the same windows and prompts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from transfer.compression.acceptance import Decision
from transfer.language.prompts import Prompts

Logits = Callable[[np.ndarray], np.ndarray]
"""Tokens (b, t) int64 -> logits (b, t, vocabulary) float32."""
_NUMBERS = 1 << 24  # logits in memory at a time


@dataclass(frozen=True)
class Measured:
    """What a network does on the held-out text and on the prompts.

    Attributes
    ----------
    text_loss : (w,) float64
        Mean negative log likelihood of each window's tokens; infinite where a logit is not finite.
    text_hits : float
        Share of the tokens that are the most likely ones.
    case_loss : (n,) float64
        Mean negative log likelihood of the tokens of each prompt's continuation.
    case_hits : (n,) float64
        Share of these tokens that are the most likely ones.
    """

    text_loss: np.ndarray
    text_hits: float
    case_loss: np.ndarray
    case_hits: np.ndarray

    @property
    def perplexity(self) -> float:
        """On the held-out text."""
        return float(np.exp(min(self.text_loss.mean(), 700.0)))


@dataclass(frozen=True)
class TextMargins:
    """How much may be lost against the original; None: any loss is allowed.

    Attributes
    ----------
    perplexity : float or None
        Percent by which perplexity may rise.
    group : float or None
        Nats by which a token's log likelihood may fall in each group of prompts.
    slack : float
        Standard errors of a loss that are allowed in addition to its margin.
    """

    perplexity: float | None = 3.0
    group: float | None = 0.1
    slack: float = 0.0


@dataclass(frozen=True)
class TextTest:
    """Held-out windows and prompts in memory, what the original does on them, and the margins.

    Attributes
    ----------
    windows : (w, t) int64
    prompts : Prompts
    margins : TextMargins
    original : Measured
    """

    windows: np.ndarray
    prompts: Prompts
    margins: TextMargins
    original: Measured

    def decide(self, logits: Logits) -> tuple[Decision, Measured]:
        """Test a candidate."""
        return self._judged(measure(logits, self.windows, self.prompts))

    def decide_original(self) -> tuple[Decision, Measured]:
        """The original compared with itself."""
        return self._judged(self.original)

    def _judged(self, found: Measured) -> tuple[Decision, Measured]:
        return decide(self.original, found, self.prompts.group, self.prompts.names, self.margins), found


def measure(logits: Logits, windows: np.ndarray, prompts: Prompts) -> Measured:
    """Measure a network on held-out windows and prompts, a few at a time."""
    whole = np.ones((len(windows), windows.shape[1] - 1), bool)
    text_loss, text_hits = _losses(logits, windows, whole)
    case_loss, case_hits = _losses(logits, prompts.tokens, prompts.asked)
    return Measured(text_loss, float(text_hits.mean()), case_loss, case_hits)


def _losses(logits: Logits, tokens: np.ndarray, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean negative log likelihood and share of hits over the predictions `asked` of every row."""
    losses, hits = np.zeros(len(tokens)), np.zeros(len(tokens))
    at, step = 0, 1
    while at < len(tokens):
        part = slice(at, at + step)
        found = logits(tokens[part])
        for row, (given, wanted, mask) in enumerate(zip(found, tokens[part], asked[part])):
            chosen = given[:-1][mask].astype(np.float64)
            losses[at + row], hits[at + row] = _row(chosen, wanted[1:][mask])
        at += step
        step = max(1, min(64, _NUMBERS // (tokens.shape[1] * found.shape[2])))
    return losses, hits


def _row(logits: np.ndarray, wanted: np.ndarray) -> tuple[float, float]:
    if not np.isfinite(logits).all():
        return math.inf, 0.0
    top = logits.max(1)
    total = np.log(np.exp(logits - top[:, None]).sum(1)) + top
    mine = logits[np.arange(len(wanted)), wanted]
    return float((total - mine).mean()), float((logits.argmax(1) == wanted).mean())


def decide(
    original: Measured, candidate: Measured, group: np.ndarray, names: Sequence[str], margins: TextMargins
) -> Decision:
    """Compare a candidate with the original.

    A loss equal to its margin is allowed. One group that exceeds its margin is enough for a rejection, however much the
    others gain: Guo et al., "Safety-Guided Self Compression", 2025. Standard errors are those of the mean of paired
    differences, over windows or over the prompts of a group.

    Parameters
    ----------
    original, candidate : Measured
    group : (n,) int
        Group of every prompt.
    names : sequence of str
    margins : TextMargins

    Examples
    --------
    >>> a, b = (Measured(np.log([8.0, 8.0]), 0.5, np.array([1.0]), np.ones(1)) for _ in range(2))
    >>> decide(a, b, np.array([0]), ["dates"], TextMargins()).reason
    'within the margins'
    """
    change = candidate.text_loss - original.text_loss
    before, after = original.perplexity, candidate.perplexity
    rise = 100 * (after / before - 1) if np.isfinite(change).all() else math.inf
    error = 100 * after / before * _error(change) if math.isfinite(rise) else math.inf
    tests = [_test("perplexity", before, after, rise, error, margins.perplexity, margins.slack)]
    for number, name in enumerate(names):
        rows = group == number
        was, now = original.case_loss[rows], candidate.case_loss[rows]
        lost = float((now - was).mean())
        tests.append(_test(name, -was.mean(), -now.mean(), lost, _error(now - was), margins.group, margins.slack))
    broken = [one for one in tests if not one["holds"]]
    numbers = np.isfinite(candidate.text_loss).all() and np.isfinite(candidate.case_loss).all()
    reasons = [
        f"{one['test']}: {_short(one['lost'])}{'' if k else ' %'} ± {_short(one['error'])} lost, "
        f"{one['allowed']:.3g} are allowed"
        for k, one in ((tests.index(one), one) for one in broken)
    ]
    if not numbers:
        reasons.append("some logits are no finite numbers")
    used = [_used(one) for one in tests]
    nearest = max(range(1, len(tests)), key=lambda k: math.inf if used[k] is None else used[k] or 0.0, default=0)
    beyond = [_beyond(one) for one in broken]
    return Decision(
        accepted=not reasons,
        reason="; ".join(reasons) or "within the margins",
        accuracy=candidate.text_hits,
        per_class=tuple(float(candidate.case_hits[group == k].mean()) for k in range(len(names))),
        overall_used=used[0],
        class_used=used[nearest] if nearest else None,
        nearest=names[nearest - 1] if nearest else "",
        beyond=None if not broken or not numbers or None in beyond else max(b for b in beyond if b is not None),
        tests=tuple(one for one in tests if one["margin"] is not None),
    )


def _test(
    name: str, original: float, value: float, lost: float, error: float, margin: float | None, slack: float
) -> dict[str, Any]:
    allowed = (margin or 0.0) + slack * (error if math.isfinite(error) else 0.0)
    return {
        "test": name,
        "original": _recorded(original),
        "value": _recorded(value),
        "lost": _recorded(lost),
        "error": _recorded(error),
        "margin": margin,
        "allowed": round(allowed, 6),
        "holds": bool(margin is None or lost <= allowed + 1e-9),  # NaN does not hold
    }


def _used(one: Mapping[str, Any]) -> float | None:
    if one["margin"] is None or one["lost"] is None:
        return None
    return float(round(one["lost"] / one["allowed"] if one["allowed"] > 0 else one["lost"], 6))


def _beyond(one: Mapping[str, Any]) -> float | None:
    if one["lost"] is None or not one["error"]:
        return None
    return float(round((one["lost"] - one["margin"]) / one["error"], 3))


def _error(change: np.ndarray) -> float:
    """Standard error of a mean of differences; 0 for a single one."""
    if not np.isfinite(change).all():
        return math.inf
    return float(change.std(ddof=1) / math.sqrt(len(change))) if len(change) > 1 else 0.0


def _recorded(value: float) -> float | None:
    return round(float(value), 6) if math.isfinite(value) else None


def _short(value: float | None) -> str:
    return "inf" if value is None else f"{value:.3g}"
