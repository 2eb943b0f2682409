"""The page on the index file: its commands parse, and what it lists is what there is."""

import importlib
import re
import shlex
from pathlib import Path

from prune.__main__ import STEPS
from prune.index import index_file
from prune.index.pruned_index import REASONS
from prune.runs import command_line

TEXT = (Path(__file__).parents[3] / "prune" / "README.md").read_text(encoding="utf-8")


def test_every_command_of_the_page_is_understood():
    lines = [line.partition("#")[0] for line in TEXT.splitlines() if line.startswith("prune ")]
    assert len(lines) >= 6
    for line in lines:
        _, step, *arguments = shlex.split(line)
        command_line.parse(step, importlib.import_module(STEPS[step].partition(":")[0]), arguments)


def test_the_page_lists_the_members_types_and_reasons_of_the_format():
    rows = dict(re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", TEXT, re.MULTILINE))
    types = {name: kind.replace("\\", "").replace("S<w>", "S") for name, kind in rows.items()}
    assert types == {"meta": "|u1", **index_file.COLUMNS, "id": "|S", "checksum": "|u1", **index_file.MEMBERS}
    assert index_file.FORMAT in TEXT
    assert index_file.PACKED in TEXT
    assert all(f"`{reason}`" in TEXT for reason in REASONS)


def test_the_page_says_which_folder_another_project_copies():
    assert "copies one folder, `prune/index/`" in " ".join(TEXT.split())
