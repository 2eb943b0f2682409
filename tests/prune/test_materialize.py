"""`prune materialize`: a small beton of the kept images, whole or not at all, and resumed after a kill."""

import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from prune import write
from prune.__main__ import main
from prune.data import beton, resumable_beton
from prune.data.beton import BetonWriter, beton_bytes
from prune.data.dataset import open_dataset
from prune.index.manifest import Manifest, digest
from prune.index.provenance import record
from prune.index.pruned_index import PrunedIndex
from prune.materialize import Config, run
from prune.runs.files import InputError
from prune.runs.run_lock import file_lock

N = 40


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> SimpleNamespace:
    """Two classes of twenty images, JPEG and raw; thirty of them are kept."""
    root = tmp_path_factory.mktemp("materialize")
    rng = np.random.default_rng(0)
    for i in range(N):
        folder = root / "images" / ("ant" if i % 2 else "bee")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = Image.fromarray(rng.integers(0, 256, (20 + i % 5, 24, 3), dtype=np.uint8))
        pixels.save(folder / f"{i:02d}.{'png' if i % 4 == 0 else 'jpg'}")
    write.run(write.Config(images=str(root / "images"), out=root / "s.beton"))
    manifest = Manifest.load(root / "s.manifest.npz")
    rows = np.sort(rng.choice(N, 30, replace=False))
    index = PrunedIndex.from_rows(manifest, rows, provenance=[record("select", {}, {})])
    index.save(root / "x.index.npz")
    return SimpleNamespace(root=root, index=root / "x.index.npz", source=root / "s.beton", rows=rows)


def test_kept_images_keep_their_bytes_labels_and_names(made, tmp_path):
    out = run(Config(made.index, source=made.source, out=tmp_path / "m.beton"))
    old, new = open_dataset(made.source), open_dataset(out)
    index = PrunedIndex.load(made.index)
    assert new.manifest.ids.tolist() == index.ids.tolist()
    for row, place in enumerate(made.rows):
        assert new.beton.stored(row) == old.beton.stored(int(place))
        assert digest(new.beton.stored(row)[0]) == new.manifest.digests[row]
    np.testing.assert_array_equal(new.beton.labels, index.labels)
    assert new.manifest.classes == old.manifest.classes
    assert out.stat().st_size == beton_bytes(new.beton.sizes, new.beton.page_size)
    assert [step["step"] for step in new.manifest.meta["provenance"]] == ["select", "materialize"]
    assert new.manifest.meta["inputs"] == {"index": index.fingerprint, "source": old.manifest.fingerprint}
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["m.beton", "m.manifest.npz"]


def test_equal_runs_give_equal_bytes_and_a_second_run_finds_its_work_done(made, tmp_path, capsys):
    one = run(Config(made.index, source=made.source, out=tmp_path / "1.beton"))
    two = run(Config(made.index, source=made.source, out=tmp_path / "2.beton", workers=1))
    assert one.read_bytes() == two.read_bytes()
    assert (tmp_path / "1.manifest.npz").read_bytes() == (tmp_path / "2.manifest.npz").read_bytes()
    capsys.readouterr()
    run(Config(made.index, source=made.source, out=one))
    assert "up to date" in capsys.readouterr().err
    other = PrunedIndex.load(made.index).sample(0.5)
    other.save(tmp_path / "other.npz")
    with pytest.raises(InputError, match=r"was made with other settings .*index: "):
        run(Config(tmp_path / "other.npz", source=made.source, out=one))


def test_images_of_a_planned_quality_are_encoded_anew_and_described_as_they_are(made, tmp_path):
    manifest = Manifest.load(made.root / "s.manifest.npz")
    quality = np.where(np.arange(30) % 3 == 0, 40, 0)
    index = PrunedIndex.from_rows(manifest, made.rows, quality=quality, provenance=[])
    index.save(tmp_path / "q.npz")
    old, new = (
        open_dataset(made.source),
        open_dataset(run(Config(tmp_path / "q.npz", source=made.source, out=tmp_path / "m.beton"))),
    )
    for row, place in enumerate(made.rows):
        data, is_jpeg = new.beton.stored(row)
        before = old.beton.stored(int(place))
        assert digest(data) == new.manifest.digests[row]
        if quality[row] == 0:
            assert (data, is_jpeg) == before
        else:
            assert is_jpeg
            assert data != before[0]
            image = Image.open(io.BytesIO(data))
            assert image.size == (new.beton.widths[row], new.beton.heights[row])


class Killed(BaseException):
    pass


