"""Hooks of `make docs`: pages that stand outside docs/, pages generated from the code, and links between all of them.

ProperDocs reads docs/ alone. These hooks add the README, the changelog and other Markdown files of the repository, and
the reference; `OUTSIDE` says which file becomes which page. A link in a page is written for the repository; here it
becomes a link to the page of that file, or to a copy of the file below files/.
"""

from __future__ import annotations

import posixpath
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from properdocs.structure.files import File, Files
from pygments.formatters import HtmlFormatter

ROOT = Path(__file__).parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # the steps are imported for the reference, wherever this was started

import commands_page  # noqa: E402
import messages_page  # noqa: E402
import python_page  # noqa: E402

OUTSIDE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "prune/README.md": "index-format.md",
    "transfer/README.md": "transfer-map.md",
    "slurm/README.md": "slurm.md",
}
"""Markdown files outside docs/ and the pages that they become."""
_LINK = re.compile(r"(\]\()([^)#:\s]+)((?:#[^)\s]*)?\))")
_INDENTED = re.compile(r"^( {1,3})```\w*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_FENCE = re.compile(r"(^[ ]*```.*?^[ ]*```)", re.MULTILINE | re.DOTALL)


def pages() -> dict[str, str]:
    """Every Markdown file of the repository that becomes a page, and the page: both relative, with `/`."""
    found = {f"docs/{p.relative_to(ROOT / 'docs').as_posix()}": p.relative_to(ROOT / "docs").as_posix()
             for p in (ROOT / "docs").rglob("*.md")}  # fmt: skip
    results = sorted((ROOT / "tests/benchmarks/results").glob("*.md"))
    return found | OUTSIDE | {f"tests/benchmarks/results/{p.name}": f"results/{p.name}" for p in results}


def generated() -> dict[str, str]:
    """Pages made of the code: place and Markdown."""
    made = {f"reference/{name}.md": commands_page.page(name) for name in commands_page.PROGRAMS}
    made |= {f"reference/python-{name}.md": text for name, text in python_page.pages(ROOT).items()}
    return made | {"troubleshooting.md": messages_page.page(ROOT)}


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Add the pages from outside docs/, those of the code, and the files that pages link to."""
    where = pages()
    for source, page in OUTSIDE.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    for source, page in where.items():
        if page.startswith("results/"):
            files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    for page, text in generated().items():
        files.append(File.generated(config, page, content=text))
    for source in where:
        for target in _targets(source, (ROOT / source).read_text(encoding="utf-8")):
            place = f"files/{target}"
            if target not in where and (ROOT / target).is_file() and not files.get_file_from_path(place):
                files.append(File.generated(config, place, abs_src_path=str(ROOT / target)))
    colours = [HtmlFormatter(style="default").get_style_defs(".codehilite")]
    colours.append(HtmlFormatter(style="github-dark").get_style_defs("[data-bs-theme=dark] .codehilite"))
    files.append(File.generated(config, "css/code.css", content="\n".join(colours)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links of the repository into links of the site; code stays as it is."""
    where = pages()
    source = {site: repository for repository, site in where.items()}.get(page.file.src_uri)
    return relinked(markdown, source, page.file.src_uri, where) if source else markdown


def relinked(markdown: str, source: str, page: str, where: dict[str, str]) -> str:
    """The text with links that hold on the site.

    Parameters
    ----------
    markdown : str
    source : str
        The file that the text comes from, relative to the repository.
    page : str
        The page that it becomes.
    where : dict of str to str
        Files of the repository and their pages.
    """

    def link(match: re.Match[str]) -> str:
        target = _target(source, match[2])
        if target not in where and not (ROOT / target).is_file():
            return match[0]
        place = where.get(target, f"files/{target}")
        return match[1] + posixpath.relpath(place, posixpath.dirname(page) or ".") + match[3]

    parts = _FENCE.split(_INDENTED.sub(_in_item, markdown))
    return "".join(part if place % 2 else _LINK.sub(link, part) for place, part in enumerate(parts))


def _in_item(match: re.Match[str]) -> str:
    """A fenced block inside an item of a list as the indented block that Markdown's library reads there."""
    return "".join(f"{' ' * 8}{line[len(match[1]) :]}" for line in match[2].splitlines(keepends=True)) + "\n"


def _target(source: str, link: str) -> str:
    """The file that a link leads to, relative to the repository."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), link))


def _targets(source: str, markdown: str) -> Iterator[str]:
    for part in _FENCE.split(markdown)[::2]:
        for match in _LINK.finditer(part):
            yield _target(source, match[2])
