"""Fitted JPEG tables: they follow what a network looks at, and any decoder reads what they write."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from prune import budget, codec_table, curves, materialize, selection, write
from prune.byte_budget import table_fitting
from prune.byte_budget.codec_files import open_codec
from prune.byte_budget.feature_error import Judge
from prune.data import image_codecs
from prune.data.dataset import open_dataset
from prune.data.jpeg_tables import JpegTables
from prune.index.npz import open_arrays, save_arrays
from prune.index.pruned_index import PrunedIndex
from prune.models import networks
from prune.runs.files import InputError

SIDE = 16


class Seeing(torch.nn.Module):
    """A network whose features are a linear function of the pixels: `weights` (d, 3, side, side)."""

    def __init__(self, weights: torch.Tensor) -> None:
        super().__init__()
        self.weights = torch.nn.Parameter(weights)

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        return torch.einsum("bchw,dchw->bd", images, self.weights)

    def forward_head(self, tokens: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        return tokens

    def get_classifier(self) -> torch.nn.Module:
        return torch.nn.Identity()


def judge(weights: torch.Tensor) -> Judge:
    """With means 0 and deviations 1: features are the weights times plain pixels."""
    spec = {"resolution": SIDE, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    return Judge(Seeing(weights), spec, "hand")


def pictures(n: int = 12, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (n, 5, 5, 3), dtype=np.uint8)
    smooth = [np.asarray(Image.fromarray(one).resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for one in coarse]
    return [np.clip(one + rng.normal(0, 8, one.shape), 0, 255).astype(np.uint8) for one in smooth]


def test_the_sensitivity_of_a_mean_of_the_green_values_is_that_of_the_first_coefficients_alone():
    # One feature, the mean of G over 16 x 16 pixels. G = Y - 0.344 Cb - 0.714 Cr, and an orthonormal first coefficient
    # of 1 raises all 64 pixels of a block by 1/8: the mean of 256 by 64 / 8 / 256 = 1/32. Colour at half resolution:
    # one block of 64 values covers all 256 pixels, the mean rises by 1/8 of the factor.
    weights = torch.zeros(1, 3, SIDE, SIDE)
    weights[0, 1] = 1 / SIDE**2
    found = table_fitting.sensitivity(pictures(3), judge(weights), full_colour=True)
    np.testing.assert_allclose(found[:, 0], (np.array([1, 0.344136, 0.714136]) / 32) ** 2, rtol=2e-3)
    assert found[:, 1:].max() < 1e-9
    half = table_fitting.sensitivity(pictures(3), judge(weights), full_colour=False)
    np.testing.assert_allclose(half[:, 0], [(1 / 32) ** 2, (0.344136 / 8) ** 2, (0.714136 / 8) ** 2], rtol=2e-3)


def test_a_network_that_sees_coarse_brightness_alone_gets_coarse_steps_everywhere_else():
    # Features: the mean brightness of the four 8 x 8 quarters. All but the first coefficient may be lost at no cost.
    weights = torch.zeros(4, 3, SIDE, SIDE)
    for k, (y, x) in enumerate(((0, 0), (0, 8), (8, 0), (8, 8))):
        weights[k, :, y : y + 8, x : x + 8] = torch.tensor([0.299, 0.587, 0.114])[:, None, None] / 64
    tables, facts = table_fitting.fit_tables(pictures(), judge(weights))
    luminance, _, _ = tables.at(30)
    assert luminance[0] < 20
    assert set(luminance[1:]) == {255}
    assert facts["gain"]["30"] < 0.5
    assert table_fitting.fit_tables(pictures(), judge(weights))[0] == tables  # nothing is left to chance
    fresh, eyes = pictures(40, seed=1), judge(weights)
    exact = eyes.features(fresh)

    def cost(fitted: JpegTables | None) -> tuple[float, float]:
        datas = [image_codecs.encode(one, "jpeg", 30, fitted) for one in fresh]
        gap = eyes.features([image_codecs.decode(data) for data in datas]) - exact
        return float(np.mean([len(data) for data in datas])), float(np.square(gap).mean())

    # On images that were not fitted: no more bytes, far less error.
    assert cost(tables)[0] <= 1.1 * cost(None)[0]
    assert cost(tables)[1] < 0.6 * cost(None)[1]


def table(luminance: int, colour: int, full: bool) -> JpegTables:
    pair = (tuple([luminance] * 64), tuple([colour] * 64))
    return JpegTables((pair,) * 100, (full,) * 100)


@pytest.mark.parametrize(("colour", "full"), [(9, False), (9, True), (40, False), (40, True)])
def test_stock_decoders_read_every_kind_of_fitted_jpeg_and_find_its_tables(colour, full):
    image = np.asarray(Image.fromarray(pictures(1)[0]).resize((31, 20)))
    data = image_codecs.encode(image, "jpeg", 50, table(9, colour, full))
    stock = Image.open(io.BytesIO(data))
    assert {key: set(values) for key, values in stock.quantization.items()} == (
        {0: {9}} if colour == 9 else {0: {9}, 1: {40}}
    )
    got = image_codecs.decode(data)
    other = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert got.shape == image.shape
    assert np.abs(other.astype(int) - got).max() <= 2
    assert np.abs(got.astype(int) - image).mean() < 12
    # One table more is 65 bytes: its number and 64 steps.
    huffman = sum(4 + len(body) for marker, body in image_codecs._segments(data)[0] if marker == 0xC4)
    assert image_codecs.fixed_bytes(data) - huffman == 106 + (65 if colour == 40 else 0)


def test_stock_ffcv_decodes_colour_at_the_full_resolution():
    libffcv = pytest.importorskip("ffcv.libffcv")
    image = pictures(1)[0]
    data = np.frombuffer(image_codecs.encode(image, "jpeg", 50, table(3, 5, True)), np.uint8)
    got = np.zeros((SIDE, SIDE, 3), np.uint8)
    libffcv.imdecode(data, got, SIDE, SIDE, SIDE, SIDE, 0, 0, 1, 1, False, False)
    assert np.abs(got.astype(int) - image).mean() < 3


def test_the_file_comes_back_and_a_newer_or_damaged_one_is_refused(tmp_path):
    known, place = table(3, 7, True), tmp_path / "t.npz"
    known.save(place)
    assert JpegTables.load(place) == known
    assert open_codec(str(place)).fingerprint == known.fingerprint
    arrays, _ = open_arrays(place, "winnow-jpeg-tables/1", mapped=False)
    save_arrays(place, arrays, {"format": "winnow-jpeg-tables/2"})
    with pytest.raises(InputError, match="newer"):
        JpegTables.load(place)
    save_arrays(place, arrays | {"steps": arrays["steps"][:9]}, {"format": "winnow-jpeg-tables/1"})
    with pytest.raises(InputError, match="not whole"):
        JpegTables.load(place)
    with pytest.raises(InputError, match="no such file"):
        open_codec(str(tmp_path / "absent.npz"))
    with pytest.raises(InputError, match="--codec heic: jpeg, webp, avif are possible"):
        open_codec("heic")


def test_curves_budget_and_beton_follow_fitted_tables_to_the_byte(tmp_path):
    for i, one in enumerate(pictures(16)):
        folder = tmp_path / "images" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(one).save(folder / f"{i:02d}.png")
    source = tmp_path / "s.beton"
    write.run(write.Config(images=str(tmp_path / "images"), out=source))
    torch.manual_seed(0)
    spec = {"arch": "resnet18", "kwargs": {"channels": [8, 8, 8, 8]}, "stem": "half", "classes": ["a", "b"],
            "resolution": SIDE, "mean": networks.MEAN, "std": networks.STD}  # fmt: skip
    networks.save_model(tmp_path / "model", networks.build(spec), spec)
    fitted, other, model = tmp_path / "t.npz", tmp_path / "o.npz", tmp_path / "model"
    table(12, 24, True).save(fitted)
    table(13, 24, True).save(other)
    measured = tmp_path / "c.npz"
    curves.run(curves.Config(source, model=model, out=measured, qualities=(50,), tables=fitted))
    everything = tmp_path / "all.index.npz"
    selection.run(selection.Config(out=everything, manifest=tmp_path / "s.manifest.npz", method="random", keep=1.0))
    planned = tmp_path / "p.index.npz"
    budget.run(
        budget.Config(everything, curves=measured, out=planned, ratio=0.5, policy="uniform", quality=50, tables=fitted)
    )
    index = PrunedIndex.load(planned)
    assert (index.quality == 50).all()
    out = tmp_path / "m.beton"
    with pytest.raises(InputError, match="made with fitted JPEG tables"):
        materialize.run(materialize.Config(planned, source=source, out=out))
    with pytest.raises(InputError, match="are tables"):
        materialize.run(materialize.Config(planned, source=source, out=out, tables=other))
    materialize.run(materialize.Config(planned, source=source, out=out, tables=fitted))
    beton = open_dataset(out).beton
    for row in range(len(index)):
        data = beton.stored(row)[0]
        assert len(data) == index.nbytes[row]
        assert set(Image.open(io.BytesIO(data)).quantization[0]) == {12}
    with pytest.raises(InputError, match="tables: "):  # the curves were made with others
        curves.run(curves.Config(source, model=model, out=measured, qualities=(50,), tables=other))
    found = codec_table.run(
        codec_table.Config(
            source, model=model, codecs=("jpeg",), qualities=(50,), sample=8, fit=tmp_path / "new.npz",
            html=tmp_path / "p.html", figure=tmp_path / "f.svg",
        )
    )  # fmt: skip
    assert [p["codec"] for p in found["points"]] == ["jpeg", "jpeg-fitted"]
    assert "jpeg-fitted" in (tmp_path / "p.html").read_text()
    assert (tmp_path / "f.svg").read_text().count("<polyline") == 2
