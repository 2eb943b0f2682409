"""A page with charts: the body of a Jinja template in the frame of all pages, its charts as SVG.

`report.css` and `report.js` beside this file are the look and the behaviour of all pages with charts. The template
escapes all text. Plotly, which draws a chart in which a reader can zoom, is packed into the page and unpacked when a
reader asks for it: it is ten times the rest, and most readers never do.
"""

from __future__ import annotations

import base64
import gzip
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from prune.pages.frame import framed, printable
from transfer.pages.chart_svg import chart_svg
from transfer.pages.looks import Look
from transfer.pages.svg_drawing import legend_key

_HERE = Path(__file__).parent


def chart_page(template: str, title: str, figures: Sequence[Mapping[str, Any]], **values: Any) -> str:
    """The page as text.

    Parameters
    ----------
    template : str
        Name of the template of the body, beside this file.
    title : str
        Of the window.
    figures : sequence of mapping
        Plotly figures as JSON; the template places number k as `drawn(k, text)` in an element with
        `data-figure="k"`.
    values
        What the template reads.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, finalize=_printable,
    )  # fmt: skip

    def drawn(number: int, text: str) -> Markup:
        return Markup(chart_svg(figures[number], printable(text)))

    def key(look: Look) -> Markup:
        return Markup(legend_key(look))

    body = environment.get_template(template).render(**values, drawn=drawn, key=key)
    data = f'<script type="application/json" id="figures">{htmlsafe_json_dumps(list(figures))}</script>'
    packed = f'<script type="application/gzip" id="plotly">{_packed_plotly()}</script>'
    style, script = ((_HERE / f"report.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    return framed(title, f"{body}\n{data}\n{packed}", style=style, scripts=(script,))


@cache
def _packed_plotly() -> str:
    """Plotly's script, compressed, in base64; the same bytes each time."""
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()


def _printable(value: Any) -> Any:
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value
