"""The frame of every HTML page: head, style and escaping. A page is one file that opens without a network.

A page adds its body, rules for it, and, where it has charts, its scripts. The security policy allows nothing from
outside the file. Colours are CSS variables with a light and a dark set; a page's own rules use these variables.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

STYLE = """
:root {
  color-scheme: light dark;
  --ground: #fbfbfa; --panel: #ffffff; --ink: #1c1e21; --soft: #5a6068; --line: #dcdfe3; --grid: #e6e8eb;
  --accent: #1d62bf; --good: #0b6e3e; --good-ground: #dff3e8; --bad: #a8201a; --bad-ground: #fbe3e1;
  --open: #7a5200; --open-ground: #fbefd4; --bar: #cfe0f7;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --ground: #14161a; --panel: #1b1e23; --ink: #e8eaed; --soft: #a3abb5; --line: #343a42; --grid: #2c3138;
    --accent: #7fb2ff; --good: #77dda5; --good-ground: #123524; --bad: #ff9a92; --bad-ground: #43191a;
    --open: #f0c674; --open-ground: #3b2e10; --bar: #23405f;
  }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
header, main, footer { max-width: 84rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 1.75rem; }
main { padding-bottom: 3rem; }
h1 { font-size: 1.3rem; line-height: 1.4; font-weight: 600; margin: .4rem 0 1.2rem; max-width: 62rem;
  overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .4rem; padding-top: .8rem; border-top: 1px solid var(--line);
  scroll-margin-top: 1rem; overflow-wrap: anywhere; }
h3 { font-size: 1rem; margin: 1.4rem 0 .5rem; }
p { max-width: 62rem; margin: .4rem 0 .8rem; }
a { color: var(--accent); }
small { font-size: .85em; color: var(--soft); }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .55rem; border-bottom: 1px solid var(--line); vertical-align: top; }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
@media print {
  body { font-size: 10pt; background: #fff; }
  header, main, footer { max-width: none; padding: 0; }
  nav { display: none; }
  th, td { padding: .15rem .2rem; }
  h2, h3 { break-after: avoid; }
  figure, tr, li { break-inside: avoid; }
}
"""


def framed(title: str, body: str, *, style: str = "", generator: str = "", scripts: Sequence[str] = ()) -> str:
    """A whole page around `body`.

    Parameters
    ----------
    title : str
        Escaped here.
    body : str
        HTML; its maker escapes the texts in it, by `escaped` or by a template with automatic escaping.
    style : str
        CSS rules of this page, after the shared ones.
    generator : str
        Name of the command that made the page, for its head.
    scripts : sequence of str
        JavaScript that runs after the body, in this order; without any, the page may run none.
    """
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    if scripts:
        policy += " blob:; script-src 'unsafe-inline'"  # charts draw their images as blobs
    made_by = generator_tag(generator) + "\n" if generator else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"{made_by}"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f"<title>{escaped(title)}</title>\n<style>{STYLE}{style}</style>\n</head>\n<body>\n{body}\n"
        + "".join(f"<script>{script}</script>\n" for script in scripts)
        + "</body>\n</html>\n"
    )


def generator_tag(generator: str) -> str:
    """The tag that names the command which made a page; by it a command recognises its own pages."""
    return f'<meta name="generator" content="{escaped(generator)}">'


def escaped(text: str) -> str:
    """Escape a text for HTML."""
    return escape(printable(text))


def printable(text: str) -> str:
    """Replace lone surrogates and control characters, which UTF-8 or HTML cannot hold, by U+FFFD."""
    return "".join(
        "�" if (ord(c) < 32 and c not in "\t\n") or 0x7F <= ord(c) < 0xA0 or 0xD800 <= ord(c) < 0xE000 else c
        for c in text
    )
