"""Exemplars counted in bytes: the bytes of each form, which exemplars are kept, herding by hand."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from prune.data import image_codecs
from prune.runs.files import InputError
from transfer.continual import exemplars
from transfer.continual.exemplar_form import OWN_HEADERS, WORD, Form


def smooth(n: int, side: int = 16, seed: int = 0) -> np.ndarray:
    """Images whose neighbouring pixels are alike, (n, side, side, 3) uint8."""
    small = np.random.default_rng(seed).integers(0, 256, (n, 4, 4, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(one).resize((side, side), Image.Resampling.BICUBIC)) for one in small])


def packed(form: Form, n: int = 6, classes: int = 2) -> exemplars.Exemplars:
    label = np.arange(n) % classes
    return exemplars.pack(form, smooth(n, form.side), label, np.arange(n) // classes, np.arange(n))


def test_a_raw_exemplar_takes_three_bytes_a_pixel_and_comes_back_exactly():
    memory = packed(Form("raw", 0, 16))
    assert memory.nbytes == memory.pixel_bytes == memory.file_bytes == 6 * 16 * 16 * 3
    assert (memory.images() == smooth(6)).all()


def test_common_headers_are_kept_and_counted_once():
    shared, alone = packed(Form("jpeg", 50, 16)), packed(Form("jpeg", 50, 16, shared=False))
    headers = sum(map(len, shared.form.headers))
    assert (shared.kind == 0).all()
    assert (alone.kind == OWN_HEADERS).all()
    # The parts of a memory of six: both shared headers, and for each its entropy-coded bytes and a word.
    assert shared.nbytes == headers + shared.pixel_bytes + 6 * WORD
    assert shared.file_bytes == alone.nbytes - 6 * WORD  # put together again they are the files
    # A file has the header and the two bytes of the end marker besides its pixels.
    assert alone.file_bytes == shared.pixel_bytes + 6 * (len(shared.form.headers[0]) + 2)
    assert alone.pixel_bytes == shared.pixel_bytes


@pytest.mark.parametrize("codec", image_codecs.CODECS)
@pytest.mark.parametrize("shared", [True, False])
def test_a_compressed_exemplar_is_the_image_passed_through_the_codec(codec, shared):
    form = Form(codec, 40, 16, shared)
    grey = np.repeat(smooth(1)[..., :1], 3, axis=3)
    noise = np.random.default_rng(1).integers(0, 256, (1, 16, 16, 3), dtype=np.uint8)
    images = np.concatenate([smooth(3), grey, noise])
    zeros = np.zeros(5)
    memory = exemplars.pack(form, images, zeros, zeros, zeros)
    assert (memory.images() == form.round_trip(images)).all()


def test_a_shared_jpeg_put_together_opens_in_stock_pillow():
    form = Form("jpeg", 30, 16)
    kind, scan = form.pack(smooth(1)[0])
    image = Image.open(io.BytesIO(form.headers[kind] + scan + b"\xff\xd9"))
    assert image.size == (16, 16)
    assert (np.asarray(image.convert("RGB")) == form.unpack(kind, scan)).all()


def test_classes_take_turns_until_the_bytes_are_used():
    form = Form("raw", 0, 2)  # 12 bytes each
    pixels = np.zeros((7, 2, 2, 3), np.uint8)
    label, place = np.array([0, 0, 0, 0, 1, 1, 2]), np.array([2, 0, 1, 3, 0, 1, 0])
    memory = exemplars.pack(form, pixels, label, place, np.arange(7))
    # 5 x 12 = 60 bytes: first of classes 0, 1, 2 (rows 1, 4, 6), then second of classes 0 and 1 (rows 2, 5).
    assert exemplars.fit_budget(memory, 60).row.tolist() == [1, 2, 4, 5, 6]
    # 71 bytes: eleven bytes are left and hold nothing.
    assert exemplars.fit_budget(memory, 71).row.tolist() == [1, 2, 4, 5, 6]
    # 72: class 2 has no more, class 0 gives its third (row 0).
    assert exemplars.fit_budget(memory, 72).row.tolist() == [0, 1, 2, 4, 5, 6]
    assert len(exemplars.fit_budget(memory, 11)) == 0


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(1, 40)), min_size=1, max_size=30),
    st.integers(0, 700),
    st.integers(0, 700),
)
def test_the_memory_never_exceeds_its_bytes_and_keeps_the_beginning_of_every_order(items, one, other):
    label = np.array([k for k, _ in items])
    place = np.array([(label[:i] == label[i]).sum() for i in range(len(items))])
    none = np.full(len(items), OWN_HEADERS, np.uint8)
    form = Form("webp", 50, 8)
    memory = exemplars.Exemplars(form, [bytes(n) for _, n in items], none, label, place, np.arange(len(items)))
    for budget in (one, other):
        kept = exemplars.fit_budget(memory, budget)
        assert kept.nbytes <= budget
        for k in np.unique(label):
            assert sorted(kept.place[kept.label == k]) == list(range((kept.label == k).sum()))
    again = exemplars.fit_budget(exemplars.fit_budget(memory, max(one, other)), min(one, other))
    assert again.nbytes <= min(one, other)  # cutting a memory down later is the same law


def test_a_memory_is_read_back_from_its_file_as_it_was(tmp_path):
    memory = packed(Form("jpeg", 50, 16))
    memory.save(tmp_path / "memory.npz")
    found = exemplars.Exemplars.load(tmp_path / "memory.npz")
    assert found.form == memory.form
    assert list(found.data) == list(memory.data)
    for name in ("kind", "label", "place", "row"):
        assert (getattr(found, name) == getattr(memory, name)).all()


def test_herding_by_hand():
    # Unit features of one class at 0, 90 and 60 degrees: (1, 0), (0, 1), (1/2, 0.866). Mean (0.5, 0.622).
    # First pick: distances to the mean 0.798, 0.627, 0.244: row 2. Second: means of two (0.75, 0.433), (0.25, 0.933):
    # distances 0.313 and 0.399: row 0. Then row 1. Features are brought to length 1 first, so row 1 may be (0, 5).
    features = np.array([[1, 0], [0, 5], [0.5, 0.75**0.5]], np.float32)
    place = exemplars.exemplar_order("herding", features, np.zeros((3, 2)), np.zeros(3, int), 0)
    assert place.tolist() == [1, 2, 0]


def test_a_score_orders_each_class_by_itself():
    # Two classes; the margin of logits (4, 0) is larger than that of (1, 0), so `margin:bottom` takes the latter first.
    logits = np.array([[4.0, 0], [1, 0], [0, 3], [0, 0.5]])
    features, labels = np.ones((4, 2), np.float32), np.array([0, 0, 1, 1])
    assert exemplars.exemplar_order("margin:bottom", features, logits, labels, 0).tolist() == [1, 0, 1, 0]
    assert exemplars.exemplar_order("margin:top", features, logits, labels, 0).tolist() == [0, 1, 0, 1]


def test_random_order_depends_on_the_seed_alone():
    features, labels = np.ones((50, 2), np.float32), np.zeros(50, int)
    orders = [
        exemplars.exemplar_order("random", features, np.zeros((50, 1)), labels, seed).tolist() for seed in (0, 0, 1)
    ]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == list(range(50))


def test_equivalent_and_effective_counts_by_hand():
    # (1000 - 0) bytes at a mean of 50: 20 exemplars. A quarter of the loss of dropping each: worth 15.
    assert exemplars.equivalent_count(Form("webp", 50, 8), np.array([40, 60]), 1000) == 20
    assert exemplars.effective_count(20, np.array([1.0, 0.0]), np.array([2.0, 2.0])) == 15.0
    assert exemplars.effective_count(20, np.array([9.0]), np.array([2.0])) == 0.0
    fixed = Form("jpeg", 50, 8).fixed
    assert exemplars.equivalent_count(Form("jpeg", 50, 8), np.array([50]), 1000 + fixed) == 20


def test_sizes_of_memory_are_read():
    assert exemplars.memory_bytes("2000raw", 32) == 2000 * 3072
    assert exemplars.memory_bytes("6MB", 32) == 6_000_000
    assert exemplars.memory_bytes("0.5 kB", 32) == 500
    assert exemplars.memory_bytes("77", 32) == 77
    for wrong in ("", "x", "5 apples", "-3", "0", "1.2.3"):
        with pytest.raises(InputError, match="--memory"):
            exemplars.memory_bytes(wrong, 32)
