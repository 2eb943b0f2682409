"""Pages of the Python API: public functions and classes with their docstrings, read from the source alone."""

from __future__ import annotations

import ast
from pathlib import Path

from docstring_markdown import function_text, plain

FOLDERS = {
    "index": ("prune/index", "The index and the manifest. They need NumPy alone."),
    "scores": ("prune/scores", "Sample scores and class votes: functions on arrays."),
    "methods": ("prune/methods", "Quotas, ranks, the gate and the named methods: functions on arrays."),
    "bytes": ("prune/byte_budget", "Which image at which JPEG quality, so that the bytes fit."),
    "models": ("prune/models", "Networks by name, their features and FLOPs."),
    "training": ("pretrain", "The training loop, recipes and schedules."),
    "evaluation": ("transfer/evaluation", "A model on one target: probe, nearest neighbours, fine-tuning."),
    "verdicts": ("transfer/verdicts", "What a study shows: intervals, tests, costs."),
}
"""Page, its folder, and a sentence about it."""


def pages(root: Path) -> dict[str, str]:
    """Markdown of each page of `FOLDERS`, by name."""
    return {name: _page(root, folder, text) for name, (folder, text) in FOLDERS.items()}


def _page(root: Path, folder: str, text: str) -> str:
    parts = [f"# {folder}", text, "Public functions and classes, module by module. What other projects build on is "
             "`PrunedIndex` and `Manifest`; the rest may change with a new version."]  # fmt: skip
    for path in sorted((root / folder).glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        members = [_member(node, "###") for node in tree.body if _public(node)]
        if members:
            about = (ast.get_docstring(tree) or "").split("\n\n")[0]
            module = ".".join(path.relative_to(root).with_suffix("").parts)
            parts += [f"## {module}", plain(about), *members]
    return "\n\n".join(parts) + "\n"


def _public(node: ast.AST) -> bool:
    named = isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")
    return named and bool(ast.get_docstring(node))  # type: ignore[arg-type]


def _member(node: ast.stmt, level: str) -> str:
    """A function, or a class with its public methods."""
    assert isinstance(node, (ast.FunctionDef, ast.ClassDef))
    parts = [f"{level} {node.name}"]
    if isinstance(node, ast.FunctionDef):
        parts.append(f"```python\n{_signature(node)}\n```")
    parts.append(function_text(ast.get_docstring(node) or ""))
    if isinstance(node, ast.ClassDef):
        parts += [_member(one, level + "#") for one in node.body if _public(one)]
    return "\n\n".join(parts)


def _signature(node: ast.FunctionDef) -> str:
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    line = f"{node.name}({ast.unparse(node.args)}){returns}"
    return line if len(line) <= 110 else line.replace("(", "(\n    ", 1).replace(", ", ",\n    ")
