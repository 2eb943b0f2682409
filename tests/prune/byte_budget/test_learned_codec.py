"""A learned codec: bytes that decode to the same pixels on one thread or many, and a file that cannot be mistaken."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from threadpoolctl import threadpool_limits

from prune.byte_budget import codec_training
from prune.byte_budget.codec_files import open_codec
from prune.byte_budget.codec_training import QUALITIES, TrainedCodec, TrainingSettings, train_codec, trained_side
from prune.byte_budget.feature_error import Judge
from prune.byte_budget.learned_codec import LearnedCodec, open_learned, squares
from prune.data.pixel_values import Unreadable
from prune.runs.files import InputError

pytest.importorskip("constriction")
SIDE = 16
SETTINGS = TrainingSettings(steps=120, channels=40, batch=8, images=32)


class Means(torch.nn.Module):
    """Features: the means of the pixels over squares of 8."""

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(images, 8).flatten(1)

    def forward_head(self, tokens: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        return tokens

    def get_classifier(self) -> torch.nn.Module:
        return torch.nn.Identity()


JUDGE = Judge(Means(), {"resolution": SIDE, "mean": (0.0, 0.0, 0.0), "std": (64.0, 64.0, 64.0)}, "means")


def pictures(n: int = 32, side: int = SIDE) -> np.ndarray:
    coarse = np.random.default_rng(0).integers(0, 256, (n, 3, 3, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(one).resize((side, side), Image.Resampling.BICUBIC)) for one in coarse])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A codec trained for a few seconds, as it comes back from its file."""
    place = tmp_path_factory.mktemp("codec") / "c.safetensors"
    codec, facts = train_codec(pictures(), JUDGE, SETTINGS)
    codec.save(place, facts)
    return place, open_learned(place)


def by_hand(gains=(0.5,), reach=(3,), roots=(2, 1, 1, 1)) -> LearnedCodec:
    """One channel: 4 in all 192 places, a step of 1 / 64; grey 100 in the middle."""
    return LearnedCodec(
        np.full((192, 1), 4, np.int8),
        np.array([1 / 64], np.float32),
        np.full(192, 100, np.uint8),
        np.array([gains], np.float32),
        np.array([reach], np.uint16),
        np.array(roots, np.uint8),
        (60,),
    )


def test_a_transform_in_whole_numbers_is_worked_out_by_hand():
    # 101 everywhere: 192 * 4 * 1 = 768 whole, / 64 = 12, * 0.05 = 0.6, floor(0.6 + 0.4) = 1; 100.8 would give 0.
    codec = by_hand(gains=(0.05,))
    square = np.full((8, 8, 3), 101, np.uint8)
    assert codec.symbols(square, 0).tolist() == [[1]]
    assert codec.symbols(201 - square, 0).tolist() == [[0]]  # grey 100: nothing
    assert codec.symbols(200 - square, 0).tolist() == [[-1]]  # grey 99
    assert codec.symbols(square + 100, 0).tolist() == [[3]]  # grey 201: 60 would be right, 3 is the largest
    # Back: 1 / 64 / 0.05 = 0.3125 a symbol, * 4 = 1.25: grey 100 + 1.25.
    assert codec.pixels(np.array([[1]]), 0, 1, 1).tolist() == (square).tolist()
    # 3 symbols: 3.75, rounded to 4; below grey 100 as well.
    assert (codec.pixels(np.array([[3], [-3]]), 0, 1, 2)[0, [0, 8], 0] == [104, 96]).all()


def test_the_bytes_of_a_square_are_the_head_and_the_fewest_that_decode_to_its_symbols():
    # Frequencies of -3 to 3: 1, 1, 1, 4, 1, 1, 1, so that 0 takes log2(10 / 4) = 1.3 bits and 3 takes 3.3: one byte
    # ends in the interval of 0 (0.3 to 0.7), two bytes in that of any three symbols (at least a thousandth wide).
    codec, grey = by_hand(), np.full((8, 8, 3), 100, np.uint8)
    data = codec.encode(grey, 60)
    assert (data[:3], len(data)) == (bytes([0, 8, 8]), 4)
    assert 0.3 * 256 <= data[3] < 0.7 * 256
    three = np.concatenate([grey + 20, grey - 20, grey + 20])
    assert codec.symbols(three, 0).tolist() == [[3], [-3], [3]]
    assert len(codec.encode(three, 60)) <= 3 + 2
    assert (codec.decode(codec.encode(three, 60)) == codec.pixels(codec.symbols(three, 0), 0, 3, 1)).all()


