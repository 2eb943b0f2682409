"""The gallery of an index as one HTML page without scripts, in the frame of all pages; every name is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from prune.pages.frame import escaped, framed, generator_tag

_GENERATOR = "prune show"
GENERATOR = generator_tag(_GENERATOR)
"""Marks a page as ours: another file is not overwritten."""


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
    why : str
        Why the image is kept or dropped: appears at a click on the caption.
    """

    uri: str
    kept: bool
    caption: str
    title: str
    why: str = ""


@dataclass(frozen=True)
class ClassSection:
    """One class: two columns of titled strips."""

    name: str
    kept: str
    dropped: str
    kept_strips: Sequence[tuple[str, Sequence[Picture]]]
    dropped_strips: Sequence[tuple[str, Sequence[Picture]]]


_STYLE = """
.soft, .strip > span, figcaption, table { color: var(--soft); }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem; }
@media (max-width: 700px) { .pair { grid-template-columns: 1fr; } }
.column { background: var(--panel); border: 1px solid var(--line); border-top: 3px solid var(--good);
  border-radius: .6rem; padding: .75rem; }
.column.dropped { border-top-color: var(--bad); }
.column h3 { margin: 0 0 .25rem; }
.strip { margin-top: .5rem; }
.strip > span { font-size: .8rem; }
.pictures { display: flex; flex-wrap: wrap; gap: .5rem; }
figure { margin: 0; width: 112px; }
figure img, figure .none { width: 112px; height: 112px; object-fit: contain; background: var(--grid);
  border: 2px solid var(--good); border-radius: .3rem; display: block; font-size: .75rem; }
figure.dropped img, figure.dropped .none { border-color: var(--bad); border-style: dashed; }
figcaption { font-size: .75rem; overflow-wrap: anywhere; }
.group { border-bottom: 1px solid var(--line); padding: .5rem 0; }
.facts { margin: .8rem 0; }
.facts th, .facts td { border: 0; padding: .1rem 1rem .1rem 0; overflow-wrap: anywhere; }
nav a { white-space: nowrap; font-size: .85rem; }
"""


def gallery_html(
    title: str,
    words: Sequence[str],
    facts: Iterable[tuple[str, str]],
    sections: Sequence[ClassSection],
    groups: Sequence[Sequence[Picture]],
) -> str:
    """The page as text.

    Parameters
    ----------
    title : str
    words : sequence of str
        Paragraphs that say what the index is.
    facts : iterable of (str, str)
        Name and value.
    sections : sequence of ClassSection
    groups : sequence of sequence of Picture
        Duplicates.

    Returns
    -------
    str
        HTML; all texts are escaped here.
    """
    rows = "".join(f"<tr><th>{escaped(name)}</th><td>{escaped(value)}</td></tr>" for name, value in facts)
    links = "".join(f'<a href="#s{i}">{escaped(section.name)}</a>' for i, section in enumerate(sections))
    paragraphs = "".join(f"<p>{escaped(paragraph)}</p>" for paragraph in words)
    body = "".join(_section(i, section) for i, section in enumerate(sections))
    return framed(
        title,
        f'<header><h1>{escaped(title)}</h1>{paragraphs}<table class="facts">{rows}</table>'
        f'<nav>{links}<a href="#duplicates">duplicates</a></nav></header>\n<main>{body}{_groups(groups)}</main>',
        style=_STYLE,
        generator=_GENERATOR,
    )


def _section(number: int, section: ClassSection) -> str:
    return (
        f'<section id="s{number}"><h2>{escaped(section.name)}</h2><div class="pair">'
        f'<div class="column kept"><h3>kept: {escaped(section.kept)}</h3>{_strips(section.kept_strips)}</div>'
        f'<div class="column dropped"><h3>dropped: {escaped(section.dropped)}</h3>{_strips(section.dropped_strips)}'
        "</div></div></section>\n"
    )


def _strips(strips: Sequence[tuple[str, Sequence[Picture]]]) -> str:
    if not strips:
        return '<p class="soft">none</p>'
    return "".join(
        f'<div class="strip"><span>{escaped(title)}</span><div class="pictures">{"".join(map(_figure, pictures))}</div>'
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
        f'<img src="{escape(picture.uri)}" alt="{escaped(picture.title)}" loading="lazy">'
        if picture.uri
        else '<div class="none">cannot be shown</div>'
    )
    caption = escaped(picture.caption)
    if picture.why:
        caption = f"<details><summary>{caption or 'why'}</summary>{escaped(picture.why)}</details>"
    return f'<figure class="{kind}" title="{escaped(picture.title)}">{image}<figcaption>{caption}</figcaption></figure>'
