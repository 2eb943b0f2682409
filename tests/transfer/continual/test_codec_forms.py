"""Memories whose codec comes from a file: its bytes count once, and only the same codec reads them again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from prune.byte_budget.codec_files import StandardCodec
from prune.data.jpeg_tables import JpegTables
from prune.runs.files import InputError
from transfer.continual import exemplars
from transfer.continual.exemplar_form import OWN_HEADERS, WORD, Form, fixed_bytes, form_of
from transfer.continual.stream_memory import StreamMemory

SIDE = 16
FITTED = StandardCodec("jpeg", JpegTables(((tuple([20] * 64), tuple([10] * 64)),) * 100, (True,) * 100))


@dataclass(frozen=True)
class Means:
    """A codec of 3 bytes an image, its mean colour, that takes 1,000 bytes itself."""

    name: str = "learned"
    fingerprint: str = "means"
    fixed: int = 1000
    qualities: tuple[int, ...] = (10, 50)

    def encode(self, pixels: np.ndarray, quality: int) -> bytes:
        return bytes(pixels.reshape(-1, 3).mean(0).astype(np.uint8))

    def decode(self, data: bytes) -> np.ndarray:
        return np.broadcast_to(np.frombuffer(data, np.uint8), (SIDE, SIDE, 3)).copy()


def smooth(n: int) -> np.ndarray:
    small = np.random.default_rng(0).integers(0, 256, (n, 4, 4, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(one).resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for one in small])


def packed(form: Form, n: int = 6) -> exemplars.Exemplars:
    return exemplars.pack(form, smooth(n), np.zeros(n), np.arange(n), np.arange(n))


def test_a_fitted_jpeg_shares_its_headers_and_comes_back_as_the_codec_decodes_it():
    memory = packed(form_of(FITTED, 30, SIDE))
    assert (memory.kind != OWN_HEADERS).all()
    assert (memory.images() == memory.form.round_trip(smooth(6))).all()
    # Both tables are in the shared headers alone.
    assert memory.nbytes == sum(map(len, memory.form.headers)) + memory.pixel_bytes + 6 * WORD


def test_a_codecs_own_bytes_count_once_whatever_the_number_of_images_and_qualities():
    assert packed(form_of(Means(), 10, SIDE)).nbytes == 1000 + 6 * (3 + WORD)
    forms = [Form("raw", 0, SIDE), form_of(Means(), 50, SIDE), form_of(Means(), 10, SIDE)]
    assert fixed_bytes(forms) == 1000
    memory = StreamMemory(forms, 1000 + 5 * (3 + WORD), seed=0)
    assert memory.used == 1000
    for row, pixels in enumerate(smooth(8)):
        memory.offer(pixels, 0, row)
    assert len(memory) == 5
    assert memory.used == memory.budget


def test_a_memory_is_read_again_by_the_same_codec_alone(tmp_path):
    memory, place = packed(form_of(FITTED, 30, SIDE)), tmp_path / "m.npz"
    memory.save(place)
    again = exemplars.Exemplars.load(place, FITTED)
    assert (again.images() == memory.images()).all()
    assert again.nbytes == memory.nbytes
    for other in (None, StandardCodec("jpeg"), Means()):
        with pytest.raises(InputError, match="written with another codec"):
            exemplars.Exemplars.load(place, other)
    standard = packed(Form("jpeg", 30, SIDE))
    standard.save(place)
    assert (exemplars.Exemplars.load(place, StandardCodec("jpeg")).images() == standard.images()).all()


def test_a_memory_smaller_than_the_codec_itself_is_refused():
    with pytest.raises(InputError, match="shared headers and the codec itself alone take 1000 bytes"):
        exemplars.need_room("900", 900, [[form_of(Means(), 10, SIDE)]])
