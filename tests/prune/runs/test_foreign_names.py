"""Names come from files: no cell of a table is a formula, no character of a name steers the terminal."""

import csv

import numpy as np
import pytest

from prune import export
from prune.__main__ import main
from prune.data.sample_lists import read_ids
from prune.index.manifest import Manifest, digest
from prune.index.pruned_index import PrunedIndex
from prune.methods.selection_report import print_table, write_report
from prune.runs import command_line
from prune.runs.files import InputError, note

EVIL = "=cmd|'/c calc'!A0"
STEER = "a\x1b[2K\x1b[1Ab\u202ec\r"


@pytest.fixture
def index(tmp_path):
    """Two classes, one named as a formula; ids of the same kind."""
    ids = np.array([EVIL.encode() + b"/1.jpg", b"@b/2.jpg", b"cat/3.jpg"])
    labels = np.array([0, 0, 1], np.int32)
    sizes = np.full(3, 10, np.int32)
    digests = np.array([digest(name) for name in ids.tolist()], np.uint64)
    manifest = Manifest(ids, labels, sizes, sizes, sizes, digests, np.zeros(3, np.uint32), [EVIL, "cat"])
    PrunedIndex.from_rows(manifest, np.arange(3), provenance=[]).save(tmp_path / "x.index.npz")
    return tmp_path / "x.index.npz"


def cells(place):
    with open(place, newline="", encoding="utf-8") as file:
        return [cell for row in csv.reader(file) for cell in row]


def begins_a_formula(cell):
    return cell[:1] in tuple("=+-@\t\r") and not cell.lstrip("+-").replace(".", "").isdigit()


def test_an_export_for_programs_is_exact_and_says_so_and_one_for_spreadsheets_is_guarded(index, tmp_path, capsys):
    assert main(["export", str(index), "--out", str(tmp_path / "exact.csv")]) == 0
    assert "3 cells begin as a formula does; an export is exact" in capsys.readouterr().err
    assert {EVIL, f"{EVIL}/1.jpg", "@b/2.jpg"} <= set(cells(tmp_path / "exact.csv"))
    assert main(["export", str(index), "--for-spreadsheets", "--out", str(tmp_path / "people.csv")]) == 0
    assert not any(map(begins_a_formula, cells(tmp_path / "people.csv")))
    assert {f"'{EVIL}", "'@b/2.jpg", "cat/3.jpg"} <= set(cells(tmp_path / "people.csv"))
    exact, people = (read_ids(tmp_path / name) for name in ("exact.csv", "people.csv"))
    assert exact.tolist() == people.tolist() == PrunedIndex.load(index).ids.tolist()


def test_the_flag_is_for_tables_alone(index, tmp_path):
    with pytest.raises(InputError, match="--for-spreadsheets: is for a"):
        export.run(export.Config(index, tmp_path / "x.npy", for_spreadsheets=True))


def test_a_report_of_a_selection_holds_no_formula(tmp_path):
    row = {"class": "+cat", "size": 2, "available": 2, "weight": -0.5, "kept": 1}
    write_report([row, {**row, "class": EVIL}], tmp_path / "report.csv")
    assert cells(tmp_path / "report.csv")[5:] == ["'+cat", "2", "2", "-0.5", "1", f"'{EVIL}", "2", "2", "-0.5", "1"]


def test_notes_mistakes_and_tables_print_control_characters_as_escapes(capsys):
    note(f"skipped {STEER}")
    command_line._report("prune", f"{STEER}: no such file")
    row = {"class": STEER, "size": 2, "available": 2, "weight": 0.5, "kept": 1}
    print_table([row])
    out, err = capsys.readouterr()
    for text in (out, err):
        assert not {"\x1b", "\u202e", "\r"} & set(text)
    assert err.splitlines() == [
        r"skipped a\x1b[2K\x1b[1Ab\u202ec\r", r"prune: a\x1b[2K\x1b[1Ab\u202ec\r: no such file"
    ]  # fmt: skip
    assert r"a\x1b" in out
