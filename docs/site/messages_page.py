"""The page of troubleshooting: every message about a wrong input, from the source, by the command that prints it."""

from __future__ import annotations

import ast
import html
from collections import defaultdict
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

PACKAGES = ("prune", "pretrain", "transfer", "winnow")
_MANY = 6


class Message(NamedTuple):
    """A message: its text with gaps for values, and where it is raised."""

    text: str
    module: str
    line: int


def messages(root: Path) -> list[Message]:
    """Every `InputError(...)` of the packages; a value that is filled in stands as a name in angle quotes.

    A message of which no word is fixed is left out: it repeats that of another error.
    """
    found = []
    for module, path in modules(root).items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "InputError":
                for argument in node.args[:1]:
                    text = " ".join(_words(argument).split())
                    if any(len(word) > 1 and word.isalpha() for word in _outside_gaps(text).split()):
                        found.append(Message(text, module, node.lineno))
    return found


def modules(root: Path) -> dict[str, Path]:
    """Modules of the packages by name."""
    paths = sorted(path for package in PACKAGES for path in (root / package).rglob("*.py"))
    return {".".join(p.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): p for p in paths}


def commands_of_modules(root: Path) -> dict[str, set[str]]:
    """Commands that import each module, whatever lies between."""
    paths = modules(root)
    imports = {name: set(_imported(path)) & paths.keys() for name, path in paths.items()}
    found: dict[str, set[str]] = defaultdict(set)
    for command, start in _commands().items():
        seen, waiting = {start}, [start]
        while waiting:
            new = imports[waiting.pop()] - seen
            seen |= new
            waiting += new
        for module in seen:
            found[module].add(command)
    return found


def page(root: Path) -> str:
    """The page as Markdown: messages of one command under its name, those of many commands last."""
    used = commands_of_modules(root)
    order = {command: place for place, command in enumerate(_commands())}
    groups: dict[tuple[str, ...], list[Message]] = defaultdict(list)
    for message in messages(root):
        groups[tuple(sorted(used.get(message.module, ()), key=order.__getitem__))].append(message)
    parts = [_HEAD.format(count=sum(map(len, groups.values())))]
    few = sorted((key for key in groups if 0 < len(key) <= _MANY), key=lambda key: (len(key), [order[k] for k in key]))
    many = sorted((key for key in groups if len(key) > _MANY or not key), key=len)
    for key in few:
        parts += [f"## {', '.join(key)}", _list(groups[key])]
    if many:
        parts += ["## Many commands", _list([message for key in many for message in groups[key]])]
    return "\n\n".join(parts) + "\n"


_HEAD = """# Troubleshooting

A mistake in a command ends with one line and [exit code 2](exit-codes.md). The line names the wrong value and a way
out; nothing was changed. These are the {count} lines that commands print, by command. Names in ‹angle quotes› stand
for what the command fills in. Copy a part of your line that names no file of yours into the field.

<p><label>Find <input id="find-message" type="search" autocomplete="off"></label>
<output id="found-messages"></output></p>
<script>
addEventListener("DOMContentLoaded", () => {{
  const field = document.getElementById("find-message"), count = document.getElementById("found-messages");
  const rows = [...document.querySelectorAll(".message")];
  field.addEventListener("input", () => {{
    const words = field.value.toLowerCase().split(/\\s+/);
    let shown = 0;
    for (const row of rows) {{
      row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
      shown += !row.hidden;
    }}
    count.textContent = field.value ? `${{shown}} of ${{rows.length}}` : "";
  }});
}});
</script>"""


def _list(group: list[Message]) -> str:
    texts = [f"<code>{html.escape(one.text)}</code> <small>{one.module}</small>" for one in group]
    rows = [f'<li class="message">{text}</li>' for text in texts]
    return '<ul class="messages">\n' + "\n".join(dict.fromkeys(rows)) + "\n</ul>"


def _commands() -> dict[str, str]:
    found = {}
    for program in ("prune", "transfer"):
        table: dict[str, str] = import_module(f"{program}.__main__").STEPS
        found |= {f"{program} {name}": text.split(":")[0] for name, text in table.items()}
    return {**found, "pretrain": "pretrain.train", "winnow slurm": "winnow.slurm_files"}


def _imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:  # the folder of the index alone imports so
                base = ".".join(filter(None, ("prune.index", base)))
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _words(node: ast.expr) -> str:
    """A message's text; what is computed stands as ‹name›."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_words(part) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return _words(node.value)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _words(node.left) + _words(node.right)
    if isinstance(node, ast.IfExp):
        return f"{_words(node.body)} (or: {_words(node.orelse)})" if _words(node.orelse) else _words(node.body)
    return f"‹{_name(node)}›"


def _name(node: ast.expr) -> str:
    """A short name for a value: the last name in it."""
    if isinstance(node, ast.Attribute):
        return node.attr.replace("_", " ")
    if isinstance(node, ast.Name):
        return node.id.replace("_", " ")
    names = [one for one in ast.walk(node) if isinstance(one, (ast.Name, ast.Attribute))]
    inside = [one for one in names if not (isinstance(one, ast.Name) and one.id in _FUNCTIONS)]
    if isinstance(node, ast.Call) and not node.args and isinstance(node.func, ast.Attribute):
        return _name(node.func.value)
    return _name(inside[0]) if inside else "value"


_FUNCTIONS = {"counted", "int", "len", "list", "map", "max", "min", "next", "repr", "round", "set", "sorted", "str"}


def _outside_gaps(text: str) -> str:
    parts, depth = [], 0
    for letter in text:
        depth += (letter == "‹") - (letter == "›")
        parts.append(letter if depth == 0 and letter != "›" else " ")
    return "".join(parts).replace(":", " ").replace(";", " ").replace(",", " ")
