"""`prune combine` on files."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from prune.__main__ import main
from prune.combine import Config, run
from prune.index.manifest import Manifest
from prune.index.pruned_index import PrunedIndex
from prune.runs.files import InputError


def source_of(ids, digest=1) -> Manifest:
    n = len(ids)
    return Manifest(
        ids=np.array(ids, np.bytes_),
        labels=np.zeros(n, np.int32),
        nbytes=np.full(n, 10, np.int32),
        width=np.full(n, 8, np.int32),
        height=np.full(n, 8, np.int32),
        digests=np.arange(digest, digest + n, dtype=np.uint64),
        crc32=np.zeros(n, np.uint32),
        classes=["x"],
    )


SIX = source_of([b"a", b"b", b"c", b"d", b"e", b"f"])


def saved(place: Path, rows, source: Manifest = SIX) -> Path:
    PrunedIndex.from_rows(source, np.array(rows), provenance=[]).save(place)
    return place


@pytest.fixture
def three(tmp_path) -> tuple[Path, ...]:
    return tuple(saved(tmp_path / f"{i}.npz", rows) for i, rows in enumerate([[0, 1, 2], [1, 2, 3], [2, 5]]))


@pytest.mark.parametrize(
    ("how", "kept"), [("union", [b"a", b"b", b"c", b"d", b"f"]), ("intersection", [b"c"]), ("without", [b"a"])]
)
def test_more_than_two_indices_combine_from_left_to_right(three, tmp_path, how, kept):
    out = run(Config(three, tmp_path / "out.npz", how=how))
    index = PrunedIndex.load(out)
    assert index.ids.tolist() == kept
    assert index.provenance[-1]["step"] == "combine"
    assert index.provenance[-1]["inputs"] == {
        str(i): PrunedIndex.load(path).fingerprint for i, path in enumerate(three)
    }


def test_the_same_command_finds_its_work_done_and_another_is_refused(three, tmp_path, capsys):
    out = run(Config(three[:2], tmp_path / "out.npz"))
    before = out.stat().st_mtime_ns, out.read_bytes()
    run(Config(three[:2], out))
    assert "up to date" in capsys.readouterr().err
    assert (out.stat().st_mtime_ns, out.read_bytes()) == before
    with pytest.raises(InputError, match="how: 'union' -> 'without'"):
        run(Config(three[:2], out, how="without"))
    with pytest.raises(InputError, match="1: "):
        run(Config((three[0], three[2]), out))


def test_what_would_keep_nothing_is_refused_and_nothing_is_written(three, tmp_path):
    with pytest.raises(InputError, match="no sample would be kept"):
        run(Config((three[2], three[0], three[0], three[2]), tmp_path / "out.npz", how="without"))
    assert not (tmp_path / "out.npz").exists()
    with pytest.raises(InputError, match="at least two"):
        run(Config(three[:1], tmp_path / "out.npz"))


def test_a_list_of_ids_is_left_out_and_is_part_of_what_identifies_the_output(three, tmp_path, capsys):
    (tmp_path / "gone.txt").write_text("b\nz\n")
    out = run(Config((three[0], tmp_path / "gone.txt"), tmp_path / "out.npz", how="without"))
    assert PrunedIndex.load(out).ids.tolist() == [b"a", b"c"]
    assert "1 of 2 listed ids left out" in capsys.readouterr().err
    (tmp_path / "also.csv").write_text("id,why\na,asked\n")
    both = run(Config((three[0], three[2], tmp_path / "also.csv"), tmp_path / "both.npz", how="without"))
    assert PrunedIndex.load(both).ids.tolist() == [b"b"]  # c is in the other index
    run(Config((three[0], tmp_path / "gone.txt"), out, how="without"))
    assert "up to date" in capsys.readouterr().err
    (tmp_path / "gone.txt").write_text("c\n")
    with pytest.raises(InputError, match="lists: "):
        run(Config((three[0], tmp_path / "gone.txt"), out, how="without"))
    with pytest.raises(InputError, match="a list of ids goes with --how without"):
        run(Config((three[0], tmp_path / "gone.txt"), tmp_path / "u.npz"))
    (tmp_path / "rows.txt").write_text("0\n2\n")
    SIX.save(tmp_path / "six.manifest.npz")
    listed = Config((three[0], tmp_path / "rows.txt"), tmp_path / "r.npz", how="without")
    rows = run(replace(listed, source=tmp_path / "six.manifest.npz"))
    assert PrunedIndex.load(rows).ids.tolist() == [b"b"]


def test_indices_of_two_sources_meet_in_a_third_only_when_the_user_insists(tmp_path):
    newer = source_of([b"b", b"c", b"d", b"z"], digest=2)
    newer.save(tmp_path / "newer.manifest.npz")
    one, two = saved(tmp_path / "1.npz", [0, 1]), saved(tmp_path / "2.npz", [1, 3], newer)
    with pytest.raises(InputError, match="different sources"):
        run(Config((one, two), tmp_path / "out.npz"))
    with pytest.raises(InputError, match="--allow-changed uses the others"):
        run(Config((one, two), tmp_path / "out.npz", source=tmp_path / "newer.manifest.npz"))
    with pytest.raises(InputError, match="needs --source"):
        run(Config((one, two), tmp_path / "out.npz", allow_changed=True))
    out = run(Config((one, two), tmp_path / "out.npz", source=tmp_path / "newer.manifest.npz", allow_changed=True))
    index = PrunedIndex.load(out)
    assert index.ids.tolist() == [b"b", b"c", b"z"]  # "a" is not in the newer source
    assert index.source == newer.fingerprint
    (moved,) = [entry for entry in index.provenance if entry["step"] == "rebase"]
    assert moved["missing"] == 1


def test_a_mistake_on_the_command_line_is_one_line_and_exit_code_2(three, tmp_path, capsys):
    (tmp_path / "broken.npz").write_bytes(three[0].read_bytes()[:500])
    code = main(["combine", str(three[0]), str(tmp_path / "broken.npz"), "--out", str(tmp_path / "out.npz")])
    err = capsys.readouterr().err
    assert code == 2
    assert err.count("\n") == 1
    assert "broken.npz: damaged" in err
    assert main(["combine", str(three[0]), str(three[1]), "--out", str(tmp_path / "out.npz")]) == 0


def test_ids_that_match_nothing_are_named_with_the_reason(three, tmp_path, capsys):
    (tmp_path / "gone.txt").write_text("b\nd\nz\n")
    run(Config((three[0], tmp_path / "gone.txt"), tmp_path / "out.npz", how="without"))
    told = capsys.readouterr().err
    assert "2 listed ids not in the first index: unknown to its source, or left out before" in told
    assert "(--source tells which): 'd', 'z'" in told
    SIX.save(tmp_path / "six.manifest.npz")
    listed = Config((three[0], tmp_path / "gone.txt"), tmp_path / "r.npz", how="without")
    run(replace(listed, source=tmp_path / "six.manifest.npz"))
    told = capsys.readouterr().err
    assert "1 listed id not in the first index: not in --source, so misspelt or of another source: 'z'" in told
    assert "1 listed id not in the first index: left out before: 'd'" in told