def test_squares_go_by_rows_and_the_last_pixels_fill_them():
    image = np.arange(9 * 17 * 3).reshape(9, 17, 3) % 251
    found = squares(image.astype(np.uint8)).reshape(2, 3, 8, 8, 3)
    assert (found[0, 1] == image[:8, 8:16]).all()
    assert (found[0, 2] == image[:8, 16:17]).all()
    assert (found[1, 0] == image[8:9, :8]).all()


def test_int8_weights_differ_from_the_trained_transform_by_half_a_step_at_most(made):
    torch.manual_seed(SETTINGS.seed)
    model = TrainedCodec(SETTINGS, pictures())
    transform = model.transform().detach().double().numpy()
    assert np.abs(transform.T @ transform - np.eye(40)).max() < 1e-5
    codec = model.whole(list(pictures()))
    assert np.abs(codec.weight).max() == 127
    stored = [int(np.abs(transform.T @ one).argmax()) for one in (codec.weight * codec.step.astype(float)).T]
    assert np.abs(codec.weight * codec.step.astype(float) - transform[:, stored]).max() <= codec.step.max() / 2 + 1e-6


def test_images_are_trained_on_at_a_multiple_of_what_the_network_sees():
    assert trained_side([(64, 80, 3)] * 3, 32) == 64
    assert trained_side([(63, 80, 3), (70, 63, 3), (500, 500, 3)], 32) == 32
    assert trained_side([(500, 400, 3)], 32) == 128
    assert trained_side([(500, 400, 3)], 224) == 224
    assert trained_side([(28, 28, 3)], 32) == 32


def test_training_lowers_the_feature_error_at_equal_bytes(made):
    _, codec = made
    exact = JUDGE.features(list(pictures()))

    def curve(one: LearnedCodec) -> tuple[np.ndarray, np.ndarray]:
        sizes, errors = [], []
        for quality in QUALITIES[::-1]:
            datas = [one.encode(image, quality) for image in pictures()]
            sizes.append(np.mean([len(data) for data in datas]))
            errors.append(np.square(JUDGE.features([one.decode(data) for data in datas]) - exact).mean())
        return np.log(sizes), np.log(errors)

    sizes, errors = curve(codec)
    known = curve(TrainedCodec(SETTINGS, pictures()).whole(list(pictures())))
    reached = sizes >= known[0][0]
    assert reached.sum() >= len(QUALITIES) - 1
    assert (errors < np.log(np.where(reached, 0.7, 1.0)) + np.interp(sizes, *known)).all()


def test_images_larger_than_what_the_network_sees_are_judged_by_what_it_sees():
    large = pictures(12, 2 * SIDE)
    assert (JUDGE.shown(list(large), 2 * SIDE) == large).all()
    gap = codec_training._features(large, JUDGE, 2).numpy() - JUDGE.features(list(large))
    assert np.abs(gap).max() <= 0.5 / 64  # the judge rounds the small image to whole grey levels
    codec, _ = train_codec(large, JUDGE, TrainingSettings(steps=3, channels=12, batch=4))
    assert codec.decode(codec.encode(large[0], 95)).shape == large[0].shape


def test_darker_and_brighter_images_than_those_learned_from_come_back():
    grey = np.linspace(40, 215, 24).astype(int).reshape(24, 1, 1, 1).repeat(16, 1).repeat(16, 2).repeat(3, 3)
    images = (grey + np.random.default_rng(1).integers(-6, 7, grey.shape)).astype(np.uint8)
    codec = TrainedCodec(SETTINGS, images).whole(list(images))
    for level in (26, 229):  # by an eighth further from the middle than any of them; a quarter is allowed
        copy = codec.decode(codec.encode(np.full((16, 16, 3), level, np.uint8), 95))
        assert np.abs(copy.astype(int) - level).max() <= 3


