"""The decision whether an int8 file is worth having, on numbers."""

from __future__ import annotations

import pytest

from transfer.compression.int8_worth import MARGIN, reasons_against, time_ratio
from transfer.compression.onnx_export import INT8, REJECTED, allow_worse, worse


def test_the_ratio_is_that_of_the_fastest_blocks_or_of_neighbours_whichever_favours_int8():
    assert time_ratio([4.0, 4.0, 4.0], [2.0, 2.0, 2.0]) == 0.5
    assert time_ratio([2.0, 2.0, 2.0], [3.0, 3.0, 3.0]) == 1.5
    # Neighbours 2.0, 2.0, 1.2: the median is 2; the fastest 1.2.
    assert time_ratio([1.0, 1.0, 1.0], [2.0, 2.0, 1.2]) == pytest.approx(1.2)
    # One lucky block of fp32: fastest 2.0, neighbours 2.0, 1.0, 1.0.
    assert time_ratio([1.0, 2.0, 2.0], [2.0, 2.0, 2.0]) == 1.0
    with pytest.raises(ValueError, match="shorter"):
        time_ratio([1.0, 1.0], [1.0])


@pytest.mark.parametrize("busy", range(5))
def test_other_work_beside_any_single_block_changes_no_decision(busy):
    for true, slower in ((1.0, False), (1.5, True)):
        fp32, int8 = [2.0] * 5, [2.0 * true] * 5
        int8[busy] *= 10
        assert (time_ratio(fp32, int8) > 1 + MARGIN) == slower
        int8[busy] /= 10
        fp32[busy] *= 10
        assert (time_ratio(fp32, int8) > 1 + MARGIN) == slower


def test_less_than_asked_on_any_images_or_slower_beyond_the_margin_is_a_reason():
    assert reasons_against({"calibration": 0.97, "compared": 1.0}, 0.97, 1.1) == []
    assert reasons_against({"calibration": 0.97, "compared": 0.9699}, 0.97, 0.5) == [
        "it predicts as fp32 does on 96.9 % of the compared images, and 97 % was asked"
    ]
    assert reasons_against({"compared": 1.0}, 0.97, 1.11) == ["it takes 1.11 times fp32's time"]
    assert len(reasons_against({"calibration": 0.5, "compared": 0.6}, 0.97, 2)) == 3
    assert len(reasons_against({"compared": 1.0}, 0.97, float("nan"))) == 1


def test_a_rejected_file_is_reported_with_its_layers_and_fp32_until_it_is_allowed(tmp_path):
    file = {"file": REJECTED, "rejected": ["it takes 1.30 times fp32's time"], "keep_float": ["conv1", "fc"]}
    result = {"files": [{"file": "model.onnx"}, file]}
    said = worse(tmp_path, result)
    for words in ("1.30 times", "conv1, fc fell back to fp32", f"{tmp_path}/model.onnx", "--allow-worse", REJECTED):
        assert words in said
    (tmp_path / REJECTED).write_text("network")
    for _ in range(2):
        allow_worse(tmp_path, result)
        assert (tmp_path / INT8).read_text() == "network"
        assert file["file"] == INT8
    assert worse(tmp_path, {"files": [{"file": INT8, "keep_float": ["fc"]}]}) == ""  # a result of version 0.2
