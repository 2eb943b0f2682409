"""A page with charts: the body of a Jinja template in the frame of all pages, with plotly and the script that draws.

`report.css` and `report.js` beside this file are the look and the behaviour of all pages with charts. The template
escapes all text; what the script reads is in a JSON block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from prune.pages.frame import framed, printable

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
        Plotly figures as JSON; the template places number k with `data-figure="k"`.
    values
        What the template reads.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, finalize=_printable,
    )  # fmt: skip
    body = environment.get_template(template).render(**values)
    data = f'<script type="application/json" id="figures">{htmlsafe_json_dumps(list(figures))}</script>'
    style, script = ((_HERE / f"report.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    return framed(title, f"{body}\n{data}", style=style, scripts=(get_plotlyjs(), script))


def _printable(value: Any) -> Any:
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value
