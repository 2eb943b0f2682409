"""Names of outputs: one that is an input is refused, another suffix is noted; a file of another kind is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from prune.__main__ import main
from prune.index.manifest import Manifest
from prune.runs.path_checks import note_suffix


@pytest.fixture
def indices(tmp_path, monkeypatch):
    """Two random indices, a and b, of ten images, and the manifest m."""
    monkeypatch.chdir(tmp_path)
    Manifest(
        ids=np.array([f"x/{row}".encode() for row in range(10)]),
        labels=np.zeros(10, np.int32),
        nbytes=np.full(10, 10, np.int32),
        width=np.full(10, 8, np.int32),
        height=np.full(10, 8, np.int32),
        digests=np.arange(1, 11, dtype=np.uint64),
        crc32=np.zeros(10, np.uint32),
        classes=["x"],
    ).save(tmp_path / "m.manifest.npz")
    for seed, name in enumerate("ab"):
        assert select("--seed", str(seed), "--out", f"{name}.index.npz") == 0
    return tmp_path


def select(*words):
    return main(["select", "--manifest", "m.manifest.npz", "--method", "random", "--keep", "0.5", *words])


def test_combine_refuses_an_input_as_its_output_and_leaves_it(indices, capsys):
    before = (indices / "a.index.npz").read_bytes()
    (indices / "link.index.npz").symlink_to("b.index.npz")
    for out in ("a.index.npz", "link.index.npz"):
        capsys.readouterr()
        assert main(["combine", "a.index.npz", "b.index.npz", "--out", out]) == 2
        assert f"--out {out}: is an input itself; give another name" in capsys.readouterr().err
    assert (indices / "a.index.npz").read_bytes() == before


def test_an_index_is_no_beton_and_a_combined_one_is_explained_by_its_parts(indices, capsys):
    assert main(["verify", "a.index.npz"]) == 2
    assert "a.index.npz: is an index, and no beton; `prune show a.index.npz`" in capsys.readouterr().err
    assert main(["combine", "a.index.npz", "b.index.npz", "--out", "c.index.npz"]) == 0
    capsys.readouterr()
    assert main(["explain", "--manifest", "m.manifest.npz", "--index", "c.index.npz", "--class", "x"]) == 2
    said = capsys.readouterr().err
    assert "c.index.npz: made by " in said
    assert "explain its parts" in said
    for part in ("a", "b"):
        words = ["explain", "--manifest", "m.manifest.npz", "--index", f"{part}.index.npz", "--class", "x"]
        assert main(words) == 0


def test_a_name_without_the_usual_suffix_is_noted_and_written_all_the_same(indices, capsys):
    capsys.readouterr()
    assert select("--out", "kept.csv") == 0
    assert "kept.csv: the name does not end in .index.npz" in capsys.readouterr().err
    assert main(["show", "kept.csv"]) == 0
    assert main(["combine", "a.index.npz", "b.index.npz", "--out", "both"]) == 0
    assert "both: the name does not end in .index.npz" in capsys.readouterr().err
    assert select("--out", "kept.npz") == 0
    assert "does not end" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "wanted", "noted"),
    [("l.json", ".json", False), ("l.npz", ".json", True), ("s.npz", ".npz", False), ("s", ".npz", True),
     ("i.index.npz", ".index.npz", False), ("i.json", ".index.npz", True)],
)  # fmt: skip
def test_the_usual_suffix_is_not_noted(capsys, name, wanted, noted):
    note_suffix(Path(name), wanted)
    assert bool(capsys.readouterr().err) == noted