def test_a_finer_quality_takes_more_bytes(made):
    _, codec = made
    sizes = [np.mean([len(codec.encode(image, quality)) for image in pictures()]) for quality in QUALITIES]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("shape", [(16, 16), (1, 1), (5, 18), (33, 130)])
def test_the_decoded_symbols_are_those_that_were_encoded_whatever_the_sides(made, shape):
    _, codec = made
    image = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    data = codec.encode(image, 60)
    copy = codec.decode(data)
    assert copy.shape == image.shape
    at, (rows, columns) = QUALITIES.index(60), (-(-shape[0] // 8), -(-shape[1] // 8))
    want = codec.pixels(codec.symbols(image, at), at, rows, columns)
    assert (copy == want[: shape[0], : shape[1]]).all()


def test_bytes_and_pixels_are_the_same_on_one_thread_and_on_two(made):
    _, codec = made
    image = np.random.default_rng(2).integers(0, 256, (192, 208, 3), dtype=np.uint8)
    with threadpool_limits(1):
        one = codec.encode(image, 60)
        pixels = codec.decode(one)
    with threadpool_limits(2):
        assert codec.encode(image, 60) == one
        assert (codec.decode(one) == pixels).all()


@pytest.mark.parametrize("last", [5, 7])
def test_a_stopped_training_resumes_and_ends_with_the_same_bytes(tmp_path, monkeypatch, last):
    settings = TrainingSettings(steps=8, channels=6, batch=4, images=16)
    whole, facts = train_codec(pictures(16), JUDGE, settings)
    state, kept = tmp_path / "state", codec_training._keep

    def keep_and_stop(*given):
        kept(*given)
        assert given[3] < settings.steps
        if given[3] == last:
            raise KeyboardInterrupt

    monkeypatch.setattr(codec_training, "_SAVE_SECONDS", -1.0)
    monkeypatch.setattr(codec_training, "_keep", keep_and_stop)
    with pytest.raises(KeyboardInterrupt):
        train_codec(pictures(16), JUDGE, settings, state)
    monkeypatch.setattr(codec_training, "_keep", kept)
    resumed, same_facts = train_codec(pictures(16), JUDGE, settings, state)
    whole.save(tmp_path / "whole.safetensors", facts)
    resumed.save(tmp_path / "resumed.safetensors", same_facts)
    assert (tmp_path / "resumed.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    assert set(facts) == {"loss"}  # no time, which differs from run to run


def test_a_codec_file_of_another_version_or_a_damaged_one_is_refused_in_one_line(made, tmp_path):
    from safetensors.numpy import load_file, save_file

    place, codec = made
    assert open_codec(str(place)).fingerprint == codec.fingerprint
    assert open_codec(str(place)).fixed == place.stat().st_size
    other = tmp_path / "o.safetensors"
    save_file(load_file(place), other, {"winnow": '{"format": "winnow-codec/1"}'})
    with pytest.raises(
        InputError, match=r"another version \(winnow-codec/1\), winnow-codec/2 is expected; `prune codecs"
    ):
        open_codec(str(other))
    tensors = load_file(place)
    facts = {"winnow": '{"format": "winnow-codec/2", "qualities": [95, 90, 75, 60, 40, 20, 10]}'}
    for name, wrong in (("roots", tensors["roots"][1:]), ("gains", -tensors["gains"]), ("step", tensors["weight"])):
        save_file({**tensors, name: wrong.copy()}, other, facts)
        with pytest.raises(InputError, match="damaged"):
            open_codec(str(other))
    other.write_bytes(place.read_bytes()[:500])
    with pytest.raises(InputError, match="damaged"):
        open_codec(str(other))
    with pytest.raises(InputError, match="no such file"):
        open_codec(str(tmp_path / "absent.safetensors"))


def test_damaged_bytes_are_unreadable_or_an_image_of_the_same_kind(made):
    _, codec = made
    data = codec.encode(pictures(1)[0], 20)
    for cut in (b"", data[:1], data[:2], bytes([99]) + data[1:]):
        with pytest.raises(Unreadable):
            codec.decode(cut)
    with pytest.raises(ValueError, match="this codec has 95 90 75 60 40 20 10"):
        codec.encode(pictures(1)[0], 33)
