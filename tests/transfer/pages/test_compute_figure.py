"""The figure of accuracy against total compute: what it joins, where it puts things, and that texts stay texts."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree as Xml

import pytest

from prune.runs.files import InputError
from transfer.pages.compute_figure import Point, compute_figure, write_compute_figure

SVG = "{http://www.w3.org/2000/svg}"
ALL = [Point("all data", share, accuracy) for share, accuracy in ((0.1, 33.0), (0.2, 38.0), (1.0, 51.0))]
MINE = [Point("winnow", 0.2, 46.0, 45.0, 47.0, "keep 0.2"), Point("winnow", 0.4, 50.0), Point("winnow", 0.7, 48.0)]


def drawn(points: list[Point], **options: object) -> Xml.Element:
    return Xml.fromstring(compute_figure(points, **options))  # type: ignore[arg-type]


def markers(svg: Xml.Element) -> dict[str, Xml.Element]:
    """Markers of the points, by the text that a reader sees on pointing at them."""
    found = {}
    for one in svg:
        title = one.find(f"{SVG}title")
        if title is not None:
            found[str(title.text)] = one
    return found


def middle(marker: Xml.Element) -> tuple[float, float]:
    if "cx" in marker.attrib:
        return float(marker.attrib["cx"]), float(marker.attrib["cy"])
    numbers = [float(word) for word in re.findall(r"[0-9.]+", marker.attrib["d"])]
    return (min(numbers[::2]) + max(numbers[::2])) / 2, (min(numbers[1::2]) + max(numbers[1::2])) / 2


def corners(path: Xml.Element) -> int:
    return path.attrib["d"].count("L") + 1


def test_twice_the_compute_is_the_same_distance_everywhere_and_higher_is_better():
    points = [Point("all data", share, 100 * share) for share in (0.1, 0.2, 0.4)]
    places = [middle(one) for one in markers(drawn(points)).values()]
    assert places[1][0] - places[0][0] == pytest.approx(places[2][0] - places[1][0], abs=0.2)
    assert places[0][1] > places[1][1] > places[2][1]


def test_the_front_goes_through_what_nothing_cheaper_reaches():
    svg = drawn([*ALL, *MINE])
    front = next(one for one in svg if one.get("class") == "wf-front")
    # By compute: all data at 0.1, winnow at 0.2 and 0.4, all data at 1; neither all data at 0.2 nor winnow at 0.7.
    assert corners(front) == 4


def test_a_point_below_a_cheaper_one_of_its_curve_is_a_marker_alone():
    svg = drawn(MINE)
    lines = [one for one in svg if one.get("stroke-width") == "2.2" and one.get("class") is None]
    assert max(map(corners, lines)) == 2
    assert len(markers(svg)) == 3


def test_every_point_says_what_it_is():
    texts = list(markers(drawn([*ALL, *MINE])))
    assert "winnow, keep 0.2: 46.0 % (95 %: 45.0 to 47.0) at 20 % of the compute" in texts
    assert "all data: 51.0 % at 100 % of the compute" in texts


def test_names_stay_texts_and_the_same_points_give_the_same_file(tmp_path: Path):
    evil = [Point("<script>alert(1)</script>\x1b", 1.0, 50.0)]
    for name in ("a.svg", "b.svg"):
        write_compute_figure(tmp_path / name, evil, title="<i>")
    text = (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert text == (tmp_path / "b.svg").read_text(encoding="utf-8")
    assert "<script" not in text
    assert "<i>" not in text
    Xml.fromstring(text)


@pytest.mark.parametrize("width", [320, 360, 760])
def test_nothing_leaves_the_figure_however_narrow(width):
    many = [Point(f"method number {k}", 0.001 * 4**k, 10.0 * k + 5, 10.0 * k, 10.0 * k + 9) for k in range(6)]
    svg = drawn([*ALL, *many], width=width, title="Mean over targets")
    _, _, right, bottom = map(float, svg.attrib["viewBox"].split())
    assert right == width
    for one in markers(svg).values():
        x, y = middle(one)
        assert 0 < x < right
        assert 0 < y < bottom
    ticks = [float(one.attrib["x"]) for one in svg.iter(f"{SVG}text") if re.fullmatch(r"[0-9.]+ %", str(one.text))]
    assert len(ticks) >= 2
    assert all(b - a > 50 for a, b in zip(ticks, ticks[1:]))


@pytest.mark.parametrize("bad", [Point("a", 0.0, 50.0), Point("a", 0.5, float("nan")), Point("a", float("inf"), 50.0)])
def test_a_point_that_cannot_be_drawn_is_named(bad):
    with pytest.raises(InputError, match="a: accuracy"):
        compute_figure([bad])
    with pytest.raises(InputError, match="one point at least"):
        compute_figure([])
