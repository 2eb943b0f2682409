import numpy as np
import pytest

from prune.methods.evidence_votes import counted_votes
from prune.scores.chance_votes import one_order


def test_votes_of_several_targets_are_their_mean_shares_times_all_their_images():
    arrays = {
        "class/fm/a": np.array([3.0, 1]),
        "class/fm/b": np.array([0.0, 6]),
        "class/fm-chance/a": np.array([2.0, 2]),
        "class/fm-chance/b": np.array([6.0, 0]),
    }
    told = {"a": {"fm": {"meaningful": True}}, "b": {"fm": {"meaningful": False}}}
    found = counted_votes(arrays, {"votes": told}, ["a", "b"], "mean")
    assert list(found.votes) == ["fm"]
    # Shares 3/4 and 0, of 4 + 6 images; by chance 1/2 and 1.
    assert found.votes["fm"] == pytest.approx([3.75, 6.25])
    assert found.chance["fm"] == pytest.approx([7.5, 2.5])
    assert found.meaningless == ("b",)
    assert counted_votes(arrays, {}, ["b"], "mean").votes["fm"] == pytest.approx([0, 6])
    assert counted_votes({}, {}, ["a"], "mean") is None


def test_a_targets_rows_have_one_order_and_a_large_target_is_sampled():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(50, 3)).astype(np.float16)
    turned = rows[rng.permutation(50)]
    assert np.array_equal(one_order(rows), one_order(turned))
    few = one_order(rows, 1, 20)
    assert len(np.unique(few, axis=0)) == 20
    assert np.array_equal(few, one_order(turned, 1, 20))
    assert not np.array_equal(few, one_order(rows, 2, 20))
