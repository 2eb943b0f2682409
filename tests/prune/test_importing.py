"""`prune import`: lists from elsewhere become indices, and what they leave unsaid has to be said."""

from pathlib import Path

import numpy as np
import pytest
import torch

from prune.__main__ import main
from prune.importing import Config, run
from prune.index.manifest import Manifest
from prune.index.pruned_index import PrunedIndex
from prune.runs.files import InputError

IDS = [b"ant/1.jpg", b"ant/2.jpg", b"bee/1.jpg", b"bee/2.jpg", b"bee/3.jpg"]


@pytest.fixture
def source(tmp_path) -> Path:
    n = len(IDS)
    Manifest(
        ids=np.array(IDS),
        labels=np.array([0, 0, 1, 1, 1], np.int32),
        nbytes=np.full(n, 10, np.int32),
        width=np.full(n, 8, np.int32),
        height=np.full(n, 8, np.int32),
        digests=np.array([10, 11, 12, 12, 0xABCDEF0123456789], np.uint64),
        crc32=np.zeros(n, np.uint32),
        classes=["ant", "bee"],
    ).save(tmp_path / "s.manifest.npz")
    return tmp_path / "s.manifest.npz"


def brought(source: Path, given: Path, **options) -> PrunedIndex:
    out = source.with_name("out.index.npz")
    out.unlink(missing_ok=True)
    return PrunedIndex.load(run(Config(given, **{"source": source, "holds": "keep", "out": out, **options})))


def text(tmp_path: Path, content: str, name: str = "list.txt") -> Path:
    (tmp_path / name).write_text(content, encoding="utf-8")
    return tmp_path / name


def saved(tmp_path: Path, array) -> Path:
    np.save(tmp_path / "list.npy", np.array(array))
    return tmp_path / "list.npy"


def test_every_form_of_a_list_gives_the_same_index(source, tmp_path):
    torch.save(torch.tensor([4, 1]), tmp_path / "t.indices")
    torch.save([1, 4], tmp_path / "l.pt")
    torch.save(torch.tensor([False, True, False, False, True]), tmp_path / "m.pt")
    forms = [
        saved(tmp_path, [4, 1]),
        tmp_path / "t.indices",
        tmp_path / "l.pt",
        tmp_path / "m.pt",
        text(tmp_path, "4\n1\n", "rows.txt"),
        text(tmp_path, "bee/3.jpg\r\n\r\nant/2.jpg\r\n", "ids.txt"),
        text(tmp_path, "abcdef0123456789\n000000000000000b\n", "digests.txt"),
        text(tmp_path, "Path,note\nant/2.jpg,\nbee/3.jpg,x\n", "a.csv"),
        text(tmp_path, "weight,row\n0.5,4\n0.25,1\n", "b.csv"),
        text(tmp_path, "[4, 1]", "rows.json"),
        text(tmp_path, '{"indices": ["bee/3.jpg", "ant/2.jpg"]}', "ids.json"),
    ]
    indices = [brought(source, form) for form in forms]
    for form, array in (("mask", [False, True, False, False, True]), ("strings", ["bee/3.jpg", "ant/2.jpg"])):
        np.save(tmp_path / f"{form}.npy", np.array(array))
        indices.append(brought(source, tmp_path / f"{form}.npy"))
    assert {index.fingerprint for index in indices} == {indices[0].fingerprint}
    assert indices[0].ids.tolist() == [IDS[1], IDS[4]]
    assert [indices[0].reason_names[code] for code in indices[0].reasons] == ["imported", "imported"]
    assert np.isnan(indices[0].scores).all()
    step = indices[0].provenance[0]
    assert (step["step"], step["kind"], step["listed"], step["config"]["holds"]) == ("import", "rows", 2, "keep")


