"""Stages of a deployment by hand, and its history on disk."""

from __future__ import annotations

import numpy as np
import pytest

from prune.runs.files import InputError
from transfer.watching import watch_history
from transfer.watching.deployment_stages import Rule, decided, group_rows, is_in_share, stages_of

RULE = Rule((1.0, 50.0, 100.0), 20, 0.05, {"cat": 0.05, "newt": 0.05, "all images": 0.05})


def run(*looks, rule=RULE):
    """Take looks at (images, errors) of cat and newt; the records."""
    records = []
    for cat, newt in looks:
        counts = {"cat": cat, "newt": newt, "all images": (cat[0] + newt[0], cat[1] + newt[1])}
        records.append({"counts": counts, **decided(rule, records, counts)})
    return records


def test_stages_advance_after_enough_images_and_the_last_one_stays_passed():
    sound = ((6, 0), (6, 0))
    found = run(*[sound] * 7)
    assert [one["share"] for one in found] == [1, 1, 50, 50, 100, 100, 100]
    assert [one["decision"] for one in found] == ["stay", "advance", "stay", "advance", "stay", "passed", "passed"]


def test_a_class_that_breaks_alarms_though_all_images_together_do_not():
    # Newt: 8 of 10 are errors: evidence far above 3 tests / 0.05 = 60. Of 300 images they are 2.7 %.
    found = run(((10, 0), (0, 0)), ((290, 0), (10, 8)))
    assert [one["decision"] for one in found] == ["stay", "alarm"]
    assert found[1]["alarms"] == ["newt"]
    assert found[1]["evidence"] > np.log(60)


def test_a_class_that_breaks_late_alarms_since_then():
    found = run(*[((20, 0), (20, 0))] * 30, ((20, 0), (20, 9)))
    assert [one["decision"] for one in found[-2:]] == ["passed", "alarm"]
    assert found[-1]["alarms"] == ["newt"]
    row = next(row for row in group_rows(RULE, found) if row["class"] == "newt")
    assert (row["since"], row["n"], row["wrong"]) == (31, 620, 9 / 620)
    assert 0.05 < row["low"] < 9 / 20


def test_errors_that_are_allowed_never_alarm_and_evidence_gathers_over_the_stages():
    assert run(*[((20, 1), (20, 1))] * 10)[-1]["decision"] == "passed"
    each = ((5, 0), (4, 2))
    found = run(*[each] * 9)
    # No look alone alarms; after some of them the class does, in whichever stage.
    assert found[0]["alarms"] == []
    assert "newt" in found[-1]["alarms"]


def test_a_small_share_is_part_of_every_larger_one():
    digests = np.random.default_rng(0).integers(0, 2**64, 20_000, dtype=np.uint64).tolist()
    inside = {share: {d for d in digests if is_in_share(d, share)} for share in (1.0, 10.0, 50.0, 100.0)}
    assert inside[1.0] < inside[10.0] < inside[50.0] < inside[100.0] == set(digests)
    assert len(inside[10.0]) == pytest.approx(2000, abs=150)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1,1", "larger than the one before"),
        ("10,5,100", "larger than the one before"),
        ("50,101", "101 is no share"),
        ("0,5", "0 is no share"),
        ("nan", "nan is no share"),
        ("1;2", "percents of the traffic"),
        ("", "percents of the traffic"),
    ],
)
def test_impossible_stages_are_refused_in_one_line(text, said):
    assert stages_of("1,10,50,100") == (1, 10, 50, 100)
    with pytest.raises(InputError, match=said) as error:
        stages_of(text)
    assert "\n" not in str(error.value)


def look(number):
    return {
        "number": number, "time": "2026-01-01T00:00:00Z", "counts": {"cat": [5, 0]}, "seen": [f"{number:016x}"],
        "stage": 0, "share": 1.0, "decision": "stay", "alarms": [], "evidence": -0.5, "rollback": None,
    }  # fmt: skip


HEAD = {
    "format": watch_history.FORMAT, "stages": [1.0], "each": 20, "error": 0.05, "allowed": {"cat": 0.05},
    "made": {}, "measure": "disagreement", "preserve": None,
}  # fmt: skip


def test_a_history_comes_back_and_is_only_added_to(tmp_path):
    place = tmp_path / "h.jsonl"
    assert watch_history.read(place) == (None, [])
    watch_history.write(place, HEAD, [look(1)])
    before = place.read_text().splitlines()
    watch_history.write(place, HEAD, [look(1), look(2)])
    assert place.read_text().splitlines()[:2] == before[:2]
    head, looks = watch_history.read(place)
    assert (head, looks) == (HEAD, [look(1), look(2)])
    assert watch_history.seen(looks) == {1, 2}
    assert watch_history.rule_of(head) == Rule((1.0,), 20, 0.05, {"cat": 0.05})


def test_a_history_that_was_cut_anywhere_or_changed_is_refused(tmp_path):
    place = tmp_path / "h.jsonl"
    watch_history.write(place, HEAD, [look(1), look(2)])
    whole = place.read_bytes()
    for end in [*range(1, len(whole) - 1, 7), whole.rindex(b"\n", 0, -1) + 1]:
        place.write_bytes(whole[:end])
        with pytest.raises(InputError, match=r"was cut or changed|no history of this version"):
            watch_history.read(place)
    place.write_bytes(whole.replace(b'"cat": [5, 0]', b'"cat": [5, 1]', 1))
    with pytest.raises(InputError, match="was cut or changed"):
        watch_history.read(place)
    for key, value in (("stages", [0]), ("allowed", {"cat": "x"}), ("error", None), ("preserve", {"version": 2})):
        watch_history.write(place, {**HEAD, key: value}, [look(1)])
        with pytest.raises(InputError, match="was cut or changed"):
            watch_history.read(place)
    watch_history.write(place, HEAD, [{**look(1), "decision": "rollback"}])
    with pytest.raises(InputError, match="was cut or changed"):
        watch_history.read(place)
    for text in ('{"format": "winnow-codec-watch/1"}\n', "path,label\n", ""):
        place.write_text(text)
        with pytest.raises(InputError, match="no history of this version"):
            watch_history.read(place)