@pytest.mark.parametrize("quality", [0, 60])
def test_a_stopped_run_resumes_and_ends_with_the_same_bytes(made, tmp_path, monkeypatch, capsys, quality):
    manifest = Manifest.load(made.root / "s.manifest.npz")
    index = PrunedIndex.from_rows(manifest, made.rows, quality=np.full(30, quality), provenance=[])
    index.save(tmp_path / "q.npz")
    whole = run(Config(tmp_path / "q.npz", source=made.source, out=tmp_path / "whole.beton"))
    monkeypatch.setattr(resumable_beton, "SAFE_BYTES", 2000)
    real, written = BetonWriter.add, []

    def add(self, data, **facts):
        if len(written) == 17:
            raise Killed
        written.append(len(data))
        return real(self, data, **facts)

    config = Config(tmp_path / "q.npz", source=made.source, out=tmp_path / "m.beton", workers=1)
    with monkeypatch.context() as patch:
        patch.setattr(BetonWriter, "add", add)
        with pytest.raises(Killed):
            run(config)
    assert not config.out.exists()
    capsys.readouterr()
    run(config)
    copied = int(capsys.readouterr().err.split("resumes after ")[1].split()[0])
    assert 10 <= copied <= 17
    assert config.out.read_bytes() == whole.read_bytes()
    assert (tmp_path / "m.manifest.npz").read_bytes() == (tmp_path / "whole.manifest.npz").read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_a_killed_process_leaves_nothing_that_looks_whole_and_the_next_one_ends_the_work(made, tmp_path):
    whole = run(Config(made.index, source=made.source, out=tmp_path / "whole.beton"))
    command = ["materialize", str(made.index), "--source", str(made.source), "--out", str(tmp_path / "m.beton")]
    code = (
        "import os, signal, sys\n"
        "from prune.data import resumable_beton\n"
        "from prune.__main__ import main\n"
        "resumable_beton.SAFE_BYTES = 2000\n"
        "real = resumable_beton.ResumableBeton.image_added\n"
        "def image_added(self, writer, size):\n"
        "    real(self, writer, size)\n"
        "    if writer.count == 20: os.kill(os.getpid(), signal.SIGKILL)\n"
        "resumable_beton.ResumableBeton.image_added = image_added\n"
        "main(sys.argv[1:])"
    )
    root = Path(__file__).parents[2]
    killed = subprocess.run([sys.executable, "-c", code, *command], cwd=root, capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "m.beton").exists()
    assert not (tmp_path / "m.manifest.npz").exists()
    assert main(command) == 0
    assert (tmp_path / "m.beton").read_bytes() == whole.read_bytes()


def stopped(made, tmp_path, monkeypatch) -> Config:
    """A run that was stopped after twenty images."""
    monkeypatch.setattr(resumable_beton, "SAFE_BYTES", 2000)
    real = resumable_beton.ResumableBeton.image_added

    def image_added(self, writer, size):
        real(self, writer, size)
        if writer.count == 20:
            raise Killed

    config = Config(made.index, source=made.source, out=tmp_path / "m.beton")
    with monkeypatch.context() as patch:
        patch.setattr(resumable_beton.ResumableBeton, "image_added", image_added)
        with pytest.raises(Killed):
            run(config)
    return config


def test_what_a_killed_run_left_at_another_quality_is_not_used(made, tmp_path, monkeypatch):
    manifest = Manifest.load(made.root / "s.manifest.npz")
    for quality in (40, 60):
        index = PrunedIndex.from_rows(manifest, made.rows, quality=np.full(30, quality), provenance=[])
        index.save(tmp_path / f"{quality}.npz")
    whole = run(Config(tmp_path / "60.npz", source=made.source, out=tmp_path / "whole.beton"))
    stopped(SimpleNamespace(index=tmp_path / "40.npz", source=made.source), tmp_path, monkeypatch)
    out = run(Config(tmp_path / "60.npz", source=made.source, out=tmp_path / "m.beton"))
    assert out.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("damage", ["image", "cut", "journal", "empty journal", "other work", "no file"])
def test_what_a_killed_run_left_is_checked_before_it_is_used(made, tmp_path, monkeypatch, damage):
    whole = run(Config(made.index, source=made.source, out=tmp_path / "whole.beton"))
    config = stopped(made, tmp_path, monkeypatch)
    partial, journal = tmp_path / ".m.beton.partial", tmp_path / ".m.beton.journal"
    assert partial.exists()
    if damage == "image":
        with open(partial, "r+b") as file:
            file.seek(-9000, os.SEEK_END)
            file.write(bytes(100))
    elif damage == "cut":
        os.truncate(partial, partial.stat().st_size - 3000)
    elif damage == "journal":
        data = journal.read_bytes()
        journal.write_bytes(data[:-6] + b"\xff\xff\xff\xff\xff\xff\xff")
    elif damage == "empty journal":
        journal.write_bytes(b"")
    elif damage == "other work":
        journal.write_bytes(b"{}" + journal.read_bytes())
    else:
        partial.unlink()
    run(config)
    assert config.out.read_bytes() == whole.read_bytes()


