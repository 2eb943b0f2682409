"""A learned codec: bytes that decode to the same pixels on one thread or many, and a file that cannot be mistaken."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from prune.byte_budget import codec_training
from prune.byte_budget.codec_files import open_codec
from prune.byte_budget.codec_training import QUALITIES, TrainedCodec, TrainingSettings, train_codec
from prune.byte_budget.feature_error import Judge
from prune.byte_budget.integer_network import LARGEST, Layer, int8_weight, run_exactly
from prune.byte_budget.learned_codec import LearnedCodec, open_learned
from prune.data.pixel_values import Unreadable
from prune.runs.files import InputError

pytest.importorskip("constriction")
SIDE = 16
SETTINGS = TrainingSettings(steps=120, width=8, channels=6, batch=8, images=32)


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


def test_a_layer_in_whole_numbers_is_the_convolution_worked_out_by_hand():
    # One channel, weight 3 in the middle: 5 * 3 * 0.5 + 2 = 9.5, floor(9.5 + 0.5) = 10; -5: -5.5, floor(-5) = -5.
    weight = torch.zeros(1, 1, 3, 3, dtype=torch.int8)
    weight[0, 0, 1, 1] = 3
    scale, bias = torch.tensor([0.5], dtype=torch.float64), torch.tensor([2.0], dtype=torch.float64)
    layer = Layer(weight, scale, bias, "same", False)
    values = torch.tensor([[[[5.0, -5.0, 1e9]]]], dtype=torch.float64)
    assert run_exactly([layer], values).tolist() == [[[[10.0, -5.0, LARGEST]]]]


def test_int8_weights_differ_from_their_values_by_half_a_step_at_most():
    weight = torch.randn(4, 3, 3, 3, dtype=torch.float64)
    whole, step = int8_weight(weight)
    assert whole.abs().amax() == 127
    assert (whole * step[:, None, None, None] - weight).abs().amax() <= step.max() / 2 + 1e-12


def test_training_lowers_the_feature_error_at_every_quality(made):
    _, codec = made
    torch.manual_seed(SETTINGS.seed)
    untrained = TrainedCodec(SETTINGS).whole(list(pictures()))
    exact = JUDGE.features(list(pictures()))

    def error(one: LearnedCodec, quality: int) -> float:
        copies = [one.decode(one.encode(image, quality)) for image in pictures()]
        return float(np.square(JUDGE.features(copies) - exact).mean())

    for quality in QUALITIES:
        assert error(codec, quality) < 0.7 * error(untrained, quality)


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
    symbols = codec.symbols(image, QUALITIES.index(60))
    latent = np.floor(symbols * (256 / codec.gains[0].astype(np.float64))[:, None, None] + 0.5)
    want = run_exactly(codec.decoder, torch.from_numpy(latent)[None])[0, :, : shape[0], : shape[1]]
    assert (copy == want.clamp(0, 255).permute(1, 2, 0).numpy()).all()


def test_bytes_and_pixels_are_the_same_on_one_thread_and_on_two(made):
    _, codec = made
    image, known = np.random.default_rng(2).integers(0, 256, (192, 208, 3), dtype=np.uint8), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = codec.encode(image, 60)
        pixels = codec.decode(one)
        torch.set_num_threads(2)
        assert codec.encode(image, 60) == one
        assert (codec.decode(one) == pixels).all()
    finally:
        torch.set_num_threads(known)


def test_a_stopped_training_resumes_and_ends_with_the_same_codec(tmp_path, monkeypatch):
    settings = TrainingSettings(steps=8, width=8, channels=6, batch=4, images=16)
    whole, _ = train_codec(pictures(16), JUDGE, settings)
    state, kept = tmp_path / "state", codec_training._keep

    def keep_and_stop(*given):
        kept(*given)
        if given[3] == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(codec_training, "_SAVE_SECONDS", -1.0)
    monkeypatch.setattr(codec_training, "_keep", keep_and_stop)
    with pytest.raises(KeyboardInterrupt):
        train_codec(pictures(16), JUDGE, settings, state)
    monkeypatch.setattr(codec_training, "_keep", kept)
    resumed, _ = train_codec(pictures(16), JUDGE, settings, state)
    assert all((a.weight == b.weight).all() for a, b in zip(resumed.decoder, whole.decoder))
    assert (resumed.counts == whole.counts).all()


def test_a_codec_file_of_another_version_or_a_damaged_one_is_refused_in_one_line(made, tmp_path):
    from safetensors.torch import load_file, save_file

    place, codec = made
    assert open_codec(str(place)).fingerprint == codec.fingerprint
    assert open_codec(str(place)).fixed == place.stat().st_size
    other = tmp_path / "o.safetensors"
    save_file(load_file(place), other, {"winnow": '{"format": "winnow-codec/2"}'})
    with pytest.raises(InputError, match=r"a codec of another version \(winnow-codec/2\), winnow-codec/1 is expected"):
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
    with pytest.raises(ValueError, match="this codec has 60 40 20 10"):
        codec.encode(pictures(1)[0], 33)
