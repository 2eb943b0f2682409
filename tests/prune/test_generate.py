"""`prune generate` refuses what it cannot draw before it takes the directory."""

from __future__ import annotations

import pytest

from prune.__main__ import main


@pytest.mark.parametrize(("flag", "value"), [("--seed", "-1"), ("--rare", "1"), ("--duplicates", "0.5")])
def test_a_mistake_leaves_the_directory_free_for_the_corrected_command(tmp_path, capsys, flag, value):
    assert main(["generate", "--out", str(tmp_path / "toy"), flag, value]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "Traceback" not in error
    assert not (tmp_path / "toy").exists()
