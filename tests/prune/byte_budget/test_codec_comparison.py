"""Which codec at which bytes: the pilot's line by hand, the recommendation, what a pilot file must hold."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest

from prune.byte_budget import codec_comparison, codec_report
from prune.byte_budget.codec_comparison import expected, fitted_line, ranked, recommended, with_more_images
from prune.byte_budget.codec_files import distinct
from prune.pages.line_chart import Curve, line_chart
from prune.runs.files import InputError


def point(codec, size, value, **more):
    return {"codec": codec, "quality": 9, "bytes": size, "fmse": 1 - value, "value": value, "once": 0, **more}


def test_the_line_of_a_pilot_and_its_prediction_interval_are_those_worked_out_by_hand():
    # Accuracy 50, 46, 46, 42 at FMSE 0, 1, 1, 2: slope -4, intercept 50, no residual.
    line = fitted_line(np.array([0, 1, 1, 2]), np.array([50, 46, 46, 42]))
    assert (line["intercept"], line["slope"], line["error"]) == (50, -4, 0)
    # 47 and 45 at FMSE 1: residuals +1 and -1, error sqrt(2 / 2) = 1; at the mean the interval is t(2) x sqrt(1 + 1/4).
    line = fitted_line(np.array([0, 1, 1, 2]), np.array([50, 47, 45, 42]))
    assert line["error"] == pytest.approx(1)
    assert expected(line, 1.0) == pytest.approx((46, 4.302653 * 1.25**0.5))
    assert expected(line, 2.0)[1] > expected(line, 1.0)[1]
    assert expected(line, 2.3) is None  # further than a tenth of the range beyond it
    with pytest.raises(InputError, match="3 different"):
        fitted_line(np.array([0, 0, 1, 1]), np.array([50, 51, 46, 47]))


def test_the_interval_of_the_pilot_covers_what_a_known_world_draws():
    rng, hits, errors = np.random.default_rng(0), 0, np.linspace(0, 2, 8)
    for _ in range(400):
        line = fitted_line(errors, 60 - 5 * errors + rng.normal(0, 1.5, 8))
        found = expected(line, 1.0)
        assert found is not None
        hits += abs(55 + rng.normal(0, 1.5) - found[0]) < found[1]
    assert 0.92 <= hits / 400 <= 0.98


def test_the_recommendation_counts_a_codecs_own_bytes_once():
    # For 10 images the learned codec takes 60 + 1000 / 10 = 160 bytes an image, for 1,000 images 61.
    points = [point("jpeg", 100, 0.96), point("webp", 90, 0.9), point("learned", 60, 0.97, once=1000)]
    options = {"size": None, "value": 0.95, "within": 1.0, "best": None}
    assert recommended(points, 10, **options)[0]["codec"] == "jpeg"
    assert recommended(points, 1000, **options)[0]["codec"] == "learned"
    assert recommended(points, 1000, **options | {"value": 0.99})[0] is None
    assert recommended(points, 10, **options | {"size": 95})[0]["codec"] == "webp"
    known = [p | {"accuracy": a} for p, a in zip(points, (49.5, 48.0, None))]
    assert recommended(known, 1000, **options | {"best": 50.0})[0]["codec"] == "jpeg"


def test_from_how_many_images_on_a_codec_with_its_own_file_is_the_choice_is_worked_out_by_hand():
    points = [point("jpeg", 100, 0.96), point("webp", 90, 0.9), point("learned", 60, 0.97, once=1000)]
    options = {"size": None, "value": 0.95, "within": 1.0, "best": None}
    # 60 + 1000 / n < 100 from 26 on; within 95 bytes 60 + 1000 / n <= 95 from 29 on (1000 / 35 = 28.6).
    for more, least in ((options, 26), (options | {"size": 95}, 29)):
        assert with_more_images(points, 10, **more) == (points[2], least)
        assert recommended(points, least - 1, **more)[0]["codec"] != "learned"
        assert recommended(points, least, **more)[0]["codec"] == "learned"
        assert with_more_images(points, least, **more) is None
    assert with_more_images(points, 10, **options | {"size": 60}) is None  # of no number of images
    # Of two with files of their own the smaller image wins when 500 more bytes are shared by more than 50.
    two = [point("small", 60, 0.97, once=1000), point("big", 70, 0.97, once=500)]
    assert with_more_images(two, 10, **options) == (two[0], 51)


def test_sizes_are_compared_and_shown_with_the_share_of_the_codecs_own_file(capsys):
    points = [
        {**point("jpeg", size, value), "psnr": 30.0, "encode_ms": 1.0, "decode_ms": 1.0, "encode_ms_middle": [1, 1],
         "decode_ms_middle": [1, 1], "terms": "free"}
        for size, value in ((100, 0.9), (400, 0.99))
    ]  # fmt: skip
    points += [
        {**p, "codec": "learned", "bytes": p["bytes"] - 30, "fmse": 0.99 * p["fmse"], "once": 23_520} for p in points
    ]
    # Over 240 images the file's share is 98: learned takes 168 and 468, jpeg 100 and 400.
    found = ranked(points, 240)
    assert [found["at"][0]["bytes"], found["at"][-1]["bytes"]] == pytest.approx([168, 400])
    assert [row["codec"] for row in found["at"][2]["codecs"]] == ["jpeg", "learned"]
    options = {"size": 100.0, "value": 0.95, "within": 1.0, "best": None}
    chosen, why = recommended(points, 240, **options)
    later, least = with_more_images(points, 240, **options)
    result = {**found, "source_images": 240, "images": 4, "pilot": None, "recommended": chosen,
              "with_more_images": {**later, "images": least}}  # fmt: skip
    assert codec_report.heads_and_rows(points, 240)[1][2][2] == "70 + 98 = 168"
    assert chosen is points[0]
    line = codec_report.recommended_line({**result, "recommended": points[2], "with_more_images": None}, why)
    assert "quality 9, 70 + 98 of the codec's file (23,520 bytes) over 240 images, together 168 bytes an image" in line
    codec_report.show(result, why)
    for shown in (" ".join(capsys.readouterr().out.split()), codec_report.page(result, why, "pets")):
        assert "70 + 98 = 168" in shown
        assert "ytes: an image, + its share of the codec&#x27;s own" in shown.replace("'", "&#x27;")
    assert "its share of a codec&#x27;s own file included" in codec_report.page(result, why, "pets")


def test_a_better_codec_that_its_own_file_makes_too_big_is_named_with_the_images_from_which_it_pays():
    # 60 bytes and a share of 100 do not fit in 95; 28 images and more share 1,000 bytes to 35 or less each.
    points = [point("jpeg", 90, 0.9), point("learned", 60, 0.97, once=1000)]
    options = {"size": 95.0, "value": 0.95, "within": 1.0, "best": None}
    chosen, why = recommended(points, 10, **options)
    later, least = with_more_images(points, 10, **options)
    found = {"recommended": chosen, "source_images": 10, "with_more_images": {**later, "images": least}}
    assert codec_report.recommended_line(found, why) == (
        "recommended: jpeg at quality 9, 90 bytes an image, 90.0% of an image's worth (smallest feature error within "
        "95 bytes); learned at quality 9 takes 60 + 100 of the codec's file (1,000 bytes) over 10 images, and is the "
        "better choice from 29 images on"
    )
    none = codec_report.recommended_line({**found, "recommended": None}, why)
    assert none.startswith("recommended: none of these (smallest feature error within 95 bytes)")
    assert none.endswith("from 29 images on")


def test_codecs_of_one_kind_are_named_by_their_files_and_one_that_comes_twice_counts_once():
    kinds = {"a": ("learned", "1"), "b": ("learned", "2"), "copy of a": ("learned", "1"), "jpeg": ("jpeg", "jpeg")}
    given = [(text, SimpleNamespace(name=name, fingerprint=key)) for text, (name, key) in kinds.items()]
    assert [name for name, _ in distinct(given)] == ["learned a", "learned b", "jpeg"]
    assert [name for name, _ in distinct([given[0], given[2], given[3]])] == ["learned", "jpeg"]


def test_a_pilot_with_a_codec_that_is_not_compared_names_those_that_are(tmp_path):
    pilot = [{"accuracy": 40.0, "codec": "learned", "quality": 9}]
    points = [point("learned a", 100, 0.9), point("learned b", 100, 0.9)]
    with pytest.raises(InputError, match="codec learned is not compared here, learned a, learned b are"):
        codec_report.pilot_line(pilot, points, None)


def test_a_time_is_the_median_of_five_calls_or_more_so_that_one_slow_call_does_not_count():
    calls = []

    def work(value):
        calls.append(value)
        time.sleep(0.2 if len(calls) == 1 else 0.002)
        return 2 * value

    made, (low, middle, high) = codec_comparison._timed(work, [1, 2])
    assert (made, calls) == ([2, 4], [1, 2, 1, 2, 1])
    assert 2 <= low <= middle <= high
    assert middle < 100
    made, _ = codec_comparison._timed(work, range(7))
    assert (made, len(calls)) == ([0, 2, 4, 6, 8, 10, 12], 12)


def test_codecs_are_ranked_only_at_sizes_that_all_reach():
    low = [{"codec": "a", "bytes": b, "fmse": 1, "psnr": 1} for b in (10, 20)]
    high = [{"codec": "b", "bytes": b, "fmse": 1, "psnr": 1} for b in (30, 40)]
    assert ranked(low + high)["at"] == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("codec,accuracy\njpeg,3\n", "columns codec, quality, accuracy"),
        ("codec,quality,accuracy\njpeg,x,30\n", "line 2: numbers are needed"),
        ("fmse,accuracy\n0.1,130\n", "line 2: accuracy from 0 to 100"),
        ("fmse,accuracy\nnan,30\n", "line 2: accuracy from 0 to 100"),
        ("fmse,accuracy\n0.1,0.3\n0.2,0.2\n", "in percent"),
    ],
)
def test_a_pilot_that_cannot_be_used_is_refused_in_one_line(tmp_path, text, message):
    place = tmp_path / "p.csv"
    place.write_text(text)
    with pytest.raises(InputError, match=message) as error:
        codec_report.read_pilot(place)
    assert "\n" not in str(error.value)


def test_a_training_at_a_quality_that_is_not_measured_is_named():
    pilot = [{"accuracy": 40.0, "codec": "jpeg", "quality": 33}]
    with pytest.raises(InputError, match="jpeg at quality 33 is not measured here; add it to --qualities"):
        codec_report.pilot_line(pilot, [point("jpeg", 100, 0.9)], None)


def test_the_figure_has_a_curve_for_each_name_and_escapes_names():
    text = line_chart([Curve("<a>", [1, 10], [2, 20]), Curve("b", [5], [5])], title="t", across="x", upwards="y")
    root = ElementTree.fromstring(text)
    assert len(root.findall("{http://www.w3.org/2000/svg}polyline")) == 2
    assert "● <a>" in [one.text for one in root.iter("{http://www.w3.org/2000/svg}text")]
    # 1 and 10 are the ends of the axis, 80 and 570.
    assert root.find("{http://www.w3.org/2000/svg}polyline").get("points").startswith("80.0,")


def test_the_last_line_names_codec_quality_bytes_and_reason():
    chosen = point("jpeg", 230, 0.982, accuracy=29.3, accuracy_within=2.9)
    found = {"recommended": chosen, "source_images": 40, "with_more_images": None}
    line = codec_report.recommended_line(found, "fewest bytes")
    assert line == (
        "recommended: jpeg at quality 9, 230 bytes an image, 98.2% of an image's worth, expected accuracy "
        "29.3 ± 2.9 % (fewest bytes)"
    )
    assert json.dumps(codec_comparison.TERMS)  # every codec has its terms as plain text
