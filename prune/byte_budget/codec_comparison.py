"""Compares codecs on a sample of images: bytes, feature error, PSNR, time; expected accuracy; which one to take.

Functions on arrays and lists of points; a point is one codec at one quality, a mapping with `codec`, `quality`,
`bytes`, `fmse`, `psnr` and more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np

from prune.byte_budget.codec_files import TERMS, ImageCodec
from prune.byte_budget.distortion import dropped, fmse, psnr
from prune.byte_budget.feature_error import Judge
from prune.runs.files import InputError

Point = dict[str, Any]
_Given = TypeVar("_Given")
_Made = TypeVar("_Made")


def compared(
    images: Sequence[np.ndarray],
    codecs: Sequence[ImageCodec],
    qualities: Sequence[int],
    judge: Judge,
    names: Sequence[str] | None = None,
) -> list[Point]:
    """Encode and decode images with every codec at every quality.

    Parameters
    ----------
    images : sequence of (h, w, 3) uint8
    codecs : sequence of ImageCodec
    qualities : sequence of int
        For codecs that have no list of their own.
    judge : Judge
    names : sequence of str, optional
        What the points call each codec; its own name when absent.

    Returns
    -------
    list of dict
        codec, quality, terms; means over the images: bytes, fmse, psnr (dB, at most 99), value (share of an image's
        worth that is left, 1 - FMSE / FMSE of dropping it); once (bytes of the codec itself). encode_ms, decode_ms:
        an image's time, the median of at least 5, one after the other; encode_ms_middle, decode_ms_middle: the
        quartiles between which half of them lie.
    """
    exact, points = judge.features(images), []
    worth = float(dropped(exact, exact.mean(0)).mean())
    for codec, name in zip(codecs, names or [codec.name for codec in codecs]):
        for quality in codec.qualities or qualities:
            datas, encoding = _timed(partial(codec.encode, quality=quality), images)
            copies, decoding = _timed(codec.decode, datas)
            error = float(fmse(judge.features(copies), exact).mean(dtype=np.float64))
            noise = [min(99.0, float(psnr(copy, image))) for copy, image in zip(copies, images)]
            points.append(
                {
                    "codec": name,
                    "quality": int(quality),
                    "bytes": float(np.mean([len(data) for data in datas])),
                    "fmse": error,
                    "psnr": float(np.mean(noise)),
                    "value": 1 - error / worth,
                    "once": codec.fixed,
                    "encode_ms": encoding[1],
                    "encode_ms_middle": [encoding[0], encoding[2]],
                    "decode_ms": decoding[1],
                    "decode_ms_middle": [decoding[0], decoding[2]],
                    "terms": TERMS[codec.name],
                }
            )
    return points


def _timed(
    work: Callable[[_Given], _Made], each: Sequence[_Given], least: int = 5
) -> tuple[list[_Made], tuple[float, float, float]]:
    """What `work` makes of each, and the quartiles of its times in milliseconds, over `least` calls or more."""
    found, times = [], []
    for at in range(max(least, len(each))):
        begin = time.perf_counter()
        made = work(each[at % len(each)])
        times.append(1e3 * (time.perf_counter() - begin))
        if at < len(each):
            found.append(made)
    low, middle, high = (float(one) for one in np.percentile(times, (25, 50, 75)))
    return found, (low, middle, high)


def shared(point: Mapping[str, Any], images: int) -> float:
    """Bytes of the codec's own file that fall to each of so many images."""
    return float(point.get("once", 0)) / max(1, images)


def whole(point: Mapping[str, Any], images: int) -> float:
    """Bytes an image, the codec's own file shared among so many images included."""
    return float(point["bytes"]) + shared(point, images)


def ranked(points: Sequence[Mapping[str, Any]], images: int = 1) -> dict[str, Any]:
    """Interpolate each codec's points at five sizes that all reach and sort by FMSE.

    Parameters
    ----------
    points : sequence of mapping
        codec, quality, bytes, fmse, psnr (means), once.
    images : int
        Images that share a codec's own file; the sizes include its share.
    """
    by_codec: dict[str, list[Mapping[str, Any]]] = {}
    for point in sorted(points, key=lambda p: whole(p, images)):
        by_codec.setdefault(point["codec"], []).append(point)
    low = max(whole(rows[0], images) for rows in by_codec.values())
    high = min(whole(rows[-1], images) for rows in by_codec.values())
    at = []
    for size in np.geomspace(low, high, 5) if high > low else ():
        rows: list[dict[str, Any]] = []
        for codec, curve in by_codec.items():
            x = np.log([whole(p, images) for p in curve])
            y = {key: float(np.interp(np.log(size), x, [p[key] for p in curve])) for key in ("fmse", "psnr")}
            rows.append({"codec": codec, **y})
        at.append({"bytes": float(size), "codecs": sorted(rows, key=lambda row: row["fmse"])})
    return {"points": list(points), "at": at}


