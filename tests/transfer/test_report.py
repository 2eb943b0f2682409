from __future__ import annotations

import base64
import csv
import io
import itertools
import re
from pathlib import Path
from xml.etree import ElementTree as Xml

import numpy as np
import pytest
from PIL import Image

from prune.runs.files import read_json, write_json
from transfer.__main__ import main

HOSTILE = "<b>bird</b><img src=x onerror=alert(1)>"
METHODS = ("random", "random-equal-time", "dp4tl-lm", "dp4tl-fm", "winnow")
ACCURACY = {("full", 1.0): 0.6} | {
    (method, keep): level + 0.02 * place
    for place, method in enumerate(METHODS)
    for keep, level in ((0.1, 0.4), (0.2, 0.45), (0.5, 0.53))
}


@pytest.fixture(scope="module")
def big(tmp_path_factory, make_study) -> Path:
    """Page of a study with 100 classes and 5 methods at 3 keeps, two evaluations, names that try to be HTML."""
    folder = tmp_path_factory.mktemp("big")
    classes = [HOSTILE, *(f"class {k}" for k in range(99))]
    make_study(
        folder, ACCURACY, targets=("birds", "<i>cars</i>"), evaluations=("probe", "finetune"), images=500,
        classes=classes,
        leaks={
            "birds": {"images": 500, "leaked": 0, "source_images": 0, "pairs": []},
            "<i>cars</i>": {"images": 500, "leaked": 21, "source_images": 30, "identical": 7,
                            "pairs": [[HOSTILE, "x/0.png"]]},
        },
    )  # fmt: skip
    assert main(["report", "--study", str(folder)]) == 0
    return folder / "report.html"


