"""Thousands of damaged index files and manifests: each is refused in one line or gives exactly what was saved."""

import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np

from prune.index import index_file
from prune.index.manifest import Manifest
from prune.index.provenance import record
from prune.index.pruned_index import PrunedIndex
from prune.runs.files import InputError

PER_KIND = 200


def a_manifest(seed: int, n: int = 40) -> Manifest:
    rng = np.random.default_rng(seed)
    return Manifest(
        ids=np.array([b"class%d/%04d.jpg" % (i % 3, i) for i in range(n)]),
        labels=(np.arange(n) % 3).astype(np.int32),
        nbytes=rng.integers(1, 999, n).astype(np.int32),
        width=np.full(n, 8, np.int32),
        height=np.full(n, 8, np.int32),
        digests=rng.integers(0, 1 << 63, n).astype(np.uint64),
        crc32=rng.integers(0, 1 << 32, n).astype(np.uint32),
        classes=["one", "two", "three"],
    )


def an_index(seed: int) -> PrunedIndex:
    rng, source = np.random.default_rng((seed, 1)), a_manifest(seed)
    rows = np.sort(rng.choice(len(source), 20, replace=False))
    return PrunedIndex.from_rows(source, rows, score=rng.random(20), provenance=[record("select", {"seed": seed}, {})])


def bit(data, other, rng):
    at = rng.integers(len(data))
    data[at] ^= 1 << rng.integers(8)


def byte(data, other, rng):
    data[rng.integers(len(data))] = rng.integers(256)


def cut(data, other, rng):
    del data[rng.integers(len(data)) :]


def cut_the_front(data, other, rng):
    del data[: rng.integers(1, len(data))]


def lost_block(data, other, rng):
    at = rng.integers(len(data))
    del data[at : at + rng.integers(1, 200)]


def zeroed_block(data, other, rng):
    at = rng.integers(len(data))
    size = min(int(rng.integers(1, 512)), len(data) - at)
    data[at : at + size] = bytes(size)


def moved_block(data, other, rng):
    a, b = sorted(rng.integers(len(data) - 64, size=2))
    data[a : a + 64], data[b : b + 64] = data[b : b + 64], data[a : a + 64]


def splice(data, other, rng):
    at = rng.integers(len(data))
    data[at:] = other[at:]


def zip_field(data, other, rng):
    """A number in the archive's directory: offsets, sizes, methods, flags, lengths."""
    begin = data.rfind(b"PK\x01\x02") if rng.random() < 0.5 else data.find(b"PK\x01\x02")
    at = rng.integers(begin, len(data) - 4)
    struct.pack_into(
        "<I", data, at, int(rng.choice([0, 1, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, int(rng.integers(1 << 32))]))
    )


def array_header(data, other, rng):
    """A digit in an array's shape, type or order, or its header's length."""
    starts = [at for at in range(len(data) - 5) if data[at : at + 6] == b"\x93NUMPY"]
    at = starts[rng.integers(len(starts))]
    data[at + rng.integers(6, 80)] = rng.choice(list(b"0123456789,()'<>|UOSifbV\x00\xff"))


KINDS = (
    bit, byte, cut, cut_the_front, lost_block, zeroed_block, moved_block, splice, zip_field, array_header
)  # fmt: skip


def loaded(kind: type, path: Path) -> tuple[object, str]:
    """The content of the file, or how it was refused."""
    try:
        return kind.load(path), ""
    except InputError as refusal:
        clear = str(refusal).startswith(str(path)) and "\n" not in str(refusal)
        return None, "refused" if clear else "refused obscurely"


def outcome(path: Path, saved: list[PrunedIndex]) -> str:
    found, refused = loaded(PrunedIndex, path)
    if refused:
        return refused
    # A splice in the very first bytes is the other file.
    (whole,) = [index for index in saved if index.fingerprint == found.fingerprint]
    for name, column in whole.columns.items():
        np.testing.assert_array_equal(found.columns[name], column)
        assert found.columns[name].dtype == column.dtype
    assert found.meta == whole.meta
    return "harmless: content as saved"


def outcome_of_manifest(path: Path, saved: list[Manifest]) -> str:
    found, refused = loaded(Manifest, path)
    if refused:
        return refused
    (whole,) = [manifest for manifest in saved if manifest.fingerprint == found.fingerprint]
    for field in fields(Manifest):
        one, other = getattr(found, field.name), getattr(whole, field.name)
        np.testing.assert_array_equal(one, other) if field.type == "np.ndarray" else None
        assert isinstance(one, np.ndarray) or one == other
    return "harmless: content as saved"


def damage_all(folder: Path, check: Callable, saved: list, per_kind: int, capsys) -> dict[str, Counter]:
    """Damage the first of two saved files in every way, and count what each kind got; printed as a table."""
    for number, one in enumerate(saved):
        one.save(folder / f"{number}.npz")
    original, other = ((folder / f"{number}.npz").read_bytes() for number in (0, 1))
    saved = [type(saved[0]).load(folder / f"{number}.npz") for number in (0, 1)]
    rng, path = np.random.default_rng(4), folder / "damaged.npz"
    table: dict[str, Counter] = {}
    for kind in KINDS:
        got = table[kind.__name__] = Counter()
        while got.total() < per_kind:
            data = bytearray(original)
            kind(data, other, rng)
            if data in (original, other):
                continue
            path.unlink(missing_ok=True)  # what was mapped from it keeps its bytes
            path.write_bytes(data)
            got[check(path, saved)] += 1
    with capsys.disabled():
        print(f"\ndamaged files: {type(saved[0]).__name__}")
        for name, got in table.items():
            print(f"  {name:<14}", ", ".join(f"{count} {result}" for result, count in got.items()))
    assert not any(got["refused obscurely"] for got in table.values())
    for kind in (cut, lost_block):
        assert table[kind.__name__]["refused"] == per_kind
    return table


def test_two_thousand_damaged_index_files_are_refused_or_read_as_they_were_saved(tmp_path, capsys):
    table = damage_all(tmp_path, outcome, [an_index(0), an_index(1)], PER_KIND, capsys)
    assert sum(got.total() for got in table.values()) == 2000


def test_five_hundred_damaged_manifests_are_refused_or_read_as_they_were_saved(tmp_path, capsys):
    table = damage_all(tmp_path, outcome_of_manifest, [a_manifest(0), a_manifest(1)], 50, capsys)
    assert sum(got.total() for got in table.values()) == 500
    assert table["bit"]["refused"] > 25  # most bytes matter


def test_content_changed_under_a_right_checksum_is_valid_or_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda file: None)
    whole, rng, path = an_index(0), np.random.default_rng(5), tmp_path / "changed.npz"
    refused = 0
    for _ in range(300):
        columns = {name: column.copy() for name, column in whole.columns.items()}
        name = str(rng.choice([name for name in columns if name not in ("score", "digest")]))
        flat = columns[name].view(np.uint8)
        flat[rng.integers(len(flat))] ^= 1 << rng.integers(8)
        index_file.write(path, columns, whole.meta)
        try:
            PrunedIndex.load(path).checked()
        except InputError as refusal:
            refused += "\n" not in str(refusal)
    assert refused > 150
