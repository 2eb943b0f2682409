"""Says why a sample was kept or dropped, and what a class kept: from a decision, as facts and in sentences.

    why = Explainer(pool, decision, rules)
    why.sample(row)["text"]      # sentences
    why.of_class(label)["votes"]

The facts are those of the decision itself, so that they agree with the index.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from prune.methods.decision import Decision, Rules, gate_of
from prune.methods.quota import floors_of
from prune.methods.selection_inputs import Pool, wanted_targets
from prune.methods.stages import Stage

_CAUSES = {
    "never": "it is on the list of --never",
    "suspect": "its label looks wrong (--drop-suspects)",
    "leak": "it nearly duplicates a target's test image (--drop-leaks)",
    "gate": "the gate shut it out",
    "duplicate": "it is a near-duplicate of another image that may be kept",
}


class Explainer:
    """Facts and sentences about samples and classes of a selection.

    Parameters
    ----------
    pool : Pool
    decision : Decision
    rules : Rules
        Those that were decided by.
    """

    def __init__(self, pool: Pool, decision: Decision, rules: Rules) -> None:
        self.pool, self.decision = pool, decision
        self.gate = gate_of(rules, pool.arrays, pool.meta)
        self.targets = wanted_targets(pool.meta.get("targets", []), rules.targets)
        self.kept = np.zeros(len(pool.label), bool)
        self.kept[decision.choice.rows] = True
        self._size = np.bincount(pool.label, minlength=len(pool.classes))
        self._kept = np.bincount(pool.label[self.kept], minlength=len(pool.classes))
        self._floor = floors_of(rules.floor or 0, self._size)

    def sample(self, row: int) -> dict[str, Any]:
        """Why sample `row` is kept or dropped.

        Returns
        -------
        dict
            "id", "class", "kept", "reason" (of the index; None when dropped), "cause" (why it is dropped; None when
            kept), "gate", "of_class", "orders", "duplicates", "text" (list of sentences).
        """
        label, kept = int(self.pool.label[row]), bool(self.kept[row])
        orders = [self._order(stage, row) for stage in self.decision.stages if stage.place[row] >= 0]
        cause = None if kept else self._cause(row)
        found = {
            "id": self._name(row),
            "class": self.pool.classes[label],
            "kept": kept,
            "reason": self._reason(row) if kept else None,
            "cause": cause,
            "gate": self._gate(row),
            "of_class": self._counts(label),
            "orders": orders,
            "duplicates": self._duplicates(row),
        }
        return found | {"text": self._sentences(row, found)}

    def of_class(self, label: int) -> dict[str, Any]:
        """What class `label` keeps, and why the rest of it is dropped.

        Returns
        -------
        dict
            "class", "of_class", "reasons" and "causes" (how many are kept and dropped for which), "needed_copies"
            (near-duplicates that are kept since the budget, a floor or a whole class needs them), "orders", "text".
        """
        rows = np.flatnonzero(self.pool.label == label)
        choice = self.decision.choice
        codes = choice.reason[self.pool.label[choice.rows] == label]
        causes = {name: int(mask[rows].sum()) for name, mask in self.decision.excluded.items()}
        causes["rank"] = int((~self.kept[rows]).sum()) - sum(causes.values())
        orders = [
            {key: value for key, value in self._order(stage, int(inside[0])).items() if key not in _OF_A_SAMPLE}
            for stage in self.decision.stages
            if len(inside := rows[stage.place[rows] >= 0])
        ]
        found = {
            "class": self.pool.classes[label],
            "of_class": self._counts(label),
            "reasons": {choice.reason_names[k]: int((codes == k).sum()) for k in np.unique(codes)},
            "causes": {name: count for name, count in causes.items() if count},
            "needed_copies": int((self.pool.label[self.decision.kept_copies()] == label).sum()),
            "orders": orders,
        }
        return found | {"text": self._class_sentences(found)}

    def _name(self, row: int) -> str:
        ids = self.pool.ids
        return str(row) if ids is None else bytes(ids[row]).decode("utf-8", "backslashreplace")

    def _reason(self, row: int) -> str:
        choice = self.decision.choice
        return str(choice.reason_names[choice.reason[np.searchsorted(choice.rows, row)]])

    def _cause(self, row: int) -> str:
        return next((name for name, mask in self.decision.excluded.items() if mask[row]), "rank")

    def _gate(self, row: int) -> dict[str, Any] | None:
        name = f"sample/{self.gate.score}"
        if name not in self.pool.arrays:
            return None
        odds = float(self.pool.arrays[name][row])
        shut = self.decision.excluded.get("gate")
        return {
            "score": self.gate.score,
            "odds": None if np.isnan(odds) else odds,
            "least": None if np.isnan(self.decision.least_odds) else self.decision.least_odds,
            "passed": shut is None or not bool(shut[row]),
        }

    def _counts(self, label: int) -> dict[str, Any]:
        choice, arrays = self.decision.choice, self.pool.arrays
        votes: dict[str, dict[str, float]] = {}
        for target in self.targets:
            for rule in ("lm", "lm-chance", "fm", "fm-chance"):
                if (name := f"class/{rule}/{target}") in arrays:
                    votes.setdefault(target, {})[rule] = round(float(arrays[name][label]), 4)
        ahead = choice.weight > choice.weight[label]
        by_votes, limits = self.decision.stages[:1], self.decision.limits
        if limits is None or not by_votes or by_votes[0].over_all:
            given, limit = None, None
        else:
            given, limit = int(by_votes[0].quota_of(label)), int(limits[label])
        return {
            "size": int(self._size[label]),
            "available": int(choice.available[label]),
            "quota": int(choice.quotas[label]),
            "kept": int(self._kept[label]),
            "weight": float(choice.weight[label]),
            "place": int(ahead.sum()) + 1 if np.ptp(choice.weight) else None,
            "whole": int(((choice.quotas >= choice.available) & (choice.available > 0)).sum()),
            "classes": len(choice.weight),
            "votes": votes,
            "floor": int(self._floor[label]),
            "by_votes": given,
            "limit": limit,
        }

    def _order(self, stage: Stage, row: int) -> dict[str, Any]:
        """Where a sample stands in one order, and what the last one that was taken there has."""
        label = self.pool.label
        inside = stage.place >= 0
        if not stage.over_all:
            inside &= label == label[row]
        quota, (score, _, way) = int(stage.quota_of(int(label[row]))), stage.rank.partition(":")
        values = self.pool.arrays.get(f"sample/{score}") if way in ("top", "bottom") else None
        last = np.flatnonzero(inside & (stage.place == quota - 1))
        threshold = None if values is None or not len(last) else float(values[last[0]])
        own = None if values is None else float(values[row])
        return {
            "part": stage.part,
            "rank": stage.rank,
            "over": "all" if stage.over_all else "class",
            "of": int(inside.sum()),
            "quota": quota,
            "threshold": threshold if threshold == threshold else None,
            "place": int(stage.place[row]) + 1,
            "score": own if own == own else None,
            "taken": bool(stage.place[row] < quota),
        }

    def _duplicates(self, row: int) -> list[dict[str, Any]]:
        of = self.pool.arrays.get("duplicate_of")
        if of is None or not len(of):
            return []
        original = int(of[row]) if of[row] >= 0 else row
        others = np.flatnonzero((np.asarray(of) == original) | (np.arange(len(of)) == original))
        return [{"id": self._name(k), "kept": bool(self.kept[k])} for k in others.tolist() if k != row]

    def _sentences(self, row: int, found: dict[str, Any]) -> list[str]:
        counts, gate, lines = found["of_class"], found["gate"], []
        if found["kept"]:
            why = f"reason {found['reason']}"
            if self.decision.floored is not None and self.decision.floored[row]:
                why = "a group that it is in keeps at least --floor-groups"
            lines.append(f"{found['id']} (class {found['class']}) is kept: {why}.")
        else:
            why = _CAUSES.get(found["cause"]) or _missed(found["orders"])
            lines.append(f"{found['id']} (class {found['class']}) is dropped: {why}.")
        if gate is not None and gate["least"] is not None:
            odds = "unknown" if gate["odds"] is None else f"{gate['odds']:.4g}"
            passed = "it did not pass" if not gate["passed"] else "it passed"
            if gate["passed"] and (gate["odds"] is None or gate["odds"] < gate["least"]):
                passed = "it passed all the same, for a floor, a protected class or --always"
            lines.append(f"Its log odds of looking like the targets ({gate['score']}) are {odds}; the gate is at "
                         f"{gate['least']:.4g}: {passed}.")  # fmt: skip
        lines += _class_lines(found["class"], counts)
        for order in found["orders"]:
            lines.append(_order_line(order, found["class"]))
        copies = [copy["id"] for copy in found["duplicates"] if copy["kept"]]
        if found["duplicates"]:
            named = ", ".join(copies[:5]) + (f" and {len(copies) - 5} more" if len(copies) > 5 else "")
            lines.append(f"Near-duplicates of it: {len(found['duplicates'])}; kept of them: {named or 'none'}.")
        return lines

    def _class_sentences(self, found: dict[str, Any]) -> list[str]:
        lines = _class_lines(found["class"], found["of_class"])
        if found["reasons"]:
            lines.append("Kept for: " + ", ".join(f"{name} {count}" for name, count in found["reasons"].items()) + ".")
        if found["causes"]:
            words = {"rank": "not reached by the rank", "gate": "shut out by the gate"}
            parts = (f"{words.get(name, name)} {count}" for name, count in found["causes"].items())
            lines.append("Dropped for: " + ", ".join(parts) + ".")
        if count := found["needed_copies"]:
            lines.append(f"Near-duplicates that are kept since the budget or a floor needs them: {count}.")
        for order in found["orders"]:
            lines.append(f"{_which(order, found['class'])}, {_taken(order)}.")
        return lines


_OF_A_SAMPLE = ("place", "score", "taken")


def _missed(orders: list[dict[str, Any]]) -> str:
    if all(order["quota"] == 0 for order in orders):
        return "its class keeps none, or no more than must be kept"
    return "its place in the order was not reached"


def _class_lines(name: str, counts: dict[str, Any]) -> list[str]:
    """What a class keeps, with its votes; what these are; and its place among the classes."""
    votes = []
    for target, by_rule in counts["votes"].items():
        for rule in ("lm", "fm"):
            if rule in by_rule:
                chance = f" ({by_rule[f'{rule}-chance']:.1f} by chance)" if f"{rule}-chance" in by_rule else ""
                votes.append(
                    f"{by_rule[rule]:g} {rule.upper()} vote{'' if by_rule[rule] == 1 else 's'} of {target}{chance}"
                )
    told = f"; it has {', '.join(votes)}" if votes else ""
    kept = f"Class {name} keeps {counts['kept']} of {counts['size']} images"
    lines = [f"{kept}, of which {counts['available']} may be kept{told}."]
    if votes:
        lines.append(
            "LM votes: target images that the surrogate takes for this class; FM votes: those whose features are "
            "nearest to its mean."
        )
    if counts["place"] is not None:
        lines.append(
            f"The quota gives it {100 * counts['weight']:.2g} % of the weight, place {counts['place']} of "
            f"{counts['classes']} classes; the budget lasts for {counts['whole']} whole "
            f"{'class' if counts['whole'] == 1 else 'classes'}."
        )
    if counts["limit"] is not None and counts["by_votes"] < counts["available"]:
        lines.append(_why_not_whole(counts["by_votes"], counts["floor"], counts["limit"]))
    return lines


def _why_not_whole(given: int, floor: int, limit: int) -> str:
    """Why quota `evidence` gives a class less than all of its images.

    Examples
    --------
    >>> _why_not_whole(5, 5, 0)
    'Quota evidence gives it its floor of 5 alone: no target image votes for it beyond chance.'
    """
    worth = f"its votes beyond chance stand for {limit}, ten times their share of the budget"
    if given > floor:
        return f"Quota evidence gives it {given}: {worth if given == limit else f'the budget ends there; {worth}'}."
    if limit == 0:
        why = "no target image votes for it beyond chance"
    elif limit <= floor:
        why = worth
    else:
        why = f"classes with more evidence come first and use up the budget; {worth}"
    return f"Quota evidence gives it {f'its floor of {floor} alone' if floor else 'none'}: {why}."


def _which(order: dict[str, Any], name: str) -> str:
    score, _, way = order["rank"].partition(":")
    by = {"top": f"by highest {score}", "bottom": f"by lowest {score}"}.get(way, f"by {order['rank']}")
    if order["rank"] == "random":
        by = "in an order drawn at random"
    where = "over all classes" if order["over"] == "all" else f"in class {name}"
    part = f", part {order['part']}" if order["part"] else ""
    return f"{by[0].upper()}{by[1:]} {where}{part}"


def _taken(order: dict[str, Any]) -> str:
    """How many of an order are kept, and as far as which score."""
    limit = "" if order["threshold"] is None else f", as far as {order['threshold']:.4g}"
    count = f"none of {order['of']} is" if order["quota"] == 0 else f"the first {order['quota']} of {order['of']} are"
    return f"{count} kept{limit}"


def _order_line(order: dict[str, Any], name: str) -> str:
    own = "" if order["score"] is None else f" ({order['score']:.4g})"
    met = "reached" if order["taken"] else "not reached"
    return f"{_which(order, name)} it is number {order['place']}{own}; {_taken(order)}: {met}."
