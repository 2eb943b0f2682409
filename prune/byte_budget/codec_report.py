"""What `prune codecs` shows: the pilot that it reads, the table, the figure, the page, the recommended line."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prune.byte_budget.codec_comparison import Point, expected, fitted_line, shared, whole
from prune.pages.frame import escaped, framed
from prune.pages.line_chart import Curve, line_chart
from prune.runs.csv_table import read_table
from prune.runs.files import InputError, counted

_HEADS = ("codec", "quality", "bytes", "FMSE", "worth %", "PSNR, dB", "encode, ms", "decode, ms")


def read_pilot(path: Path) -> list[dict[str, Any]]:
    """Read the trainings of a pilot, each with `accuracy` (percent) and `fmse`, or `codec` and `quality`.

    Raises
    ------
    InputError
        Not a CSV in UTF-8, a column is missing, or a value is no number in its range.
    """
    rows, columns = read_table(path, "--pilot ")
    if "accuracy" not in columns or not ("fmse" in columns or {"codec", "quality"} <= set(columns)):
        raise InputError(f"--pilot {path}: columns codec, quality, accuracy (or fmse, accuracy) are needed")
    found = []
    for number, row in enumerate(rows, 2):
        try:
            one: dict[str, Any] = {"accuracy": float(row["accuracy"])}
            if "fmse" in columns:
                one["fmse"] = float(row["fmse"])
            else:
                one |= {"codec": row["codec"], "quality": int(row["quality"])}
        except (TypeError, ValueError):
            raise InputError(f"--pilot {path}: line {number}: numbers are needed") from None
        if not 0 <= one["accuracy"] <= 100 or not 0 <= one.get("fmse", 0) < float("inf"):
            raise InputError(f"--pilot {path}: line {number}: accuracy from 0 to 100 %, FMSE from 0 are needed")
        found.append(one)
    if found and max(one["accuracy"] for one in found) <= 1:
        raise InputError(f"--pilot {path}: accuracy in percent is needed, all of these are at most 1")
    return found


def pilot_line(pilot: Sequence[Mapping[str, Any]], points: Sequence[Point], path: Path | None) -> dict[str, float]:
    """The line of accuracy over FMSE; trainings named by codec and quality have the FMSE measured here."""
    known = {(p["codec"], p["quality"]): p["fmse"] for p in points}
    errors, names = [], dict.fromkeys(p["codec"] for p in points)
    for one in pilot:
        if "fmse" not in one and one["codec"] not in names:
            raise InputError(
                f"--pilot {path}: codec {one['codec']} is not compared here, {', '.join(names)} are; see --codecs"
            )
        key = (one.get("codec"), one.get("quality"))
        if "fmse" not in one and key not in known:
            raise InputError(
                f"--pilot {path}: {key[0]} at quality {key[1]} is not measured here; add it to --qualities"
            )
        errors.append(one["fmse"] if "fmse" in one else known[key])
    try:
        return fitted_line(np.array(errors), np.array([one["accuracy"] for one in pilot]))
    except InputError as error:
        raise InputError(f"--pilot {path}: {error}") from None


def add_expected(points: Sequence[Point], line: Mapping[str, float]) -> None:
    """Give every point its expected accuracy and half of the 95 % interval, or None for both."""
    for point in points:
        found = expected(line, point["fmse"])
        point["accuracy"], point["accuracy_within"] = found or (None, None)


def heads_and_rows(points: Sequence[Point], images: int) -> tuple[list[str], list[list[str]]]:
    """The table as texts, for a source of so many images, which share a codec's own file."""
    pilot = any("accuracy" in point for point in points)
    once = any(point["once"] for point in points)
    heads = [*_HEADS, *(["accuracy %"] if pilot else []), *(["bytes, once"] if once else []), "terms"]
    rows = []
    for p in points:
        row = [
            p["codec"], str(p["quality"]), _bytes(p, images), f"{p['fmse']:.4g}", f"{100 * p['value']:.1f}",
            f"{p['psnr']:.1f}", _time(p, "encode_ms"), _time(p, "decode_ms"),
        ]  # fmt: skip
        if pilot:
            known = p.get("accuracy") is not None
            row.append(f"{p['accuracy']:.1f} ± {p['accuracy_within']:.1f}" if known else "beyond the pilot")
        if once:
            row.append(f"{p['once']:,}")
        rows.append([*row, p["terms"]])
    return heads, rows


def _bytes(point: Mapping[str, Any], images: int) -> str:
    """Bytes an image: `242`; of a codec with a file of its own `171 + 98 = 269`, the second its share of the file."""
    own = f"{point['bytes']:,.0f}"
    return f"{own} + {shared(point, images):,.0f} = {whole(point, images):,.0f}" if point["once"] else own


def _time(point: Mapping[str, Any], key: str) -> str:
    """A median, and the quartiles in brackets: `0.83 (0.79-0.91)`."""
    low, high = point[f"{key}_middle"]
    return f"{point[key]:.2f} ({low:.2f}-{high:.2f})"