def test_two_processes_do_not_write_one_beton(made, tmp_path):
    with file_lock(tmp_path / "m.beton"), pytest.raises(InputError, match="another run"):
        run(Config(made.index, source=made.source, out=tmp_path / "m.beton"))


def test_a_damaged_source_image_is_named_and_nothing_is_left(made, tmp_path):
    data = bytearray(made.source.read_bytes())
    beton_file = open_dataset(made.source).beton
    data[int(beton_file.samples["image"]["pointer"][made.rows[3]]) + 40] ^= 255
    (tmp_path / "s.beton").write_bytes(data)
    (tmp_path / "s.manifest.npz").write_bytes((made.root / "s.manifest.npz").read_bytes())
    with pytest.raises(InputError, match=rf"\(row {made.rows[3]}\) is damaged"):
        run(Config(made.index, source=tmp_path / "s.beton", out=tmp_path / "m.beton"))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["s.beton", "s.manifest.npz"]


def test_a_full_disk_is_seen_before_the_work_begins(made, tmp_path, monkeypatch):
    usage = SimpleNamespace(free=1000)
    monkeypatch.setattr("shutil.disk_usage", lambda place: usage)
    with pytest.raises(InputError, match=r"needs 4.2 MB, and .* has 0.0 MB free"):
        run(Config(made.index, source=made.source, out=tmp_path / "new" / "m.beton"))
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_meanwhile_is_one_line(made, tmp_path, monkeypatch, capsys):
    def add(self, data, **facts):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(BetonWriter, "add", add)
    command = ["materialize", str(made.index), "--source", str(made.source), "--out", str(tmp_path / "m.beton")]
    assert main(command) == 2
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .endswith("m.beton: No space left on device; the same command resumes here")
    )
    assert not (tmp_path / "m.beton").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"out": Path("m.npz")}, "must end in .beton"),
        ({"out": Path("/nowhere/../s.manifest.npz")}, "must end in .beton"),
        ({"index": Path("none.npz")}, "none.npz: no such file"),
        ({"source": Path("none.beton")}, "none.beton: no such file"),
    ],
)
def test_mistakes_are_named(made, tmp_path, change, message):
    settings = {"index": made.index, "source": made.source, "out": tmp_path / "m.beton", **change}
    with pytest.raises(InputError, match=message):
        run(Config(**settings))
    with pytest.raises(InputError, match="is the source itself"):
        run(Config(made.index, source=made.source, out=made.source))


def test_a_strangers_file_is_not_written_over(made, tmp_path):
    (tmp_path / "m.beton").write_bytes(b"mine")
    with pytest.raises(InputError, match="was not written by this command"):
        run(Config(made.index, source=made.source, out=tmp_path / "m.beton"))
    assert (tmp_path / "m.beton").read_bytes() == b"mine"


def test_another_source_is_refused_unless_the_user_insists(made, tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("ant", "bee"):
        os.symlink(made.root / "images" / name, tmp_path / "images" / name)
    (tmp_path / "images" / "cat").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "images" / "cat" / "1.png")
    write.run(write.Config(images=str(tmp_path / "images"), out=tmp_path / "s.beton"))
    config = Config(made.index, source=tmp_path / "s.beton", out=tmp_path / "m.beton")
    with pytest.raises(InputError, match="--allow-changed uses the others"):
        run(config)
    out = run(Config(made.index, source=tmp_path / "s.beton", out=tmp_path / "m.beton", allow_changed=True))
    new = open_dataset(out)
    assert new.manifest.ids.tolist() == PrunedIndex.load(made.index).ids.tolist()
    assert [step["step"] for step in new.manifest.meta["provenance"]] == ["select", "rebase", "materialize"]


@settings(max_examples=60)
@given(sizes=st.lists(st.integers(1, 1 << 21), min_size=1, max_size=12))
def test_the_space_needed_is_the_size_of_the_file_to_the_byte(sizes):
    page = 1 << 21
    writer = BetonWriter(Path(os.devnull), len(sizes), page)
    for size in sizes:
        writer.add(memoryview(bytes(size)), jpeg=True, height=1, width=1, label=0)
    end = -(-writer.end // page) * page + len(sizes) * beton.ALLOCATION.itemsize
    writer.close_incomplete()
    assert beton_bytes(np.array(sizes), page) == end
    assert beton_bytes(np.array([page] * 3), page) == (1 + 3) * page + 72
