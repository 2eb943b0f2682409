"""The gallery as one HTML page: no script, no network, readable in light and dark; every name is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

GENERATOR = '<meta name="generator" content="prune show">'
"""By this a page is recognised as ours before it is written over."""


@dataclass(frozen=True)
class Picture:
    """An image on the page.

    Attributes
    ----------
    uri : str
        `data:` URI; empty when the image cannot be shown.
    kept : bool
    caption : str
        One short line below the image.
    title : str
        Appears when the pointer rests on the image.
    """

    uri: str
    kept: bool
    caption: str
    title: str


@dataclass(frozen=True)
class Section:
    """One class: two columns of titled strips."""

    name: str
    kept: str
    dropped: str
    kept_strips: Sequence[tuple[str, Sequence[Picture]]]
    dropped_strips: Sequence[tuple[str, Sequence[Picture]]]


_STYLE = """
:root { color-scheme: light dark; --back: #fff; --text: #1c1c1e; --soft: #62626a; --line: #d9d9de; --kept: #0a7d4b;
  --dropped: #b3402a; --plate: #f4f4f6; }
@media (prefers-color-scheme: dark) { :root { --back: #16171a; --text: #ececf0; --soft: #a2a2ac; --line: #36373d;
  --kept: #4fce93; --dropped: #ff8f77; --plate: #202126; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1160px; padding: 1.5rem 1rem 4rem; background: var(--back); color: var(--text);
  font: 15px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .5rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; overflow-wrap: anywhere; }
h3 { font-size: .95rem; margin: 0 0 .25rem; }
p.soft, .strip > span, figcaption, table { color: var(--soft); }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem; }
@media (max-width: 700px) { .pair { grid-template-columns: 1fr; } }
.column { background: var(--plate); border-radius: 8px; padding: .75rem; border-top: 3px solid var(--kept); }
.column.dropped { border-top-color: var(--dropped); }
.strip { margin-top: .5rem; }
.strip > span { font-size: .8rem; }
.pictures { display: flex; flex-wrap: wrap; gap: .5rem; }
figure { margin: 0; width: 112px; }
figure img, figure .none { width: 112px; height: 112px; object-fit: contain; background: var(--back);
  border: 2px solid var(--kept); border-radius: 4px; display: block; font-size: .75rem; }
figure.dropped img, figure.dropped .none { border-color: var(--dropped); border-style: dashed; }
figcaption { font-size: .75rem; overflow-wrap: anywhere; }
.group { border-bottom: 1px solid var(--line); padding: .5rem 0; }
table { border-collapse: collapse; font-size: .85rem; }
td, th { text-align: left; padding: .1rem 1rem .1rem 0; vertical-align: top; overflow-wrap: anywhere; }
nav a { color: inherit; margin-right: .75rem; white-space: nowrap; font-size: .85rem; }
"""


def page(
    title: str,
    words: Sequence[str],
    facts: Iterable[tuple[str, str]],
    sections: Sequence[Section],
    groups: Sequence[Sequence[Picture]],
) -> str:
    """Lay out the page.

    Parameters
    ----------
    title : str
    words : sequence of str
        Paragraphs that say what the index is.
    facts : iterable of (str, str)
        Name and value.
    sections : sequence of Section
    groups : sequence of sequence of Picture
        Duplicates.

    Returns
    -------
    str
        HTML; all texts are escaped here.
    """
    rows = "".join(f"<tr><th>{_text(name)}</th><td>{_text(value)}</td></tr>" for name, value in facts)
    links = "".join(f'<a href="#s{i}">{_text(section.name)}</a>' for i, section in enumerate(sections))
    body = "".join(_section(i, section) for i, section in enumerate(sections))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'{GENERATOR}<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head>\n<body><h1>{_text(title)}</h1>"
        + "".join(f"<p>{_text(paragraph)}</p>" for paragraph in words)
        + f'<table>{rows}</table><nav>{links}<a href="#duplicates">duplicates</a></nav>\n{body}{_groups(groups)}'
        "</body></html>\n"
    )


def _section(number: int, section: Section) -> str:
    return (
        f'<section id="s{number}"><h2>{_text(section.name)}</h2><div class="pair">'
        f'<div class="column kept"><h3>kept: {_text(section.kept)}</h3>{_strips(section.kept_strips)}</div>'
        f'<div class="column dropped"><h3>dropped: {_text(section.dropped)}</h3>{_strips(section.dropped_strips)}</div>'
        "</div></section>\n"
    )


def _strips(strips: Sequence[tuple[str, Sequence[Picture]]]) -> str:
    if not strips:
        return '<p class="soft">none</p>'
    return "".join(
        f'<div class="strip"><span>{_text(title)}</span><div class="pictures">{"".join(map(_figure, pictures))}</div>'
        "</div>"
        for title, pictures in strips
    )


def _groups(groups: Sequence[Sequence[Picture]]) -> str:
    if not groups:
        return '<section id="duplicates"><h2>Duplicates</h2><p class="soft">None are known.</p></section>\n'
    inside = "".join(
        f'<div class="group"><div class="pictures">{"".join(map(_figure, group))}</div></div>' for group in groups
    )
    return (
        '<section id="duplicates"><h2>Duplicates</h2><p class="soft">Each row is one group; a dashed frame marks a '
        f"dropped image.</p>{inside}</section>\n"
    )


def _figure(picture: Picture) -> str:
    kind = "kept" if picture.kept else "dropped"
    image = (
        f'<img src="{escape(picture.uri)}" alt="{_text(picture.title)}" loading="lazy">'
        if picture.uri
        else '<div class="none">cannot be shown</div>'
    )
    return (
        f'<figure class="{kind}" title="{_text(picture.title)}">{image}<figcaption>{_text(picture.caption)}'
        "</figcaption></figure>"
    )


def _text(value: str) -> str:
    """Escape for HTML; lone surrogates and control characters, which UTF-8 or HTML cannot hold, become U+FFFD."""
    clean = "".join("�" if ord(c) < 32 or 0x7F <= ord(c) < 0xA0 or 0xD800 <= ord(c) < 0xE000 else c for c in value)
    return escape(clean)
