"""What a study means for the reader's own training, in sentences: the smallest keep that holds, and what it saves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transfer.verdicts.headline import (
    condition_text,
    cost_of,
    headline_rows,
    isolated_holding,
    pruned_rows,
    smallest_holding,
)
from transfer.verdicts.keep_search import keeps_that_hold, most_accurate_keep, smallest_keep
from transfer.verdicts.speed_up_rows import speed_up_sentences
from transfer.verdicts.surrogate_choice import Prediction, choice_sentence


def advice_sentences(analysis: Mapping[str, Any]) -> list[str]:
    """Sentences about the smallest keep that holds, how it was searched, and the gate; empty without full data."""
    tried = [r for r in pruned_rows(analysis) if r["full"] is not None]
    if not tried:
        return []
    row = smallest_holding(analysis)
    margin, compute = f"{analysis['margin']:g} points", analysis["config"].get("compute")
    if row and compute:
        sentences = [
            f"At {100 * compute:g} % of the compute of full pretraining, everything counted, {condition_text(row)} is "
            f"shown to stay within {margin} of full data."
        ]
    elif row:
        sentences = [
            f"The smallest keep that holds is {row['keep']:g} ({row['method']}): trained on {100 * row['keep']:g} % of "
            f"the images, the backbone is shown to stay within {margin} of full data."
        ]
        sentences += _saving(analysis, row)
    elif isolated := isolated_holding(analysis):
        sentences = [
            f"{condition_text(isolated)} is shown to hold and no larger keep is: no smallest keep is named before more "
            "seeds or test images have decided."
        ]
    else:
        keeps = ", ".join(f"{keep:g}" for keep in sorted({r["keep"] for r in tried}))
        lost = all(r["verdict"] == "loses" for r in tried)
        result = f"loses more than {margin}" if lost else f"is not shown to stay within {margin} of full data"
        nearest = max(tried, key=lambda r: r["full"]["value"])
        gap = nearest["full"]["value"]
        sentences = [
            f"Every keep that was tried ({keeps}) {result}: the smallest keep that holds is 1, all data, and it saves "
            "nothing."
            if not compute
            else f"At {100 * compute:g} % of the compute every keep that was tried ({keeps}) {result}.",
            f"Nearest is {condition_text(nearest)}, {abs(gap):.1f} points {'below' if gap < 0 else 'above'} full data.",
        ]
        saved = _saving(analysis, nearest)
        if saved and saved[0].startswith("It saves"):
            sentences.append(saved[0].replace("It saves", "If that were good enough, it would save"))
    gate = analysis.get("gate")
    found = [Prediction(**one) for one in analysis["surrogates"]]
    surrogate = [choice_sentence(found, analysis["config"].get("uses", 1))] if found else []
    if start := analysis["config"].get("init"):
        surrogate.append(
            f"Every backbone started from the weights in {start}, all data's and random's too: the differences are "
            "what pruning adds to a warm start."
        )
    search = surrogate + _search(analysis) + ([gate["text"]] if gate else [])
    return speed_up_sentences(analysis) + sentences + search


def _saving(analysis: Mapping[str, Any], row: Mapping[str, Any]) -> list[str]:
    cost = cost_of(analysis, row)
    if not cost or cost["total_flops"] is None:
        return []
    once, many = 1 - cost["total_flops"], 1 - 1 / cost["factor_flops"]["10"]
    if once <= 0:
        uses = cost["break_even_uses_flops"]
        later = f"it pays from use {uses} on" if uses else "it never pays"
        return [f"With one use of the index it saves nothing and costs {-100 * once:.0f} % more compute; {later}."]
    return [
        f"It saves {100 * once:.0f} % of the compute of a pretraining on full data with one use of the index, "
        f"surrogate and selection counted, and {100 * many:.0f} % with ten uses."
    ]


def _search(analysis: Mapping[str, Any]) -> list[str]:
    search = analysis.get("search")
    if not search or search.get("predicted") is None:
        return []
    ladder = ", ".join(f"{keep:g}" for keep in search["ladder"])
    if search.get("compute"):
        return [_compute_search(analysis, search, ladder) + _search_cost(analysis)]
    found = keeps_that_hold(headline_rows(analysis))
    confirmed = ", ".join(f"{keep:g} {'holds' if does else 'does not'}" for keep, does in sorted(found.items()))
    text = (
        f"The keep was searched on the ladder {ladder}: small networks predicted {search['predicted']:g}, the backbone "
        f"confirmed: {confirmed}; the answer is {smallest_keep(found):g}."
    )
    return [text + _search_cost(analysis)]


def _compute_search(analysis: Mapping[str, Any], search: Mapping[str, Any], ladder: str) -> str:
    found = {keep: 100 * accuracy for keep, accuracy in search["confirmed"]}
    text = (
        f"For {100 * search['compute']:g} % of the compute of full pretraining, everything counted, the keep was "
        f"searched on the ladder {ladder}: small networks predicted {search['predicted']:g}"
    )
    if not found:
        return f"{text}."
    best, full = most_accurate_keep(found), analysis["ledger"]["full"]
    row = max((row for row in pruned_rows(analysis) if row["keep"] == best), key=lambda row: row["mean"], default=None)
    cost = row and cost_of(analysis, row)
    passes = ""
    if cost and full and full["flops"] and cost["pretraining"]["flops"]:
        passes = f", with {cost['pretraining']['flops'] / full['flops'] / best:.1f} times the epochs of full data"
    confirmed = ", ".join(f"{keep:g} gives {accuracy:.1f} %" for keep, accuracy in sorted(found.items()))
    return (
        f"{text}, the backbone confirmed, on images held out of the targets' training images: {confirmed}; the best is "
        f"{best:g}{passes}."
    )


def _search_cost(analysis: Mapping[str, Any]) -> str:
    spent = next((one["flops"] for one in analysis["ledger"]["stages"] if one["stage"] == "search"), 0.0)
    full = analysis["ledger"]["full"]
    if not (spent and full and full["flops"]):
        return ""
    return f" The ladder cost {100 * spent / full['flops']:.0f} % of one pretraining on full data."
