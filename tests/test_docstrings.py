"""The examples in docstrings are run and give what they say."""

from __future__ import annotations

import doctest
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
SOURCES = [p for package in ("prune", "pretrain", "transfer", "winnow") for p in sorted((ROOT / package).rglob("*.py"))]
SHOWN = [str(p.relative_to(ROOT)) for p in SOURCES if ">>> " in p.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", SHOWN)
def test_examples_in_docstrings_hold(path):
    module = import_module(path.removesuffix(".py").replace("/", "."))
    given = {"np": np, **vars(module)}
    result = doctest.testmod(module, globs=given, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > 0
    assert result.failed == 0


def test_there_are_examples_to_run():
    assert len(SHOWN) >= 10
