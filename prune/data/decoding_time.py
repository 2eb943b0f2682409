"""How long it takes to decode a beton's images, at their own bytes or at planned qualities; and the energy."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from prune.data.dataset import Dataset, stored_image
from prune.data.image_codecs import encode_level
from prune.data.stored_images import Stored, decode
from prune.runs.energy_counter import EnergyMeter

SAMPLE = 200
_LEAST = 0.5  # seconds


@dataclass(frozen=True)
class DecodingTime:
    """What was measured.

    Attributes
    ----------
    ms : float
        Milliseconds of one core that an image takes, by Pillow; what else runs there does not count.
    images : int
        Different images that were decoded.
    watts : float or None
        Mean power of the machine's counters meanwhile; None where none is readable.
    """

    ms: float
    images: int
    watts: float | None


def decoding_time(source: Dataset, rows: np.ndarray, quality: np.ndarray | None = None, seed: int = 0) -> DecodingTime:
    """Decode a sample of images on one core, again and again for half a second of its time.

    Parameters
    ----------
    source : Dataset
    rows : (n,) int
        Of these images at most 200 are drawn.
    quality : (n,) uint8, optional
        Values of an index's quality column: the JPEG that is decoded instead of the stored bytes; 0 keeps them.
    seed : int
    """
    drawn = np.random.default_rng(seed).choice(len(rows), min(SAMPLE, len(rows)), replace=False)
    images = []
    for at in np.sort(drawn).tolist():
        image = stored_image(source, int(rows[at]))
        level = 0 if quality is None else int(quality[at])
        if level:
            image = Stored(encode_level(decode(image), level), True, image.height, image.width)
        images.append(image)
    meter, done = EnergyMeter(), 0
    meter.start()
    begin, used = time.perf_counter(), time.thread_time()
    while time.thread_time() - used < _LEAST:
        for image in images:
            decode(image)
        done += len(images)
    used, spent = time.thread_time() - used, time.perf_counter() - begin
    joules = meter.joules()
    return DecodingTime(1e3 * used / done, len(images), None if joules is None else joules / spent)
