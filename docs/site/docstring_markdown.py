"""Docstrings as Markdown: texts of modules, and the sections of a function's docstring in NumPy's form."""

from __future__ import annotations

import re

from docstring_parser import DocstringStyle, parse

_CODE = re.compile(r"(`[^`]*`)")


def plain(text: str) -> str:
    """Text outside code as Markdown that shows it as it is: no HTML, no emphasis by accident."""
    parts = _CODE.split(text)
    for place in range(0, len(parts), 2):
        parts[place] = re.sub(r"([*_\[\]|\\])", r"\\\1", parts[place]).replace("&", "&amp;").replace("<", "&lt;")
    return "".join(parts)


def cell(text: str) -> str:
    """Text for a cell of a table, on one line."""
    return plain(" ".join(text.split())).replace("\n", " ")


def code(text: str) -> str:
    """Text as code in a sentence or a cell."""
    mark = "``" if "`" in text else "`"
    return f"{mark}{text.replace('|', '&#124;') if '|' not in text else text}{mark}" if text else ""


def module_text(text: str) -> str:
    """The docstring of a module: paragraphs, and indented lines as code."""
    lines = []
    for line in text.strip().splitlines():
        lines.append(line if line.startswith("    ") else plain(line))
    return "\n".join(lines)


def function_text(text: str) -> str:
    """The docstring of a function or class: a summary, tables of parameters and results, examples."""
    found = parse(text, DocstringStyle.NUMPYDOC)
    parts = [plain(found.short_description or "")]
    if found.long_description:
        parts.append(module_text(found.long_description))
    if found.params:
        rows = [f"| `{one.arg_name}` | {cell(one.type_name or '')} | {cell(one.description or '')} |"
                for one in found.params]  # fmt: skip
        parts.append("\n".join(["| parameter | type | meaning |", "|---|---|---|", *rows]))
    if found.many_returns:
        what = [" ".join(filter(None, (one.return_name, one.type_name))) for one in found.many_returns]
        rows = [f"| {cell(head)} | {cell(one.description or '')} |" for head, one in zip(what, found.many_returns)]
        parts.append("\n".join(["| returns | meaning |", "|---|---|", *rows]))
    if found.raises:
        rows = [f"| `{one.type_name}` | {cell(one.description or '')} |" for one in found.raises]
        parts.append("\n".join(["| raises | when |", "|---|---|", *rows]))
    for one in found.examples:
        shown = "\n".join(filter(None, (one.snippet, one.description)))
        parts.append("```pycon\n" + shown + "\n```")
    return "\n\n".join(filter(None, parts))