def test_a_tracker_gets_verdicts_classes_and_the_curve_of_every_method(big, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    study = big.parent
    assert main(["report", "--study", str(study), "--out", str(tmp_path / "x.html"), "--tracker", "tensorboard"]) == 0
    events = EventAccumulator(str(study / "tracker/tensorboard")).Reload()
    tags = {tag.removesuffix("/text_summary") for tag in events.Tags()["tensors"]}
    assert {"study/verdict", "study/probe", "study/finetune", "study/costs", "kept/winnow at keep 0.2"} <= tags
    curve = events.Scalars("accuracy over total compute %/dp4tl-lm")
    # Keeps of 10, 20 and 50 % and a surrogate of 5 % of one pretraining; of two targets' mean.
    assert [point.step for point in curve] == [15, 25, 55]
    assert [point.value for point in curve] == pytest.approx([44, 49, 57], abs=1.5)


def rows_shown(browser) -> list[list[str]]:
    return browser.run(
        "[...document.querySelectorAll('#verdict-table tbody tr')].filter((row) => row.offsetParent)"
        ".map((row) => [...row.cells].map((cell) => cell.innerText))"
    )


def test_the_page_runs_without_complaint_and_asks_the_network_for_nothing(big, browser):
    browser.open(big)
    assert browser.complaints() == []
    asked = browser.requests()
    assert asked[0] == big.resolve().as_uri()
    assert [url for url in asked[1:] if not url.startswith(("data:", "blob:"))] == []


def test_the_page_stays_under_6_mb_for_100_classes_and_5_methods(big):
    assert big.stat().st_size < 6e6


def test_the_page_comes_with_its_charts_drawn_and_loads_plotly_for_nobody(big, browser):
    browser.open(big)
    assert browser.run("typeof Plotly") == "undefined"
    assert browser.run("document.querySelectorAll('.chart:not(:has(> svg))').length") == 0


def test_a_reader_can_zoom_in_a_chart_and_go_back_to_the_picture(big, browser):
    browser.open(big)
    press = "document.querySelector('.chart').parentElement.querySelector('.tools button').click()"
    lines = "document.querySelectorAll('.chart .zoomed .scatterlayer .trace path.js-line').length"
    browser.run(press)
    browser.run(until(f"{lines} === 6"))
    picture = "getComputedStyle(document.querySelector('.chart > svg')).display"
    assert browser.run(picture) == "none"
    browser.run(press)
    browser.run(until(f"{lines} === 0"))
    assert browser.run(picture) == "block"
    assert browser.complaints() == []
    assert [url for url in browser.requests()[1:] if not url.startswith(("data:", "blob:"))] == []


def until(condition: str) -> str:
    """A promise that ends when a condition holds."""
    return f"new Promise((done) => {{ const look = () => {condition} ? done(1) : setTimeout(look, 20); look(); }})"


def saved(browser, button: str) -> tuple[str, str, str]:
    """Name, type and content (base64) of the file that a button of the page saves."""
    return tuple(
        browser.run(
            "new Promise((done) => {"
            "HTMLAnchorElement.prototype.click = async function () {"
            "  const blob = window.lastBlob, reader = new FileReader();"
            "  reader.onload = () => done([this.download, blob.type, reader.result.split(',')[1]]);"
            "  reader.readAsDataURL(blob); };"
            "const make = URL.createObjectURL;"
            "URL.createObjectURL = (blob) => { window.lastBlob = blob; return make.call(URL, blob); };"
            f"{button}.click(); }})"
        )
    )


@pytest.mark.parametrize("figure", ["figure.compute", "main figure"])
def test_a_figure_can_be_saved_as_svg_and_png(big, browser, figure: str):
    browser.open(big, prefers_color_scheme="dark")
    tools = f"[...document.querySelectorAll('{figure} .tools button')]"
    name, kind, data = saved(browser, f"{tools}.find((b) => b.textContent === 'SVG')")
    assert (name[-4:], kind) == (".svg", "image/svg+xml")
    root = Xml.fromstring(base64.b64decode(data))
    assert len(list(root.iter("{http://www.w3.org/2000/svg}path"))) > 10
    browser.open(big, prefers_color_scheme="dark")
    name, kind, data = saved(browser, f"{tools}.find((b) => b.textContent === 'PNG')")
    assert (name[-4:], kind) == (".png", "image/png")
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")).astype(int)
    assert pixels.shape[1] == 2 * float(root.attrib["width"])
    assert tuple(pixels[0, 0]) == (255, 255, 255)  # the colours of paper, whatever the screen's
    assert 0.005 < (pixels.min(axis=2) < 128).mean() < 0.3


def test_a_table_can_be_saved_as_csv_as_it_is_filtered_and_formulas_are_guarded(big, browser):
    browser.open(big)
    browser.choose("#filters select[data-key=method]", "winnow")
    button = "document.querySelector('section[aria-labelledby=verdicts] .tools button')"
    name, kind, data = saved(browser, button)
    assert (name, kind) == ("accuracy-and-verdict-of-every-condition.csv", "text/csv")
    rows = list(csv.reader(io.StringIO(base64.b64decode(data).decode())))
    shown = rows_shown(browser)
    assert len(rows) == 1 + len(shown)
    assert {row[2] for row in rows[1:]} == {"winnow"}
    assert rows[0][6] == "Against full"
    assert all(row[6].startswith("'") for row in rows[1:])  # as -6.81 [-7.48, -6.15]: no number, so it is guarded


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(big, browser, scheme: str):
    browser.open(big, prefers_color_scheme=scheme)
    assert browser.serious() == []
    assert browser.run("document.querySelectorAll('nav a[href=\"#commands\"]').length") == 1


def test_every_chart_is_drawn_for_the_evaluation_that_is_chosen(big, browser):
    browser.open(big)
    visible = "[...document.querySelectorAll('.chart')].filter((c) => c.offsetParent)"
    drawn = f"{visible}.map((c) => c.querySelectorAll('.curve:has(*)').length)"
    # Mean and two targets against keep: five methods and full data. Twice against cost: the same. Calibration: the
    # diagonal, full data, the headline's condition and random.
    assert browser.run(drawn) == [6, 6, 6, 6, 6, 4]
    first = browser.run(f"{visible}[0].dataset.figure")
    browser.choose("#evaluation", "1")
    assert browser.run(drawn) == [6, 6, 6, 6, 6, 4]
    assert browser.run(f"{visible}[0].dataset.figure") != first
    assert browser.complaints() == []


def test_charts_name_their_content_for_screen_readers(big, browser):
    browser.open(big)
    label = browser.run("document.querySelector('.chart svg').getAttribute('aria-label')")
    assert "winnow at 0.5: " in label
    assert browser.run("document.querySelectorAll('.chart svg:not([role=img])').length") == 0
    assert browser.run("document.querySelectorAll('img:not([alt]), select:not(label select)').length") == 0


def test_filters_keep_the_matching_rows(big, browser):
    browser.open(big)
    assert {row[1] for row in rows_shown(browser)} == {"mean"}  # the page begins with the mean over targets
    browser.choose("#filters select[data-key=method]", "winnow")
    browser.choose("#filters select[data-key=evaluation]", "probe")
    shown = rows_shown(browser)
    assert [(row[0], row[1], row[2], row[3]) for row in shown] == [
        ("probe", "mean", "winnow", keep) for keep in ("0.1", "0.2", "0.5")
    ]
    assert browser.run("document.getElementById('count').textContent") == "3 of 96 rows"  # 16 conditions, 3 scopes, 2
    browser.run("document.querySelector('#filters button').click()")
    assert len(rows_shown(browser)) == 96


def test_columns_sort_by_value_both_ways_from_the_keyboard(big, browser):
    browser.open(big)
    browser.run("document.querySelectorAll('#verdict-table thead button')[4].focus()")
    accuracies = []
    for _ in range(2):
        for kind in ("keyDown", "keyUp"):
            browser.call("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13,
                         text="\r" if kind == "keyDown" else "")  # fmt: skip
        accuracies.append([float(row[4].split()[0]) for row in rows_shown(browser)])
    assert accuracies[0] == sorted(accuracies[0])
    assert accuracies[1] == sorted(accuracies[0], reverse=True)
    assert accuracies[0][0] < accuracies[0][-1]
    sort = "[...document.querySelectorAll('#verdict-table thead th')].map((h) => h.ariaSort)"
    assert browser.run(sort)[4] == "descending"


def test_names_with_html_in_them_stay_text(big, browser):
    browser.open(big)
    shown = browser.run("[...document.querySelectorAll('.selection th[scope=row]')].map((cell) => cell.textContent)")
    assert HOSTILE in shown
    assert browser.run("document.querySelectorAll('b, i, img[src=x]').length") == 0
    assert "<i>cars</i>" in browser.run("document.querySelector('.charts').innerText")


def test_what_was_kept_is_shown_for_the_selection_that_is_chosen(big, browser):
    browser.open(big)
    titles = browser.run("[...document.querySelectorAll('#selection option')].map((o) => o.textContent)")
    assert len(titles) == 12  # four methods with an index at three keeps
    browser.choose("#selection", str(titles.index("dp4tl-lm at keep 0.2")))
    text = browser.run("[...document.querySelectorAll('.selection')].filter((d) => d.offsetParent)[0].innerText")
    assert "keeps 800 of 4,000 images" in text  # 100 classes of 40
    assert text.count("\n") > 100


def test_pictures_are_there_and_load(big, browser):
    browser.open(big)
    loaded = "[...document.querySelectorAll('.gallery img')].filter((i) => i.complete && i.naturalWidth > 0).length"
    assert browser.run(loaded) == browser.run("document.querySelectorAll('.gallery img').length") == 4 * 24


def test_test_images_that_the_source_holds_are_counted_by_target_with_names_as_text(big, browser):
    browser.open(big)
    table = "document.querySelector('section[aria-labelledby=leaks] table')"
    cells = browser.run(f"[...{table}.tBodies[0].rows].map((row) => [...row.cells].map((cell) => cell.innerText))")
    assert cells == [
        ["birds", "500", "none found", "", "0", "not compared"],
        ["<i>cars</i>", "500", "21", "7", "30", "not compared"],
    ]
    examples = browser.run("document.querySelector('section[aria-labelledby=leaks] details').textContent")
    assert f"source {HOSTILE}, test x/0.png" in examples
    warned = browser.run("[...document.querySelectorAll('.warning')].map((one) => one.innerText)")
    said = "21 of 500 test images of <i>cars</i> (7 identical) have a near-duplicate in the source"
    assert any(said in one for one in warned)
    assert browser.run("document.querySelectorAll('nav a[href=\"#leaks\"]').length") == 1


def test_the_csv_of_the_page_is_the_file_beside_it(big, browser):
    browser.open(big)
    data = browser.run("document.querySelector('a[download=\"results.csv\"]').href")
    text = browser.run(
        f"new TextDecoder().decode(Uint8Array.from(atob('{data.partition(',')[2]}'), (c) => c.charCodeAt(0)))"
    )
    assert text == (big.parent / "results.csv").read_text(encoding="utf-8")
    assert len(list(csv.DictReader(io.StringIO(text)))) == 96


@pytest.mark.parametrize(("scheme", "ground"), [("light", (251, 251, 250)), ("dark", (20, 22, 26))])
def test_the_page_is_not_blank_in_light_and_dark(big, browser, scheme: str, ground: tuple[int, int, int]):
    browser.open(big, prefers_color_scheme=scheme)
    pixels = np.asarray(Image.open(io.BytesIO(browser.screenshot(whole=True))).convert("RGB")).astype(int)
    assert tuple(pixels[2, 2]) == ground
    inked = np.abs(pixels - ground).max(axis=2) > 100
    assert 0.01 < inked.mean() < 0.4
    chart = browser.run("JSON.parse(JSON.stringify(document.querySelector('.chart').getBoundingClientRect()))")
    top, left = int(chart["top"]), int(chart["left"])
    part = pixels[top : top + int(chart["height"]), left : left + int(chart["width"])].reshape(-1, 3)
    winnow = np.abs(part - (47, 125, 225)).max(axis=1) < 12
    assert winnow.sum() > 300  # the first method's line and markers


def test_the_page_prints(big, browser):
    browser.open(big)
    printed = base64.b64decode(browser.call("Page.printToPDF", printBackground=True)["data"])
    assert printed.startswith(b"%PDF")
    assert printed.count(b"/Type /Page\n") + printed.count(b"/Type /Page ") >= 2
    assert browser.complaints() == []


def test_the_keyboard_reaches_the_charts_first_and_every_control_has_a_name(big, browser):
    browser.open(big)
    for kind in ("keyDown", "keyUp"):
        browser.call("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
    assert browser.run("document.activeElement.getAttribute('href')") == "#main"
    levels = browser.run("[...document.querySelectorAll('h1, h2, h3')].map((h) => Number(h.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
    controls = [n for n in nodes if n["role"]["value"] in ("button", "combobox", "link") and not n["ignored"]]
    assert len(controls) > 20
    assert [n for n in controls if not n["name"]["value"].strip()] == []


def test_the_page_says_in_plain_words_what_holds_and_what_it_saves(big, browser):
    browser.open(big)
    text = browser.run("document.querySelector('.advice').innerText")
    # winnow at keep 0.5: 53 % + 8 points, one above full data; surrogate 5 % and backbone 50 % of full pretraining.
    assert "The smallest keep that holds is 0.5 (winnow)" in text
    assert "saves 45 % of the compute" in text


def test_a_narrow_window_needs_no_sideways_scrolling(big, browser):
    browser.open(big, width=390)
    assert browser.run("document.documentElement.scrollWidth") <= 390


def test_the_same_study_gives_the_same_page(big):
    before = big.read_bytes()
    assert main(["report", "--study", str(big.parent)]) == 0
    assert big.read_bytes() == before


@pytest.mark.parametrize("width", [400, 1400])
def test_speed_ups_stand_first_and_are_readable_in_windows_of_any_width(study, browser, width: int):
    all_data = {("full", 1.0): 0.6, ("full-length", 0.5): 0.5, ("full-length", 0.25): 0.4}
    folder = study({**all_data, ("random", 0.2): 0.3, ("winnow", 0.2): 0.59}, images=500)
    assert main(["report", "--study", str(folder)]) == 0
    browser.open(folder / "report.html", width=width)
    assert browser.complaints() == []
    assert browser.run("document.documentElement.scrollWidth") <= width
    first = browser.run("document.querySelector('.tiles div').innerText")
    assert first.startswith("Speed-up to within 2 points of all data")
    assert "winnow at keep 0.2, one use" in first
    second = browser.run("document.querySelectorAll('.tiles div')[1].innerText")
    assert re.search(r"Speed-up over accuracy, one use\s+3\.\d at -[01]\.\d points", second)
    # One of the two drawings of the figure is shown, whole, with letters of the size that they were drawn in.
    shown = "[...document.querySelectorAll('#compute-figure svg')].filter((svg) => svg.getBoundingClientRect().width)"
    assert browser.run(f"{shown}.length") == 1
    left, right, scale = browser.run(
        f"(() => {{ const svg = {shown}[0], box = svg.getBoundingClientRect();"
        "return [box.left, box.right, box.width / svg.viewBox.baseVal.width]; })()"
    )
    assert 0 <= left < right <= width
    assert 0.9 < scale <= 1
    assert browser.run(f"{shown}[0].querySelectorAll('title').length") == 1 + 5  # its own, and that of every point
    heads = "document.querySelectorAll('section[aria-labelledby=speed-up] tbody th')"
    cells = browser.run(f"[...{heads}].map((cell) => cell.innerText)")
    assert cells[:2] == ["full data", "winnow at keep 0.2"]
    # The curve of all data against compute ends at full data; other lengths are no keeps.
    figures = "JSON.parse(document.getElementById('figures').textContent)"
    lines = browser.run(f"{figures}.map((one) => one.data.map((d) => [d.name, d.x]))")
    drawn = [[list(x) for name, x in chart if name == "full-length"] for chart in lines]
    assert [25, 50, 100] in [line[0] for line in drawn if line]
    assert drawn[0] == []


def test_a_study_without_full_data_indices_or_pictures_has_a_page_too(study, browser, capsys):
    folder = study({("random", 0.2): 0.5, ("winnow", 0.2): 0.55}, targets=("birds",), seeds=(0, 1), images=300)
    assert main(["report", "--study", str(folder), "--price", "2.5", "--markdown", str(folder / "study.md")]) == 0
    browser.open(folder / "report.html")
    assert browser.complaints() == []
    text = browser.run("document.body.innerText")
    assert "No verdict against full data" in text
    assert "The control full is missing from this study." in text
    assert "Two seeds" in text
    assert "near-duplicate" not in text
    assert browser.run("document.getElementById('leaks')") is None
    assert (folder / "study.md").read_text(encoding="utf-8").startswith("# Study: birds")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--margin", "-1"], "--margin -1.0: 0 or more is needed"),
        (["--price", "-1"], "--price -1.0: 0 or more is needed"),
        (["--price", "nan"], "--price nan: 0 or more is needed"),
        (["--out", "."], "is a directory; a file is expected"),
        (["--out", "x.csv"], "--out x.csv: page, table and --markdown need different names"),
        (["--source", "nowhere.beton"], "nowhere.beton: no such file"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing_behind(study, capsys, flags: list[str], message: str):
    folder = study({("full", 1.0): 0.6, ("winnow", 0.5): 0.55}, images=50, targets=("birds",), classes=("a", "b"))
    assert main(["report", "--study", str(folder), *flags]) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (folder / "report.html").exists()


def test_the_markdown_page_counts_test_images_that_the_source_holds(study):
    found = {"a|b": {"images": 300, "leaked": 3, "source_images": 4, "pairs": []}}
    folder = study({("full", 1.0): 0.6, ("winnow", 0.5): 0.55}, targets=("a|b",), images=300, leaks=found)
    assert main(["report", "--study", str(folder), "--markdown", str(folder / "study.md")]) == 0
    text = (folder / "study.md").read_text(encoding="utf-8")
    assert "## Test images that the source also contains" in text
    assert "| a\\|b | 300 | 3 |  | 4 |" in text


def test_pages_of_two_studies_in_one_folder_keep_their_tables(study, tmp_path):
    folder = study({("full", 1.0): 0.6, ("winnow", 0.5): 0.55}, images=50, targets=("birds",), classes=("a", "b"))
    for name in ("one", "two"):
        assert main(["report", "--study", str(folder), "--out", str(tmp_path / "pages" / f"{name}.html")]) == 0
    assert sorted(p.name for p in (tmp_path / "pages").iterdir()) == ["one.csv", "one.html", "two.csv", "two.html"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"leaks": [3]}, "its leaks are no object"),
        ({"leaks": {"birds": {"leaked": 3}}}, "leaks of 'birds' have no valid images"),
        ({"leaks": {"birds": {"images": 1, "leaked": 1, "source_images": 1, "pairs": ["ab"]}}}, "and pairs"),
        ({"cells": 3}, "its cells are no list"),
        ({"config": {"margin": "much"}}, "its margin is 'much'"),
    ],
)
def test_damaged_results_are_one_line(study, changes, message, capsys):
    folder = study({("full", 1.0): 0.6, ("winnow", 0.5): 0.55}, images=50, targets=("birds",))
    write_json(folder / "results.json", {**read_json(folder / "results.json"), **changes})
    assert main(["show", "--study", str(folder)]) == 2
    assert message in capsys.readouterr().err
