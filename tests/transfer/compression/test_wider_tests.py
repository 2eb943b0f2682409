"""Acceptance beyond accuracy: groups, calibration and a metric of the user's own, each with its margin."""

from __future__ import annotations

import numpy as np
import pytest

from prune.runs.files import InputError
from transfer.compression import wider_tests
from transfer.compression.acceptance import AcceptanceTest, Margins, predicted_classes
from transfer.compression.wider_tests import Group, WiderTests
from transfer.studies.study_checks import check_record

LABELS = np.array([0] * 10 + [1] * 10)
NIGHT = np.arange(20) % 10 >= 8  # four images, two of each class
SURE = np.log(9.0)  # p = 0.9


def logits_of(predicted, sure=SURE):
    return sure * np.eye(2)[predicted]


def test_for(wider, margins):
    """A test whose original is right on all images, 90 % sure."""
    logits = logits_of(LABELS)
    images = np.arange(20)
    before = wider.values(LABELS, logits)
    return AcceptanceTest(images, LABELS, predicted_classes(logits), ("cat", "newt"), margins, wider, before)


test_for.__test__ = False


def test_a_group_that_loses_more_than_its_margin_is_enough_for_a_rejection():
    wider = WiderTests((Group("light=night", NIGHT, 40.0), Group("light=day", ~NIGHT, 0.0)))
    test = test_for(wider, Margins(10.0, 20.0))
    assert test.decide_original().accepted
    # Two of four night images: 10 points overall and of each class 10, but 50 of the night.
    worse = np.where(np.isin(np.arange(20), (8, 18)), 1 - LABELS, LABELS)
    decision = test.decide(lambda _: logits_of(worse))
    assert not decision.accepted
    assert decision.reason.startswith("light=night: 50.0 ± ")
    assert decision.reason.endswith("points lost, 40 are allowed")
    found = {
        one["test"]: (one["original"], one["value"], one["lost"], one["margin"], one["holds"]) for one in decision.tests
    }
    assert found == {
        "overall": (100, 90, 10, 10.0, True),
        "cat": (100, 90, 10, 20.0, True),
        "light=night": (100, 50, 50, 40.0, False),
        "light=day": (100, 100, 0, 0.0, True),
    }
    assert decision.beyond is not None
    wide = test_for(WiderTests((Group("light=night", NIGHT, 50.0),)), Margins(10.0, 20.0))
    assert wide.decide(lambda _: logits_of(worse)).accepted  # equal to the margin


def test_calibration_may_get_worse_by_its_margin_and_no_more():
    # The original is 90 % sure and always right: 10 points. At p = 0.75 the candidate is off by 25.
    for margin, accepted in ((15.0, True), (14.0, False)):
        test = test_for(WiderTests(calibration_margin=margin), Margins())
        decision = test.decide(lambda _: logits_of(LABELS, np.log(3.0)))
        assert decision.accepted is accepted
        *_, one = decision.tests
        assert (one["test"], one["holds"]) == ("calibration error", accepted)
        assert (one["original"], one["value"], one["lost"]) == pytest.approx((10, 25, 15))
    assert "calibration error: 10.0 became 25.0, by 14 it may get worse" in decision.reason
    assert decision.beyond is None
    broken = test.decide(lambda _: np.full((20, 2), np.nan))
    assert not broken.accepted
    assert broken.tests[-1]["value"] is None


def sureness(labels, logits):
    return float(logits.max(1).mean())


def test_a_metric_of_the_user_s_own_may_fall_by_its_margin():
    wider = WiderTests(metric=sureness, metric_name="mine:sureness", metric_margin=0.5)
    test = test_for(wider, Margins())
    assert test.decide(lambda _: logits_of(LABELS, SURE - 0.5)).accepted
    assert test.decide(lambda _: logits_of(LABELS, SURE + 9)).accepted  # larger is better
    refused = test.decide(lambda _: logits_of(LABELS, SURE - 0.6))
    assert not refused.accepted
    assert refused.tests[-1]["lost"] == pytest.approx(0.6)

    def fails(labels, logits):
        raise KeyError("weights")

    with pytest.raises(InputError, match="--metric mine:fails: KeyError: 'weights'"):
        WiderTests(metric=fails, metric_name="mine:fails").values(LABELS, logits_of(LABELS))


