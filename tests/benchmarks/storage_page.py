"""The page of `storage.py accuracy`: accuracy against bytes, qualities, and the images that compression hurts most.

    python tests/benchmarks/storage_page.py results/storage.json --out runs/bytes.html
    python tests/benchmarks/storage_page.py results/storage.json --curves runs/storage/train.curves.npz \
        --source runs/storage/train.beton --out runs/bytes.html

With --curves and --source the page shows the images that compression hurts most and least: each original and
the same image at every second quality of the ladder, side by side.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prune.runs.files import InputError, atomic, note, read_json
from transfer.pages.curves_page import Chart, Curve, Section, curves_html

HEADER = ("policy and budget", "accuracy %", "standard deviation", "seeds", "images kept", "bytes", "setting")
POLICIES = ("drop", "uniform", "adaptive")


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page; the exit code, 2 for wrong input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path, help="JSON of `storage.py accuracy`")
    parser.add_argument("--out", type=Path, required=True, help="page to write")
    parser.add_argument("--curves", type=Path, help="curves of `prune curves`")
    parser.add_argument("--source", type=Path, help="beton of these curves")
    parser.add_argument("--pictures", type=int, default=6, help="images of each kind")
    given = parser.parse_args(arguments)
    try:
        write_page(given.result, given.out, given.curves, given.source, given.pictures)
    except InputError as error:
        print(f"storage_page.py: {error}", file=sys.stderr)
        return 2
    return 0


def write_page(result: Path, out: Path, curves: Path | None, source: Path | None, pictures: int = 6) -> None:
    """Write the page of a result file to `out`."""
    if (curves is None) != (source is None):
        raise InputError("--curves and --source go together")
    if pictures < 1:
        raise InputError(f"--pictures {pictures}: at least 1 is needed")
    found = read_json(result)
    if not isinstance(found, dict) or not isinstance(found.get("cells"), list):
        raise InputError(f'{result}: not a table of `storage.py accuracy`: there are no "cells" in it')
    if out.is_dir():
        raise InputError(f"{out}: is a directory")
    hurt = hurt_groups(curves, source, pictures) if curves and source else []
    text = storage_html(found, hurt)
    with atomic(out) as partial:
        partial.write_text(text, encoding="utf-8")
    note(f"{out}: {len(text) / 1e6:.1f} MB")


def storage_html(result: Mapping[str, Any], hurt: Sequence[Mapping[str, Any]] = ()) -> str:
    """The page as text.

    Parameters
    ----------
    result : mapping
        Of `storage.py accuracy`: "cells" with judged, policy, setting, budget, seed, top1, bytes, kept and quality
        (level to count).
    hurt : sequence of mapping
        Groups of images side by side: {"title", "rows": [{"name", "images": [{"src", "text"}]}]}.
    """
    rows = policy_rows(result["cells"])
    curves = [
        Curve(policy, [100 * r["budget"] for r in mine], [r["mean"] for r in mine], [r["std"] or 0.0 for r in mine])
        for policy in POLICIES
        if (mine := [r for r in rows if r["policy"] == policy])
    ]
    sections = [
        Section(
            "Accuracy against bytes",
            "Own-test accuracy after training on what each policy keeps in the same bytes. Bars are one standard "
            "deviation over seeds.",
            [Chart("test images", "bytes, % of the original", "accuracy %", curves)],
        )
    ]
    if mixed := [r for r in rows if r["policy"] == "adaptive"]:
        histograms = [Chart("adaptive", "level", "images", [_histogram(r) for r in mixed])]
        words = (
            "Images at each JPEG quality of the adaptive plans; 0 is the original, above 100 is half the resolution."
        )
        sections.append(Section("Qualities", words, histograms))
    table = (HEADER, [row_texts(row) for row in rows])
    note = "Settings were chosen on validation images with another seed; every policy trains the same number of steps."
    config = {key: value for key, value in result.items() if key != "cells"}
    return curves_html("bytes as a budget", summary_sentence(rows), sections, table, note, config, hurt)


def policy_rows(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation in points over the seeds, by policy and budget; test images only."""
    rows = []
    tested = [one for one in found if one["judged"] == "test" and one["policy"] in POLICIES]
    for policy in POLICIES:
        for budget in sorted({one["budget"] for one in tested}):
            mine = [one for one in tested if (one["policy"], one["budget"]) == (policy, budget)]
            if not mine:
                continue
            top = [100 * one["top1"] for one in mine]
            same = {key: mine[0][key] for key in ("policy", "budget", "setting", "kept", "bytes", "quality")}
            std = statistics.stdev(top) if len(top) > 1 else None
            rows.append({**same, "mean": statistics.mean(top), "std": std, "seeds": len(top)})
    return rows