def recommended_line(result: Mapping[str, Any], why: str) -> str:
    """The last line; `result` has `recommended`, `source_images` and `with_more_images` as `prune codecs --json`."""
    chosen, images, later = result["recommended"], result["source_images"], result["with_more_images"]
    more_images = ""
    if later is not None:
        more_images = (
            f"; {later['codec']} at quality {later['quality']} takes {_share(later, images)}, and is the better choice "
            f"from {later['images']:,} images on"
        )
    if chosen is None:
        return f"recommended: none of these ({why}); try other --qualities{more_images}"
    more = ""
    if chosen.get("accuracy") is not None:
        more = f", expected accuracy {chosen['accuracy']:.1f} ± {chosen['accuracy_within']:.1f} %"
    size = _bytes(chosen, images)
    if chosen["once"]:
        size = f"{_share(chosen, images)}, together {whole(chosen, images):,.0f}"
    return (
        f"recommended: {chosen['codec']} at quality {chosen['quality']}, {size} bytes an image, "
        f"{chosen['value']:.1%} of an image's worth{more} ({why}){more_images}"
    )


def _share(point: Mapping[str, Any], images: int) -> str:
    """`171 + 98 of the codec's file (23,520 bytes) over 240 images`."""
    return (
        f"{point['bytes']:,.0f} + {shared(point, images):,.0f} of the codec's file ({point['once']:,} bytes) over "
        f"{counted(images, 'image')}"
    )


def own_files(result: Mapping[str, Any]) -> str:
    """What the second number in the column of bytes is; '' where no codec has a file of its own."""
    if not any(point["once"] for point in result["points"]):
        return ""
    return (
        "bytes: an image, + its share of the codec's own file, which whoever decodes needs, over the "
        f"{counted(result['source_images'], 'image')} of this source"
    )


def show(result: Mapping[str, Any], why: str) -> None:
    """Print the points, the ranks at equal bytes, and the recommended line."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    heads, rows = heads_and_rows(result["points"], result["source_images"])
    every = Table(*heads[:-1])
    for row in rows:
        every.add_row(*row[:-1])
    console.print(every)
    if said := own_files(result):
        console.print(said)
    terms = {point["codec"]: point["terms"] for point in result["points"]}
    console.print("terms: " + "; ".join(f"{name}: {text}" for name, text in terms.items()))
    ranks = Table("bytes", "rank", "codec", "FMSE", "PSNR, dB")
    for size in result["at"]:
        for place, row in enumerate(size["codecs"]):
            bytes_of = f"{size['bytes']:,.0f}" if not place else ""
            ranks.add_row(bytes_of, str(place + 1), row["codec"], f"{row['fmse']:.5g}", f"{row['psnr']:.2f}")
    if result["at"]:
        console.print("At equal bytes, the smallest feature error first:")
        console.print(ranks)
    if result["pilot"]:
        line = result["pilot"]
        console.print(
            f"pilot: accuracy = {line['intercept']:.2f} {line['slope']:+.4g} FMSE, ± {line['error']:.2f} points, "
            f"{line['n']} trainings"
        )
    console.print(recommended_line(result, why))


def figure(points: Sequence[Point], images: int) -> str:
    """Feature error against bytes, the share of a codec's own file included, a curve for each codec, as SVG."""
    least = min((p["fmse"] for p in points if p["fmse"] > 0), default=1e-9)  # a logarithm needs values above 0
    curves = []
    for codec in dict.fromkeys(p["codec"] for p in points):
        mine = sorted((p for p in points if p["codec"] == codec), key=lambda p: p["bytes"])
        curves.append(Curve(codec, [whole(p, images) for p in mine], [max(p["fmse"], least) for p in mine]))
    included = ", its share of a codec's own file included" if any(p["once"] for p in points) else ""
    return line_chart(
        curves,
        title="Feature error of image codecs",
        across=f"bytes an image{included}",
        upwards="FMSE (less is better)",
    )


def page(result: Mapping[str, Any], why: str, source: str) -> str:
    """One page: the recommended line, the figure, the table."""
    heads, rows = heads_and_rows(result["points"], result["source_images"])
    drawn = figure(result["points"], result["source_images"])
    own = f"<p>{escaped(said[:1].upper() + said[1:])}.</p>" if (said := own_files(result)) else ""
    table = "<table><tr>" + "".join(f"<th>{escaped(head)}</th>" for head in heads) + "</tr>"
    table += "".join("<tr>" + "".join(f"<td>{escaped(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    line = recommended_line(result, why)
    body = (
        f"<header><h1>Codecs for {escaped(source)}: {escaped(line)}</h1></header><main>{drawn}"
        f"{table}</table>{own}<p>FMSE: mean squared error of the network's features, over {result['images']} images. "
        "Worth: 1 - FMSE / FMSE of dropping the image. Times: one image after the other, this machine, one "
        "process; the median, and in brackets what half of the images lie between. Terms: "
        "licence and patents in a few words, no legal advice.</p></main>"
    )
    return framed(f"Codecs for {source}", body, generator="prune codecs")