def test_a_list_of_what_to_remove_is_turned_round(source, tmp_path):
    index = brought(source, saved(tmp_path, [1, 4]), holds="remove")
    assert index.ids.tolist() == [IDS[0], IDS[2], IDS[3]]
    assert index.provenance[0]["config"]["holds"] == "remove"
    with pytest.raises(InputError, match="no sample would be kept; is --holds remove right"):
        brought(source, saved(tmp_path, range(5)), holds="remove")


def test_the_user_has_to_say_whether_a_list_keeps_or_removes(source, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["import", str(saved(tmp_path, [1])), "--source", str(source), "--out", str(tmp_path / "o.npz")])
    assert caught.value.code == 2
    assert "--holds" in capsys.readouterr().err
    assert not (tmp_path / "o.npz").exists()


def test_rows_of_another_order_are_brought_over_by_a_listing(source, tmp_path):
    listing = text(tmp_path, "/d/bee/3.jpg\n/d/new.jpg\n/d/ant/1.jpg\n", "files.txt")
    index = brought(source, saved(tmp_path, [0, 2]), listing=listing, root="/d")
    assert index.ids.tolist() == [IDS[0], IDS[4]]
    with pytest.raises(InputError, match=r"1 of 3 samples are not in the source \(first: 'new.jpg'"):
        brought(source, saved(tmp_path, [0, 1, 2]), listing=listing, root="/d")
    with pytest.raises(InputError, match=r"1 row is beyond the 3 samples"):
        brought(source, saved(tmp_path, [3]), listing=listing, root="/d")
    with pytest.raises(InputError, match="--listing is for lists of rows"):
        brought(source, text(tmp_path, "ant/1.jpg\n"), listing=listing)


def test_a_mask_has_an_entry_for_each_image_of_the_listing(source, tmp_path):
    listing = text(tmp_path, "bee/3.jpg\nant/1.jpg\n", "files.txt")
    assert brought(source, saved(tmp_path, [True, False]), listing=listing).ids.tolist() == [IDS[4]]
    for mask in ([True], [False, True, False]):
        with pytest.raises(InputError, match=f"a mask of {len(mask)} entries for 2 images"):
            brought(source, saved(tmp_path, mask), listing=listing, holds="remove")


def test_a_digest_names_every_image_with_these_bytes(source, tmp_path):
    index = brought(source, text(tmp_path, "000000000000000c\n"))
    assert index.ids.tolist() == [IDS[2], IDS[3]]
    with pytest.raises(InputError, match=r"1 of 2 digests are not in the source \(first: 00000000000000ff\)"):
        brought(source, text(tmp_path, "000000000000000c\n00000000000000FF\n"), kind="digests")


def test_samples_that_the_source_lacks_are_ignored_only_with_allow_changed(source, tmp_path):
    given = text(tmp_path, "ant/1.jpg\ngone/1.jpg\ngone/2.jpg\n")
    with pytest.raises(InputError, match=r"2 of 3 samples are not in the source \(first: 'gone/1.jpg'"):
        brought(source, given)
    index = brought(source, given, allow_changed=True)
    assert index.ids.tolist() == [IDS[0]]
    assert index.provenance[0]["missing"] == 2
    assert index.provenance[0]["config"]["allow_changed"] is True
    with pytest.raises(InputError, match="1 of 1 samples"):
        brought(source, text(tmp_path, "gone/1.jpg\n"), allow_changed=True)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        ([1, -1, -2], r"2 rows are negative \(first: -2\)"),
        ([1, 2, 1], r"1 row is repeated \(first: 1\)"),
        ([0, 5, 7], r"2 rows are beyond the 5 samples of the source \(first: 5\)"),
        ([0.5], "whole numbers, booleans or strings are expected"),
        ([[1, 2]], "one dimension"),
        ([], "float64"),
        (np.zeros(0, np.int64), "lists no samples"),
        ([True] * 6, "a mask of 6 entries for 5 images"),
        ([True] * 4, "a mask of 4 entries for 5 images"),
        ([True, False, False, False, False, False], "a mask of 6 entries for 5 images"),
        (["ant/1.jpg", "ant/1.jpg"], r"1 id is repeated \(first: 'ant/1.jpg'\)"),
    ],
)
def test_lists_that_cannot_be_meant_are_refused_with_counts(source, tmp_path, array, message):
    with pytest.raises(InputError, match=message):
        brought(source, saved(tmp_path, array))
    assert not (tmp_path / "out.index.npz").exists()


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("a.txt", "", {}, "lists no samples"),
        ("a.txt", "1\nx\n", {"kind": "rows"}, r"1 line without a row \(first: b'x'\)"),
        ("a.csv", "weight\n1\n", {}, "no column of id, path"),
        ("a.csv", "", {}, "found none"),
        ("a.csv", "x,row\n1\n", {}, "1 of 2 lines have fewer cells than the first"),
        ("a.npy", "not numpy", {}, "not a plain .npy array"),
        ("a.indices", "not torch", {}, "torch cannot read it safely"),
        ("a.npz", "x", {}, "an index needs no import"),
        ("a.txt", "1\n", {"root": "/d", "kind": "ids"}, "--root /d"),
    ],
)
def test_unreadable_lists_are_refused_in_one_line(source, tmp_path, name, content, options, message):
    with pytest.raises(InputError, match=message) as caught:
        brought(source, text(tmp_path, content, name), **options)
    assert "\n" not in str(caught.value)


