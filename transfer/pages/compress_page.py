"""The page of compressions: accuracy against size and latency, each compression journal, classes near their margin."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from prune.runs.files import counted
from transfer.compression import journal
from transfer.compression.journal import ACCEPTED, ROLLED_BACK, Entry
from transfer.compression.removed_parts import layer_texts
from transfer.pages import curves_page
from transfer.pages.curves_page import Chart, Curve, Section


class _Words(NamedTuple):
    """What the page calls the measurements of its runs."""

    accuracy: str
    accuracy_text: str
    one_input: str
    part: str
    parts: str
    rises: str
    tests: str


_OF_IMAGES = _Words(
    accuracy="accuracy %",
    accuracy_text="Accuracy on the preservation set",
    one_input="One image, one thread",
    part="class",
    parts="classes",
    rises="the classes whose loss rises most without it, to first order on the target's training images",
    tests="Accuracies and calibration errors in points, a metric of your own in its unit.",
)
_OF_TEXT = _Words(
    accuracy="tokens predicted right %",
    accuracy_text="Share of the held-out text's tokens that are predicted right",
    one_input="One window of text, one thread",
    part="group",
    parts="groups of prompts",
    rises="the groups of prompts whose loss rises most without it, to first order",
    tests="Perplexity on held-out text, which may rise by percent; of each group of prompts the mean log likelihood of "
    "a continuation's token, which may fall by nats.",
)
_OF_BOTH = _OF_IMAGES._replace(
    accuracy="accuracy, or tokens predicted right, %",
    accuracy_text=f"{_OF_IMAGES.accuracy_text}; of language models: {_OF_TEXT.accuracy_text[0].lower()}"
    f"{_OF_TEXT.accuracy_text[1:]}",
    one_input="One image or window of text, one thread",
    tests=f"{_OF_IMAGES.tests} Of language models: {_OF_TEXT.tests[0].lower()}{_OF_TEXT.tests[1:]}",
)


def _words(runs: Iterable[Sequence[Entry]]) -> _Words:
    kinds = {is_text(lines) for lines in runs}
    return _OF_BOTH if len(kinds) > 1 else _OF_TEXT if kinds == {True} else _OF_IMAGES


def is_text(lines: Sequence[Entry]) -> bool:
    """Whether a journal is that of a language model."""
    return "perplexity" in lines[0]


def header_of(runs: Iterable[Sequence[Entry]]) -> tuple[str, ...]:
    """Header of the table whose rows are `step_texts`, for the journals of these runs."""
    words = _words(runs)
    figures = ("ratio", "parameters %", "MB", "M multiply-adds", "ms", words.accuracy)
    return ("run and step", "kind", *figures, f"nearest {words.part}", "its margin used %", "verdict", "reason")


TESTS_HEADER = ("run and step", "test", "original", "measured", "lost", "may be lost", "holds")
_NEAREST = 5
_GAP = math.nan


def compression_html(runs: Mapping[str, tuple[Sequence[Entry], Mapping[str, Any]]]) -> str:
    """The page as text.

    Parameters
    ----------
    runs : mapping
        Name to the entries of the run's journal and its settings (config.json).
    """
    words = _words(lines for lines, _ in runs.values())
    against = [
        Chart("On disk", "file, % of the original", words.accuracy, _curves(runs, "bytes")),
        Chart("Arithmetic", "multiply-adds, % of the original", words.accuracy, _curves(runs, "macs")),
    ]
    timed = {
        name: (lines, config)
        for name, (lines, config) in runs.items()
        if all(_kept_values(lines, "latency_ms", absolute=True))
    }
    if timed:
        against.append(Chart(words.one_input, "ms", words.accuracy, _curves(timed, "latency_ms", absolute=True)))
    sizes = [Chart(name, "step", "parameters, % of the original", _sizes(name, runs[name][0])) for name in runs]
    used = [Chart(name, "step", "margin used, %", _used(runs[name][0])) for name in runs]
    sections = [
        Section(
            "Accuracy against size and latency",
            f"{words.accuracy_text}, from the original (right) through every step of the current model.",
            against,
        ),
        Section(
            "The compression journal",
            "Size after each step. A step that its test rolled back is a spike down to the size that it tried; a "
            "rollback by hand is a step up.",
            sizes,
        ),
        Section(
            "Margins used",
            f"The part of its margin that each tried step used, overall and for the {words.part} nearest to its "
            "margin, whether or not the current model contains the step. Above 100 % the acceptance test rejects the "
            "step; below 0 something was gained.",
            used,
        ),
    ]
    header = header_of(lines for lines, _ in runs.values())
    table = (header, [step_texts(name, line, lines) for name, (lines, _) in runs.items() for line in lines])
    note = f"{words.parts.capitalize()} nearest to their margin in the current model. " + " ".join(
        f"{name}: {nearest_text(lines, config)}." for name, (lines, config) in runs.items()
    )
    removed = [row for name, (lines, _) in runs.items() for line in lines for row in removed_texts(name, line)]
    more = (
        "What each step removed",
        "Of each layer: how much of it, with the importance and the rank there from the least important on (rank 1 is "
        f"the most important channel), and {words.rises}. `transfer explain` lists single channels.",
        ("run and step", "layer", "removed", "importance", "rank", f"{words.parts} served most", "channels"),
        removed,
    )
    tests = (
        "The tests of each step",
        f"{words.tests} A step is accepted when all hold.",
        TESTS_HEADER,
        [row for name, (lines, _) in runs.items() for line in lines for row in test_texts(name, line)],
    )
    title = "compression" if len(runs) > 1 else f"compression, {next(iter(runs))}"
    return curves_page.curves_html(
        title,
        outcome_sentences(runs),
        sections,
        table,
        note,
        {name: config for name, (_, config) in runs.items()},
        more=[table for table in (tests, more) if table[-1]],
    )


def outcome_sentences(runs: Mapping[str, tuple[Sequence[Entry], Mapping[str, Any]]]) -> str:
    """How small and how accurate each model became, in one sentence per run."""
    return " ".join(f"{name}: {_outcome(lines)}." for name, (lines, _) in runs.items())


def _outcome(lines: Sequence[Entry]) -> str:
    first, final = lines[0], lines[journal.current_step(lines)]
    points = 100 * (final["accuracy"] - first["accuracy"])
    times = ""
    if first["latency_ms"] and final["latency_ms"]:
        times = f", {first['latency_ms'] / final['latency_ms']:.1f}x as fast"
    quality = f"{points:+z.1f} points on the preservation set"
    if "perplexity" in final:
        quality = f"perplexity {first['perplexity']} to {final['perplexity']} on held-out text"
    text = f"{100 * final['bytes'] / first['bytes']:.1f} % of the file{times}, {quality}; {_counts(lines)}"
    back = any(line["kind"] == "rollback" for line in lines)
    return f"the model of step {final['step']}: {text}" if back else text


def _counts(lines: Sequence[Entry]) -> str:
    """How many steps the model consists of, and what became of the others."""
    rejected = [line for line in lines if line["verdict"] == ROLLED_BACK]
    empty = sum(not line.get("counted", True) for line in rejected)
    parts = [
        f"{counted(len(journal.kept_steps(lines)) - 1, 'step', 'steps')} accepted",
        f"{len(rejected) - empty} rolled back",
    ]
    if undone := journal.undone_steps(lines):
        named = ", ".join(map(str, undone))
        parts.append(f"{counted(len(undone), 'accepted step', 'accepted steps')} ({named}) undone by a later rollback")
    if empty:
        parts.append(f"{counted(empty, 'attempt', 'attempts')} with nothing to remove")
    return ", ".join(parts)


def nearest_classes(lines: Sequence[Entry], config: Mapping[str, Any]) -> list[tuple[str, float, float | None]]:
    """Classes nearest to their margin in the current model: name, points lost, share of the margin.

    The share is None without a margin, and where the margin is 0. Of equal losses the earlier class comes first.
    """
    first, final = lines[0], lines[journal.current_step(lines)]
    margin = config.get("class_margin")
    lost = {
        name: 100 * (before - final["per_class"][name])
        for name, before in first["per_class"].items()
        if before is not None and final["per_class"].get(name) is not None
    }
    worst = sorted(lost, key=lambda name: -lost[name])[:_NEAREST]
    return [(name, lost[name], lost[name] / margin if margin else None) for name in worst]


def nearest_text(lines: Sequence[Entry], config: Mapping[str, Any]) -> str:
    """`newt 4.0 points lost (40 % of its margin), cat ...`."""
    parts = []
    if is_text(lines):
        found = _nearest_groups(lines[journal.current_step(lines)])
        parts = [f"{name} {lost:.3g} nats lost ({100 * used:.0f} % of its margin)" for name, lost, used in found]
        return ", ".join(parts) or "none"
    for name, lost, share in nearest_classes(lines, config):
        change = f"{lost:.1f} points lost" if lost > 0 else f"{-lost:.1f} points gained" if lost < 0 else "nothing lost"
        parts.append(f"{name} {change}" + (f" ({100 * share:.0f} % of its margin)" if share is not None else ""))
    return ", ".join(parts) or "none"


def _nearest_groups(final: Entry) -> list[tuple[str, float, float]]:
    """Groups of prompts nearest to their margin: name, nats lost, share of what may be lost."""
    tests = [one for one in final.get("tests", ()) if one["test"] != "perplexity" and one["lost"] is not None]
    used = [(one["test"], one["lost"], one["lost"] / one["allowed"]) for one in tests if one.get("allowed")]
    return sorted(used, key=lambda one: -one[2])[:_NEAREST]


def step_texts(name: str, line: Entry, lines: Sequence[Entry]) -> list[str]:
    """Texts of one step for the columns of `header_of`."""
    ratio, used, kind, verdict = line["what"].get("ratio"), line["class_used"], line["kind"], line["verdict"]
    if kind == "rollback":  # the figures are those of the step whose model came back
        kind, verdict = f"rollback to step {line['what']['to']}", ""
    elif (by := journal.undone_steps(lines).get(line["step"])) is not None:
        verdict = f"{verdict}, undone by {by}"
    return [
        f"{name} {line['step']}",
        kind,
        f"{ratio:.3g}" if ratio else "",
        f"{100 * line['params'] / lines[0]['params']:.1f}",
        f"{line['bytes'] / 1e6:.2f}",
        f"{line['macs'] / 1e6:.1f}",
        f"{line['latency_ms']:.2f}" if line["latency_ms"] else "",
        f"{100 * line['accuracy']:.2f}",
        line["nearest"] if line["step"] else "",
        f"{100 * used:.0f}" if used is not None and line["step"] else "",
        verdict,
        journal.reason(line) if line["step"] else set_text(line),
    ]


def set_text(line: Entry) -> str:
    """Version of the preservation set on which a run was tested, from its first entry; "" of older runs."""
    named = line["what"].get("preserve")
    return f"preservation set: version {named['version']}, {named['images']} images" if named else ""


def test_texts(name: str, line: Entry) -> list[list[str]]:
    """Texts of the tests of one step, for the columns of `TESTS_HEADER`; none of the original and of older versions."""

    def number(value: float | None) -> str:
        return "not finite" if value is None else f"{value:.4g}"

    if not line["step"] or line["kind"] == "rollback":
        return []
    return [
        [
            f"{name} {line['step']}",
            one["test"],
            *(number(one[key]) for key in ("original", "value", "lost")),
            number(one.get("allowed", one["margin"])),
            "yes" if one["holds"] else "no",
        ]
        for one in line.get("tests", ())
    ]


def removed_texts(name: str, line: Entry) -> list[list[str]]:
    """Texts of what one step removed, a row per layer: step, layer, how much, importance, rank, classes, channels."""
    return [
        [f"{name} {line['step']}", *layer_texts(one), ", ".join(map(str, one.get("channels", ())))]
        for one in line["what"].get("removed", ())
    ]


def _kept_values(lines: Sequence[Entry], key: str, *, absolute: bool = False) -> list[float]:
    whole = 1 if absolute else lines[0][key] / 100
    return [(line[key] or 0) / whole for line in journal.kept_steps(lines)]


def _curves(
    runs: Mapping[str, tuple[Sequence[Entry], Mapping[str, Any]]], key: str, *, absolute: bool = False
) -> list[Curve]:
    found = []
    for name, (lines, _) in runs.items():
        y = [100 * line["accuracy"] for line in journal.kept_steps(lines)]
        found.append(Curve(name, _kept_values(lines, key, absolute=absolute), y, [0.0] * len(y)))
    return found


def _sizes(name: str, lines: Sequence[Entry]) -> list[Curve]:
    """Size of the kept model after each step, as stairs; and a spike for each step that was rolled back."""
    share = [100 * line["params"] / lines[0]["params"] for line in lines]
    x, y, spike_x, spike_y = [0.0], [100.0], list[float](), list[float]()
    for number, line in enumerate(lines[1:], 1):
        before = y[-1]
        x += [number, number]
        y += [before, share[journal.current_step(lines[: number + 1])]]
        if line["verdict"] == ROLLED_BACK:
            gap = [_GAP] if spike_x else []
            spike_x += [number for _ in gap] + [number, number]
            spike_y += [*gap, before, share[number]]
    found = [Curve(name, x, y, [0.0] * len(x))]
    return [*found, Curve("rolled back", spike_x, spike_y, [0.0] * len(spike_x))] if spike_x else found


def _used(lines: Sequence[Entry]) -> list[Curve]:
    found = []
    tried = [line for line in lines[1:] if line["verdict"] in (ACCEPTED, ROLLED_BACK) and line["kind"] != "rollback"]
    for name, key in (("overall", "overall_used"), (f"nearest {_words([lines]).part}", "class_used")):
        known = [line for line in tried if line[key] is not None]
        if known:
            y = [100 * line[key] for line in known]
            found.append(Curve(name, [line["step"] for line in known], y, [0.0] * len(y)))
    return found