def test_all_tests_must_hold():
    groups = (Group("light=night", NIGHT, 10.0),)
    test = test_for(WiderTests(groups, 1.0, sureness, "mine:sureness", 0.1), Margins(1.0, 10.0))
    worse = np.where(np.isin(np.arange(20), (8, 18)), 1 - LABELS, LABELS)
    decision = test.decide(lambda _: logits_of(worse, 0.1))
    assert [one["test"] for one in decision.tests if not one["holds"]] == [
        "overall", "light=night", "calibration error", "mine:sureness"
    ]  # fmt: skip
    assert len(decision.reason.split("; ")) == 4


def test_groups_come_from_a_table_and_those_without_images_here_are_left_out(tmp_path):
    table = tmp_path / "groups.csv"
    table.write_text("id,camera\na,front\nb,back\nc,front\nd,roof\n")
    ids = np.array([b"a", b"b", b"c", b"d"])
    found = wider_tests.groups_of(table, ids, np.array([2, 1, 0]), ["camera=front=2"], 10.0)
    assert [(g.name, g.rows.tolist(), g.margin) for g in found] == [
        ("camera=back", [False, True, False], 10.0), ("camera=front", [True, False, True], 2.0)
    ]  # fmt: skip
    assert [g.name for g in wider_tests.groups_of(table, ids, np.array([2, 1]), ["camera=front=2"], None)] == [
        "camera=front"
    ]
    for texts, said in (
        (["camera=roof=2"], "no such group; there are camera=back, camera=front"),
        (["camera=front"], "COLUMN=GROUP=POINTS is expected"),
        (["camera=front=nan"], "COLUMN=GROUP=POINTS is expected"),
        (["camera=front=1", "camera=front=2"], "named twice"),
    ):
        with pytest.raises(InputError, match=said):
            wider_tests.groups_of(table, ids, np.array([2, 1, 0]), texts, 10.0)
    table.write_text("id,camera\nd,roof\n")
    with pytest.raises(InputError, match="no image of the preservation set has a group there"):
        wider_tests.groups_of(table, ids, np.array([0]), [], 10.0)


def test_a_metric_is_imported_from_the_working_directory_or_refused_in_one_line(tmp_path, monkeypatch):
    (tmp_path / "own_metrics_of_a_test.py").write_text("def one(labels, logits):\n    return 1.0\n\nTWO = 2\n")
    (tmp_path / "broken_metrics_of_a_test.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    metric, digest = wider_tests.open_metric("own_metrics_of_a_test:one")
    assert metric(LABELS, LABELS) == 1.0
    assert len(digest) == 32
    for text, said in (
        ("own_metrics_of_a_test", "a module and a function are expected"),
        ("own_metrics_of_a_test:TWO", "has no function TWO"),
        ("no_such_module_here:f", "cannot be imported"),
        ("broken_metrics_of_a_test:f", "ZeroDivisionError"),
        ("../evil:f", "a module and a function are expected"),
    ):
        with pytest.raises(InputError, match=said):
            wider_tests.open_metric(text)


@pytest.mark.parametrize("words", [["--metric", "os:getcwd"], ["--metric=os:getcwd"]])
def test_a_plan_never_names_a_metric(tmp_path, words):
    record = {"name": "x", "out": "x", "stage": "evaluate", "level": 0, "needs": []}
    with pytest.raises(InputError, match="is not a step that a plan has"):
        check_record({**record, "command": ["python", "-m", "transfer", "compress", *words]}, tmp_path)
    with pytest.raises(InputError, match="from the command line only, never from a plan"):
        check_record({**record, "command": ["python", "-m", "transfer", "probe", *words]}, tmp_path)


def test_a_metric_that_takes_something_else_than_labels_and_logits_is_refused_before_any_training():
    with pytest.raises(InputError, match=r"--metric os:system: is called with labels and logits: too many"):
        wider_tests.open_metric("os:system")
