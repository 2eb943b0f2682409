"""Two hundred damaged files of every format: read rightly, or refused in one line within bounds of time and memory."""

import importlib.util
import sys
from pathlib import Path

import pytest

_SPEC = importlib.util.spec_from_file_location("fuzz_formats", Path(__file__).parent / "benchmarks/fuzz_formats.py")
fuzz_formats = importlib.util.module_from_spec(_SPEC)
sys.modules["fuzz_formats"] = fuzz_formats  # dataclasses look their module up
_SPEC.loader.exec_module(fuzz_formats)


@pytest.mark.parametrize("name", fuzz_formats.FORMATS)
def test_damaged_files_are_read_rightly_or_refused_in_one_line(name, tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda file: None)
    found = fuzz_formats.fuzz(fuzz_formats.FORMATS[name], tmp_path / name, 200)
    assert found.faults == []
    assert found.read + found.refused == 200
    assert found.refused > 20 or name == "checkpoint"  # a damaged checkpoint is put aside, with a warning


def test_a_reader_that_raises_anything_else_is_found(tmp_path):
    def fragile(folder: Path) -> fuzz_formats.Format:
        place = folder / "x.json"
        place.write_text('{"a": [1, 2]}')
        return fuzz_formats.Format("x", place, lambda: sum(fuzz_formats.json.loads(place.read_text())["a"]))

    assert len(fuzz_formats.fuzz(fragile, tmp_path / "x", 50).faults) > 25