def summary_sentence(rows: Sequence[Mapping[str, Any]]) -> str:
    """The result in one sentence: adaptive against uniform on average, and where it is best."""
    value = {(row["policy"], row["budget"]): row["mean"] for row in rows}
    budgets = sorted({row["budget"] for row in rows})
    pairs = [
        value["adaptive", b] - value["uniform", b]
        for b in budgets
        if ("adaptive", b) in value and ("uniform", b) in value
    ]
    if not pairs:
        return "No budget was tried with both the adaptive and the uniform policy."
    best = sum(max((value[p, b], p) for p in POLICIES if (p, b) in value)[1] == "adaptive" for b in budgets)
    return (
        f"Adaptive qualities differ from the best single quality by {statistics.mean(pairs):+.1f} points on average, "
        f"and are the best of the three at {best} of {len(budgets)} budgets."
    )


def row_texts(row: Mapping[str, Any]) -> list[str]:
    """Texts of one policy and budget for the columns of `HEADER`."""
    return [
        f"{row['policy']}, {100 * row['budget']:g} %",
        f"{row['mean']:.2f}",
        "" if row["std"] is None else f"{row['std']:.2f}",
        str(row["seeds"]),
        f"{row['kept']:,}",
        f"{row['bytes']:,}",
        row["setting"],
    ]


def _histogram(row: Mapping[str, Any]) -> Curve:
    levels = sorted(row["quality"], key=int)
    counts = [row["quality"][level] for level in levels]
    return Curve(f"{100 * row['budget']:g} %", [int(level) for level in levels], counts, [0.0] * len(levels))


def hurt_groups(curves: Path, source: Path, count: int) -> list[dict[str, Any]]:
    """The images with the largest and the smallest share of their features lost at the middle quality."""
    import numpy as np

    from prune.data.dataset import open_dataset, stored_image
    from prune.data.image_codecs import HALF, decode, encode_level
    from prune.data.stored_images import Stored
    from prune.data.stored_images import decode as original_of
    from prune.gallery.thumbnails import data_uri
    from prune.index.index_summary import quality_name
    from prune.index.npz import open_arrays

    arrays, meta = open_arrays(curves, "winnow-curves/1")
    opened = open_dataset(source)
    if meta.get("fingerprint") != opened.manifest.fingerprint:
        raise InputError(f"{curves}: curves of another source than {source}")
    level = np.asarray(arrays["level"])
    ladder = [int(q) for q in level if 0 < q <= HALF]
    middle = int(np.flatnonzero(level == ladder[len(ladder) // 2])[0])
    share = np.where(arrays["measured"], arrays["fmse"][:, middle] / arrays["dropped"], np.nan)
    order = np.argsort(share, kind="stable")[: int(np.isfinite(share).sum())]

    def row(place: int) -> dict[str, Any]:
        stored = stored_image(opened, place)
        pixels = original_of(stored)
        images = [{"src": data_uri(stored, 1 << 16), "text": f"original, {len(stored.data):,} bytes"}]
        for quality in ladder[::2]:
            data = encode_level(pixels, quality)
            height, width = decode(data).shape[:2]
            uri = data_uri(Stored(decode(data).tobytes(), False, height, width), 1 << 16)
            images.append({"src": uri, "text": f"quality {quality_name(quality)}, {len(data):,} bytes"})
        name = bytes(opened.manifest.ids[place]).decode("utf-8", "backslashreplace")
        return {"name": f"{name}: {share[place]:.0%} of its features at quality {level[middle]}", "images": images}

    return [
        {"title": "Most hurt", "rows": [row(int(place)) for place in order[::-1][:count]]},
        {"title": "Least hurt", "rows": [row(int(place)) for place in order[:count]]},
    ]


if __name__ == "__main__":
    sys.exit(main())
