"""The frame of all pages: escaping, the security policy, and the mark by which a page is recognised."""

from __future__ import annotations

import pytest

from prune.pages.frame import escaped, framed, generator_tag


def policy(page: str) -> str:
    return page.split('Content-Security-Policy" content="')[1].split('"')[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<b>\"a\" & 'b'</b>", "&lt;b&gt;&quot;a&quot; &amp; &#x27;b&#x27;&lt;/b&gt;"),
        ("a\udc80b\x1b\x85c", "a�b��c"),  # a lone surrogate and two control characters
        ("one\ntwo\tthree", "one\ntwo\tthree"),
    ],
)
def test_texts_are_escaped_and_can_be_written_as_utf_8(text, expected):
    assert escaped(text) == expected
    escaped(text).encode("utf-8")


def test_the_title_of_a_page_is_text():
    page = framed("<i>photos</i>", "<p>body</p>")
    assert "<title>&lt;i&gt;photos&lt;/i&gt;</title>" in page
    assert "<body>\n<p>body</p>\n</body>" in page


def test_a_page_without_scripts_may_run_none_and_loads_nothing():
    assert policy(framed("a", "b")) == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def test_a_page_runs_its_own_scripts_in_their_order_and_loads_nothing():
    page = framed("a", "<main></main>", scripts=("first()", "second()"))
    assert "script-src 'unsafe-inline'" in policy(page)
    assert policy(page).startswith("default-src 'none'")
    assert page.index("<main>") < page.index("<script>first()</script>") < page.index("<script>second()</script>")


def test_a_page_carries_the_name_of_its_command_and_its_own_rules_after_the_shared_ones():
    page = framed("a", "b", style=".mine { color: red }", generator="prune show")
    assert generator_tag("prune show") in page
    assert page.index("--ground:") < page.index(".mine")
    assert "generator" not in framed("a", "b")
