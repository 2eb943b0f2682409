"""Pages with charts: texts from outside stay text, and can always be written."""

from __future__ import annotations

import json

from transfer.pages.curves_page import Chart, Curve, Section, curves_html

NAME = "<i>cat</i>\udc80\x1b"


def test_names_with_markup_or_broken_characters_are_text_that_can_be_written():
    curve = Curve(NAME, [1, 2], [3, 4], [0, 0])
    sections = [Section(NAME, NAME, [Chart(NAME, "x", "y", [curve])])]
    page = curves_html(NAME, NAME, sections, (("head",), [[NAME]]), NAME, {"name": NAME})
    page.encode("utf-8")
    assert "<i>" not in page.split("</style>")[1].split("<script>")[0]
    assert page.count("&lt;i&gt;cat&lt;/i&gt;��") >= 8


def test_the_figures_of_a_page_cannot_end_their_script():
    evil = "</script><script>alert(1)</script>"
    chart = Chart("title", evil, "y", [Curve(evil, [1], [2], [0])])
    page = curves_html("a", "b", [Section("c", "d", [chart])], (("h",), []), "", {})
    figures = json.loads(page.split('id="figures">')[1].split("</script>")[0])
    assert figures[0]["layout"]["xaxis"]["title"]["text"] == evil
