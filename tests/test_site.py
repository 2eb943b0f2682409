"""The documentation as a site: it builds without a warning, needs no network, and lacks no command, flag or message."""

from __future__ import annotations

import html
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROGRAMS = ("prune", "transfer")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built as `make docs` does: a warning would be an error."""
    place = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "properdocs", "build", "--strict", "--quiet", "--config-file", "mkdocs.yml"]
    done = subprocess.run([*command, "--site-dir", place], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return place


def shown(page: Path) -> str:
    """The text of a page, without tags."""
    return html.unescape(re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8")))


def test_make_docs_runs_the_command_that_is_tested_here():
    assert "properdocs build --strict --quiet --config-file mkdocs.yml" in (ROOT / "Makefile").read_text()


def test_pages_load_nothing_from_outside(site):
    outside = r"""(?:\bsrc=|<link[^>]*\bhref=|url\(|@import\s)["']?(?:https?:)?//[^"')\s>]+"""
    for path in (*site.rglob("*.html"), *site.rglob("*.css")):
        text = re.sub(r'<link[^>]*rel="canonical"[^>]*>', "", path.read_text(encoding="utf-8"))
        assert re.findall(outside, text) == [], path


def test_every_page_is_in_the_navigation(site):
    listed = set(re.findall(r'href="([^"#:]+\.html)"', (site / "index.html").read_text(encoding="utf-8")))
    pages = {p.relative_to(site).as_posix() for p in site.rglob("*.html")} - {"404.html", "index.html"}
    assert {page for page in pages - listed if not page.startswith("results/")} == set()


def test_every_flag_of_every_command_is_in_the_reference(site):
    from prune.runs.command_line import parse

    for program in PROGRAMS:
        page = (site / "reference" / f"{program}.html").read_text(encoding="utf-8")
        for name, text in import_module(f"{program}.__main__").STEPS.items():
            part = page.split(f'id="{program}-{name}"')[1].split("<h2")[0]
            for flag in flags(parse, f"{program} {name}", text.split(":")[0]):
                assert f"<code>{flag}</code>" in part, f"{program} {name} {flag}"
    page = (site / "reference" / "pretrain.html").read_text(encoding="utf-8")
    for flag in flags(parse, "pretrain", "pretrain.train"):
        assert f"<code>{flag}</code>" in page, flag


def flags(parse, program: str, module: str) -> set[str]:
    """The flags that `--help` lists: those at the start of a line."""
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()) as out, pytest.raises(SystemExit):
        parse(program, import_module(module), ["--help"])
    options = out.getvalue().split("options", 1)[1]
    lines = re.findall(r"^│ (-{1,2}[a-z][-\w.]*(?:, -{1,2}[a-z][-\w.]*)*)", options, re.MULTILINE)
    return {flag for line in lines for flag in line.split(", ") if flag.startswith("--")} - {"--help"}


def test_a_message_that_a_command_prints_can_be_found_with_its_command(site, capsys):
    from prune.__main__ import main

    assert (
        main(["select", "--manifest", "nowhere.npz", "--method", "nothing", "--keep", "0.2", "--out", "x.index.npz"])
        == 2
    )
    printed = capsys.readouterr().err.strip().removeprefix("prune select: ")
    text = shown(site / "troubleshooting.html")
    templates = [line.strip() for line in text.splitlines() if "‹" in line and len(line) < 600]
    fits = [one for one in templates if re.match(pattern(one.rsplit(" ", 1)[0]), printed)]
    assert fits, printed


def pattern(template: str) -> str:
    """A regular expression for lines that come from a message of the page."""
    return "".join(".*" if part.startswith("‹") else re.escape(part) for part in re.split(r"(‹[^›]*›)", template))


def test_docstrings_are_pages_with_shapes_units_and_papers(site):
    text = shown(site / "reference" / "python-methods.html")
    assert "prune.methods.quota" in text
    assert "No class above its size" in text or "budget" in text
    assert "PrunedIndex" in shown(site / "reference" / "python-index.html")
