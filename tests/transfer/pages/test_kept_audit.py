from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from prune.index.manifest import Manifest
from prune.index.pruned_index import PrunedIndex
from prune.runs.files import InputError
from transfer.__main__ import main
from transfer.pages.kept_audit import audit_of, audit_tables
from transfer.pages.kept_images import open_selections


@pytest.fixture
def source() -> Manifest:
    """Eight images of two classes: 0 to 3 are cats, 4 to 7 dogs."""
    column = np.full(8, 24, np.int32)
    numbers = {"nbytes": column, "width": column, "height": column, "crc32": np.zeros(8, np.uint32)}
    ids = np.array([f"{k}.jpg".encode() for k in range(8)])
    labels = np.repeat([0, 1], 4).astype(np.int32)
    return Manifest(ids=ids, labels=labels, digests=np.arange(8, dtype=np.uint64), classes=["cat", "dog"], **numbers)


def study_of(folder: Path, source: Manifest, method: str, *kept_by_seed: list[int]) -> dict:
    """Results of a study whose seeds keep these rows."""
    selections = []
    for seed, rows in enumerate(kept_by_seed):
        place = f"{method}-s{seed}.index.npz"
        PrunedIndex.from_rows(source, np.array(rows), provenance=[]).save(folder / place)
        selections.append({"method": method, "keep": 0.5, "seed": seed, "index": place})
    return {"selections": selections}


def test_agreement_is_the_part_that_two_seeds_keep_in_common_and_the_least_agreed_class_is_first(tmp_path, source):
    results = study_of(tmp_path, source, "winnow", [0, 1, 4, 5], [0, 1, 4, 6])
    (selection,) = open_selections(results, tmp_path)
    audit = audit_of(results, tmp_path, source, selection)
    found = [(row["group"], row["overlap"], row["by_chance"]) for row in audit["agreement"]]
    assert found == [("all images", 0.75, 0.5), ("dog", 0.5, 0.5), ("cat", 1.0, 0.5)]
    assert (audit["title"], audit["seeds"], audit["groups"]) == ("winnow at keep 0.5", [0, 1], {})


@pytest.mark.parametrize(("method", "kept"), [("random", [[0, 4], [1, 5]]), ("winnow", [[0, 4]])])
def test_agreement_is_not_shown_for_draws_at_random_nor_for_one_seed(tmp_path, source, method: str, kept):
    results = study_of(tmp_path, source, method, *kept)
    (selection,) = open_selections(results, tmp_path)
    assert audit_tables(audit_of(results, tmp_path, source, selection)) == []


def test_each_group_shows_its_kept_share_beside_that_of_a_random_draw_and_its_agreement(tmp_path, source):
    results = study_of(tmp_path, source, "winnow", [0, 1, 4, 5], [0, 1, 4, 6])
    (selection,) = open_selections(results, tmp_path)
    groups = tmp_path / "groups.csv"
    groups.write_text("id,site\n" + "".join(f"{k}.jpg,{'a' if k in (0, 1) else 'b'}\n" for k in range(8)))
    rows = audit_of(results, tmp_path, source, selection, groups)["groups"]["site"]
    # Site a: both of 2 kept, of its class half is kept. Site b: 2 of 6; the seeds keep 4 and one of 5 and 6 each.
    assert [(row["kept"], row["size"], row["expected_in_classes"]) for row in rows] == [(2, 2, 0.5), (2, 6, 0.5)]
    assert [row["agreement"] for row in rows] == [1.0, 0.5]


def test_a_table_of_groups_with_other_images_is_refused_by_name(tmp_path, source):
    results = study_of(tmp_path, source, "winnow", [0, 4])
    (selection,) = open_selections(results, tmp_path)
    groups = tmp_path / "groups.csv"
    groups.write_text("id,site\nelsewhere.jpg,a\n")
    with pytest.raises(InputError, match=r"elsewhere\.jpg"):
        audit_of(results, tmp_path, source, selection, groups)


def test_groups_of_a_study_whose_indices_are_gone_are_refused_with_the_way_out(tmp_path, make_study, capsys):
    make_study(tmp_path, {("full", 1.0): 0.6, ("random", 0.2): 0.5})
    groups = tmp_path / "groups.csv"
    groups.write_text("id,site\na.jpg,a\n")
    assert main(["report", "--study", str(tmp_path), "--groups", str(groups)]) == 2
    assert "--source" in capsys.readouterr().err