def test_a_pickle_that_runs_code_is_not_loaded(source, tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "owned",))

    torch.save(Evil(), tmp_path / "evil.indices")
    with pytest.raises(InputError, match="torch cannot read it safely"):
        brought(source, tmp_path / "evil.indices")
    assert not (tmp_path / "owned").exists()


def test_the_same_list_is_found_done_and_another_one_is_refused(source, tmp_path, capsys):
    given, out = text(tmp_path, "1\n4\n"), tmp_path / "o.index.npz"
    run(Config(given, source=source, holds="keep", out=out))
    before = out.read_bytes()
    run(Config(given, source=source, holds="keep", out=out))
    assert "up to date" in capsys.readouterr().err
    assert out.read_bytes() == before
    given.write_text("1\n3\n")
    with pytest.raises(InputError, match="list: "):
        run(Config(given, source=source, holds="keep", out=out))
    given.write_text("1\n4\n")
    with pytest.raises(InputError, match="holds: 'keep' -> 'remove'"):
        run(Config(given, source=source, holds="remove", out=out))


@pytest.mark.parametrize("marks", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\r\n", "\r", "\n\n"])
@pytest.mark.parametrize("name", ["l.txt", "l.csv", "l.tsv"])
def test_lists_of_editors_are_read_alike(source, tmp_path, name, marks, end):
    lines = ["# kept", "path", "ant/2.jpg", "#", "bee/3.jpg"]
    lines = lines if name != "l.txt" else [line for line in lines if line != "path"]
    (tmp_path / name).write_bytes(end.join([*lines, ""]).encode(marks))
    assert brought(source, tmp_path / name).ids.tolist() == [IDS[1], IDS[4]]
    rows = saved(tmp_path, [1, 0])
    assert brought(source, rows, listing=tmp_path / name).ids.tolist() == [IDS[1], IDS[4]]


@pytest.mark.parametrize(
    ("path", "flags"),
    [
        ("/data/im/ant/2.jpg", "give --root '/data/im'"),
        (r"ant\2.jpg", r"give --separator '\\'"),
        (r"D:\im\ant\2.jpg", r"give --root 'D:/im' --separator '\\'"),
        ("/ant/2.jpg", "give --root '/'"),
        ("cow/2.jpg", "--allow-changed ignores them"),
    ],
)
def test_a_wrong_root_or_separator_is_named_with_the_flags_that_mend_it(source, tmp_path, path, flags):
    with pytest.raises(InputError) as caught:
        brought(source, text(tmp_path, f"{path}\n"))
    assert str(caught.value).endswith(flags)
    if "give" in flags:
        root = (
            "D:/im"
            if path.startswith("D")
            else "/"
            if path.startswith("/ant")
            else "/data/im"
            if path[0] == "/"
            else None
        )
        separator = "\\" if "\\" in path else None
        index = brought(source, text(tmp_path, f"{path}\n"), root=root, separator=separator)
        assert index.ids.tolist() == [IDS[1]]


UIDS = ["139e4a9b22a614771f06c700a8ebe150", "6e356964a967af455c8016b75d691203", "ffffffffffffffff0000000000000001"]


@pytest.fixture
def datacomp(tmp_path) -> Path:
    """A source whose images are called by their uids, and DataComp's own way to write a subset of two."""
    n = len(UIDS)
    Manifest(
        ids=np.array([f"00000000/{uid}.jpg".encode() for uid in UIDS]),
        labels=np.array([0, 1, 1], np.int32),
        nbytes=np.full(n, 10, np.int32),
        width=np.full(n, 8, np.int32),
        height=np.full(n, 8, np.int32),
        digests=np.arange(n, dtype=np.uint64),
        crc32=np.zeros(n, np.uint32),
        classes=["a", "b"],
    ).save(tmp_path / "s.manifest.npz")
    pairs = np.array([(int(uid[:16], 16), int(uid[16:32], 16)) for uid in (UIDS[2], UIDS[0])], np.dtype("u8,u8"))
    pairs.sort()
    np.save(tmp_path / "subset.npy", pairs)
    return tmp_path / "s.manifest.npz"


def test_a_subset_file_of_datacomp_becomes_an_index_and_is_written_again_bit_for_bit(datacomp, tmp_path):
    index = brought(datacomp, tmp_path / "subset.npy")
    assert index.ids.tolist() == [f"00000000/{uid}.jpg".encode() for uid in (UIDS[0], UIDS[2])]
    assert index.provenance[0]["kind"] == "uids"
    out = tmp_path / "out.npy"
    assert main(["export", str(tmp_path / "out.index.npz"), "--out", str(out), "--uids", "names"]) == 0
    assert out.read_bytes() == (tmp_path / "subset.npy").read_bytes()
    assert np.load(out).tolist() == [(0x139E4A9B22A61477, 0x1F06C700A8EBE150), (0xFFFFFFFFFFFFFFFF, 1)]


def test_uids_of_images_with_other_names_come_from_a_table(source, tmp_path):
    uids = [f"{row:032x}" for row in range(1, 6)]
    (tmp_path / "uids.csv").write_text(
        "".join(["uid,id\n", *(f"{uid},{name.decode()}\n" for uid, name in zip(uids, IDS))])
    )
    np.save(tmp_path / "subset.npy", np.array([(0, 2), (0, 5)], np.dtype("u8,u8")))
    index = brought(source, tmp_path / "subset.npy", uids=tmp_path / "uids.csv")
    assert index.ids.tolist() == [IDS[1], IDS[4]]
    out = tmp_path / "out.npy"
    flags = ["export", str(tmp_path / "out.index.npz"), "--out", str(out), "--uids", str(tmp_path / "uids.csv")]
    assert main(flags) == 0
    assert np.load(out).tolist() == [(0, 2), (0, 5)]
    with pytest.raises(InputError, match=r"5 of 5 images without a uid .* .first 'ant/1.jpg': its name is none"):
        brought(source, tmp_path / "subset.npy")
    np.save(tmp_path / "more.npy", np.array([(0, 2), (7, 7)], np.dtype("u8,u8")))
    with pytest.raises(InputError, match="1 of 2 uids are not in the source"):
        brought(source, tmp_path / "more.npy", uids=tmp_path / "uids.csv")
    assert len(brought(source, tmp_path / "more.npy", uids=tmp_path / "uids.csv", allow_changed=True)) == 1
    with pytest.raises(InputError, match="--uids is for lists of uids"):
        brought(source, saved(tmp_path, [1]), uids=tmp_path / "uids.csv")
