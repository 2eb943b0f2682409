from __future__ import annotations

from typing import Any

import pytest

from transfer.verdicts.cost_account import break_even_keep, break_even_uses, cost_account, cost_factor


def entry(stage: str, seconds: float, **facts: Any) -> dict[str, Any]:
    known = {"method": None, "keep": None, "seed": None, **facts}
    return {"stage": stage, **known, "seconds": seconds, "flops": 10 * seconds, "samples": 5, "name": stage}


def pretrain(method: str, keep: float, seed: int, seconds: float) -> dict[str, Any]:
    return entry("pretrain", seconds, method=method, keep=keep, seed=seed)


RECORDS = [
    entry("write", 50.0),
    entry("surrogate", 20.0, seed=0),
    entry("surrogate", 40.0, seed=1),
    entry("features", 6.0, seed=0),
    entry("features", 4.0, seed=0),
    entry("features", 10.0, seed=1),
    entry("select", 3.0, method="winnow", keep=0.2, seed=0),
    entry("select", 1.0, method="winnow", keep=0.2, seed=1),
    entry("select", 99.0, method="winnow", keep=0.5, seed=0),
    entry("select", 2.0, method="random", keep=0.2, seed=0),
    pretrain("full", 1.0, 0, 390.0),
    pretrain("full", 1.0, 1, 410.0),
    pretrain("winnow", 0.2, 0, 78.0),
    pretrain("winnow", 0.2, 1, 82.0),
    pretrain("random", 0.2, 0, 80.0),
    entry("evaluate", 30.0, method="winnow", keep=0.2, seed=0),
]


def row(records: list[dict[str, Any]], method: str, **settings: Any) -> dict[str, Any]:
    return next(one for one in cost_account(records, **settings)["rows"] if one["method"] == method)


def test_the_published_surrogate_leaves_a_factor_of_two_and_not_five():
    # A surrogate of 29 %, keep 0.2, one use: 1 / (0.29 + 0.2) = 2.04; ten uses: 10 / (0.29 + 2) = 4.37.
    assert cost_factor(0.29, 0.2, 1.0, 1) == pytest.approx(2.0408, abs=1e-4)
    assert cost_factor(0.29, 0.2, 1.0, 10) == pytest.approx(4.3668, abs=1e-4)


def test_preparation_is_the_mean_of_what_one_seed_takes():
    # Seed 0: surrogate 20, features 6 + 4, selection 3. Seed 1: 40, 10, 1. Means 30 + 10 + 2 = 42.
    found = row(RECORDS, "winnow")
    assert found["preparation"]["seconds"] == pytest.approx(42)
    assert found["pretraining"]["seconds"] == pytest.approx(80)
    assert found["share_seconds"] == pytest.approx(42 / 400)
    assert found["total_seconds"] == pytest.approx(122 / 400)


def test_a_gate_is_part_of_the_preparation_of_every_pruning_method_and_of_no_control():
    gate = [{**entry("gate", 7.0), "flops": 0.0}, {**entry("gate", 1.0), "flops": 0.0}]
    before, after = row(RECORDS, "winnow"), row([*RECORDS, *gate], "winnow")
    # One gate for both seeds: 8 seconds more than 42.
    assert after["preparation"]["seconds"] == pytest.approx(50)
    assert after["preparation"]["flops"] == before["preparation"]["flops"]
    assert row([*RECORDS, *gate], "random") == row(RECORDS, "random")
    stages = [one["stage"] for one in cost_account([*RECORDS, *gate])["stages"]]
    assert stages[:3] == ["write", "gate", "surrogate"]


def test_factors_for_one_three_and_ten_uses():
    # One use 400 / 122, three 1200 / (42 + 240), ten 4000 / (42 + 800).
    found = row(RECORDS, "winnow")["factor_seconds"]
    assert [found["1"], found["3"], found["10"]] == pytest.approx([400 / 122, 1200 / 282, 4000 / 842])
    assert row(RECORDS, "winnow")["factor_flops"]["1"] == pytest.approx(400 / 122)


def test_random_pays_for_no_surrogate():
    assert row(RECORDS, "random")["preparation"]["seconds"] == pytest.approx(2)


def test_writing_and_evaluating_are_listed_as_stages_and_enter_no_factor():
    stages = {one["stage"]: one for one in cost_account(RECORDS)["stages"]}
    assert stages["write"]["seconds"] == 50
    assert stages["evaluate"]["seconds"] == 30
    assert (stages["pretrain"]["steps"], stages["pretrain"]["seconds"]) == (5, 1040)
    without = [one for one in RECORDS if one["stage"] not in ("write", "evaluate")]
    assert cost_account(without)["rows"] == cost_account(RECORDS)["rows"]


def test_counting_leaks_is_listed_as_a_stage_and_enters_no_factor():
    found = cost_account([*RECORDS, entry("leaks", 7.0, seed=0)])
    assert found["rows"] == cost_account(RECORDS)["rows"]
    stages = [one["stage"] for one in found["stages"]]
    assert stages[stages.index("select") + 1] == "leaks"


def test_break_even_uses_worked_by_hand():
    # 290 once, 200 instead of 400 each time: paid back after 1.45 uses, so with the second.
    assert break_even_uses(290, 200, 400) == 2
    assert break_even_uses(200, 200, 400) == 1
    assert break_even_uses(0, 200, 400) == 1
    assert break_even_uses(10, 400, 400) is None


def test_break_even_keep_worked_by_hand():
    # 0.29 of a full run for the preparation: below keep 0.71 one use pays; with ten uses below 0.971.
    assert break_even_keep(0.29, 1.0, 1) == pytest.approx(0.71)
    assert break_even_keep(0.29, 1.0, 10) == pytest.approx(0.971)


def test_a_price_per_hour_gives_the_costs_in_money():
    found = row(RECORDS, "winnow", price=36.0)  # one per 100 seconds
    assert found["price"] == pytest.approx(1.22)
    assert found["price_full"] == pytest.approx(4.0)
    assert sum(one["price"] for one in cost_account(RECORDS, 36.0)["stages"]) == pytest.approx(13.05)  # 1305 seconds


def test_without_full_data_costs_are_given_and_factors_are_unknown():
    found = row([one for one in RECORDS if one["method"] != "full"], "winnow")
    assert found["pretraining"]["seconds"] == pytest.approx(80)
    assert found["factor_seconds"] == {"1": None, "3": None, "10": None}
    assert found["break_even_uses_seconds"] is None


def test_flops_that_nobody_counted_give_no_factor():
    found = row([{**one, "flops": 0.0} for one in RECORDS], "winnow")
    assert found["factor_flops"]["1"] is None
    assert found["factor_seconds"]["1"] is not None


def test_rows_come_by_method_and_keep():
    records = [*RECORDS, pretrain("winnow", 0.1, 0, 40.0)]
    assert [(one["method"], one["keep"]) for one in cost_account(records)["rows"]] == [
        ("winnow", 0.1), ("winnow", 0.2), ("random", 0.2),
    ]  # fmt: skip


def test_a_method_that_needs_no_surrogate_pays_for_none():
    gate = [entry("gate", 8.0), entry("select", 1.0, method="gate", keep=0.2, seed=0), pretrain("gate", 0.2, 0, 80.0)]
    # The thumbnails' 8 seconds and its own selection; not the surrogate, its features, or another method's selection.
    assert row([*RECORDS, *gate], "gate")["preparation"]["seconds"] == pytest.approx(9)
    assert row([*RECORDS, *gate], "winnow")["preparation"]["seconds"] == pytest.approx(42 + 8)