def fitted_line(fmse: np.ndarray, accuracy: np.ndarray) -> dict[str, float]:
    """Fit accuracy = intercept + slope * FMSE to a pilot's trainings by least squares.

    Parameters
    ----------
    fmse, accuracy : (n,) float
        One entry for each training; at least 3 different FMSE.

    Returns
    -------
    dict
        intercept, slope, error (standard deviation of the residuals), n, mean and spread of the FMSE (sum of squared
        distances from their mean), low, high (range of the FMSE).

    Raises
    ------
    InputError
        Fewer than 3 different FMSE.
    """
    x, y = np.asarray(fmse, np.float64), np.asarray(accuracy, np.float64)
    if len(np.unique(x)) < 3:
        raise InputError(
            f"a line needs trainings at 3 different feature errors or more, the pilot has {len(np.unique(x))}"
        )
    mean, spread = float(x.mean()), float(np.square(x - x.mean()).sum())
    slope = float(((x - mean) * (y - y.mean())).sum() / spread)
    intercept = float(y.mean() - slope * mean)
    error = float(np.sqrt(np.square(y - intercept - slope * x).sum() / (len(x) - 2)))
    return {
        "intercept": intercept, "slope": slope, "error": error, "n": len(x), "mean": mean, "spread": spread,
        "low": float(x.min()), "high": float(x.max()),
    }  # fmt: skip


def expected(line: Mapping[str, float], fmse: float) -> tuple[float, float] | None:
    """Accuracy of one more training at this FMSE, and half of its 95 % prediction interval (Student's t).

    None beyond the pilot's range by more than a tenth of it: a line says nothing there.
    """
    from scipy.special import stdtrit

    slack = 0.1 * (line["high"] - line["low"])
    if not line["low"] - slack <= fmse <= line["high"] + slack:
        return None
    n = line["n"]
    wide = np.sqrt(1 + 1 / n + (fmse - line["mean"]) ** 2 / line["spread"])
    return line["intercept"] + line["slope"] * fmse, float(stdtrit(n - 2, 0.975) * line["error"] * wide)


def recommended(
    points: Sequence[Mapping[str, Any]],
    images: int,
    *,
    size: float | None,
    value: float,
    within: float,
    best: float | None,
) -> tuple[Mapping[str, Any] | None, str]:
    """The point to take, and why in a few words.

    Bytes include the codec's own, shared among the images. With `size` the smallest FMSE of what takes at most so
    many bytes an image; otherwise the fewest bytes of what costs little: at most `within` points below `best`, where
    a pilot gives expected accuracies, or at least a `value` of an image's worth.

    Parameters
    ----------
    points : sequence of mapping
        As `compared` gives them; `accuracy` in percent where a pilot was given.
    images : int
        Images that the codec will store.
    size : float, optional
        Bytes.
    value : float
        In (0, 1].
    within : float
        Points.
    best : float, optional
        Expected accuracy at no error, in percent.
    """

    near = _near(points, value=value, within=within, best=best)
    if size is not None:
        fits = [point for point in points if whole(point, images) <= size]
        return min(fits, key=lambda p: p["fmse"], default=None), f"smallest feature error within {size:,g} bytes"
    reason = f"within {within:g} points of no compression" if best is not None else f"that keep {value:.0%} of an "
    reason += "" if best is not None else "image's worth"
    return min(near, key=lambda p: whole(p, images), default=None), f"fewest bytes {reason}"


def _near(
    points: Sequence[Mapping[str, Any]], *, value: float, within: float, best: float | None
) -> list[Mapping[str, Any]]:
    """The points that cost little: in expected accuracy where there is a pilot, otherwise in worth."""
    if best is not None:
        return [p for p in points if p.get("accuracy") is not None and p["accuracy"] >= best - within]
    return [point for point in points if point["value"] >= value]


def with_more_images(
    points: Sequence[Mapping[str, Any]],
    images: int,
    *,
    size: float | None,
    value: float,
    within: float,
    best: float | None,
) -> tuple[Mapping[str, Any], int] | None:
    """The point that `recommended` takes where the codecs' own files no longer count, and from how many images on.

    None where that is the one that it takes for `images`. Parameters as those of `recommended`.
    """
    taken, _ = recommended(points, images, size=size, value=value, within=within, best=best)
    if size is not None:
        fits = [p for p in points if p["bytes"] < size or (p["bytes"] == size and not p["once"])]
        other = min(fits, key=lambda p: p["fmse"], default=None)
    else:
        near = _near(points, value=value, within=within, best=best)
        other = min(near, key=lambda p: (p["bytes"], p["once"]), default=None)
    if other is None or other is taken or not other["once"]:
        return None
    if size is not None:
        return other, int(np.ceil(other["once"] / (size - other["bytes"])))
    # Fewer bytes than each of the others from here on: once / n + bytes falls below theirs.
    rivals = [p for p in near if p["bytes"] > other["bytes"]]
    least = max((other["once"] - p["once"]) / (p["bytes"] - other["bytes"]) for p in rivals)
    return other, int(np.floor(least)) + 1
