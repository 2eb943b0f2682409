"""The card of an index: Markdown with the YAML header of Hugging Face's dataset cards; what is kept, how, its use."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prune.index.index_summary import classes_to_list, sentence, summary
from prune.index.npz import open_arrays
from prune.index.pruned_index import PrunedIndex
from prune.runs.files import InputError, need_file, printable

SIZES = (("n<1K", 10**3), ("1K<n<10K", 10**4), ("10K<n<100K", 10**5), ("100K<n<1M", 10**6), ("1M<n<10M", 10**7))
"""Values of `size_categories`, and the number of samples below which each holds; above: 10M<n<100M and so on."""
_IDENTIFIER = re.compile(r"[a-z0-9][a-z0-9.+-]*")
_ROWS = 40
_LOADERS = """\
Reading it needs `pip install winnow-pretrain` (NumPy and three small packages); `index.rows` finds the kept samples in
any listing of the same images.

```python
from prune import PrunedIndex

index = PrunedIndex.load({file})  # format, version and checksum are checked
```

torchvision:

```python
from torch.utils.data import Subset
from torchvision.datasets import ImageFolder

data = ImageFolder("photos")
kept = Subset(data, index.rows([path.removeprefix("photos/") for path, _ in data.samples]))
```

timm, as its `train.py` opens a folder:

```python
from timm.data import create_dataset
from torch.utils.data import Subset

data = create_dataset("", root="photos")
kept = Subset(data, index.rows(data.filenames()))
```

Hugging Face `datasets`:

```python
from datasets import Image, load_dataset

data = load_dataset("imagefolder", data_dir="photos", split="train").cast_column("image", Image(decode=False))
kept = data.select(index.rows(["/".join(row["path"].split("/")[-2:]) for row in data["image"]]))
```

FFCV, with a beton of `prune write`:

```python
from ffcv.loader import Loader, OrderOption
from prune.index.manifest import Manifest

rows = index.rows(Manifest.load("runs/photos.manifest.npz").ids)
loader = Loader("runs/photos.beton", batch_size=256, order=OrderOption.RANDOM, indices=rows)
```
"""


@dataclass(frozen=True)
class CardFacts:
    """What an index does not record.

    Attributes
    ----------
    file : str
        Name of the index file, for the code of the card.
    licence : str
        Identifier of the hub (apache-2.0, cc-by-4.0, ...), or any name.
    source : str
        Name of the source; empty when it is not told.
    targets : tuple of str
    surrogate : str
    fields : tuple of (str, str)
        Fields of the source's images and their values among those kept, in words.
    repository : str
        Where it is shared; empty for a card on its own.
    """

    file: str
    licence: str = "unknown"
    source: str = ""
    targets: tuple[str, ...] = ()
    surrogate: str = ""
    fields: tuple[tuple[str, str], ...] = ()
    repository: str = ""


def card_facts(path: Path, index: PrunedIndex, scores: Path | None, licence: str, source: str) -> CardFacts:
    """What is known of an index file beside its content.

    Raises
    ------
    InputError
        The scores file is of another source, or the licence or the name is empty.
    """
    if not licence.strip():
        raise InputError("--licence: a name is needed, such as cc-by-4.0")
    file = path.name if path.name.endswith(".index.npz") else f"{path.name.removesuffix('.npz')}.index.npz"
    if scores is None:
        return CardFacts(file, licence, source)
    meta = open_arrays(need_file(scores, "a scores file of `prune score`"), "winnow-scores/1")[1]
    if meta.get("fingerprint") != index.source:
        raise InputError(f"--scores {scores}: of another source than {path}")
    surrogate = (meta.get("surrogate") or {}).get("arch")
    return CardFacts(file, licence, source, tuple(meta.get("targets", [])), str(surrogate or ""))


def card(index: PrunedIndex, facts: CardFacts) -> str:
    """The card as text."""
    numbers = summary(index)
    title = f"{facts.file.removesuffix('.index.npz')}: what to keep of {facts.source or 'a source'}"
    lines = [*_header(index, facts, title), "", f"# {_text(title)}", "", _text(sentence(numbers)), ""]
    lines += [
        "It holds no images: it names those to keep, by their paths, and is valid for the source of this fingerprint.",
        "",
        *_table(["", ""], [[name, value] for name, value in _facts(index, facts, numbers)]),
        "",
        "## By class",
        "",
        *_classes(index, numbers),
        "",
        "## Use",
        "",
    ]
    if facts.repository:
        lines += ["```bash", f"prune pull {facts.repository} --out {facts.file}", "```", ""]
    lines += [_LOADERS.replace("{file}", json.dumps(facts.file, ensure_ascii=False))]
    lines += ["## How it was made", "", "```json", *_provenance(index), "```"]
    return "\n".join(lines) + "\n"


def _header(index: PrunedIndex, facts: CardFacts, title: str) -> list[str]:
    """YAML with the fields of the hub's dataset cards; texts are quoted as JSON, which is YAML."""
    known = _IDENTIFIER.fullmatch(facts.licence) is not None
    licence = [f"license: {facts.licence}"] if known else ["license: other", f"license_name: {_quoted(facts.licence)}"]
    return [
        "---",
        *licence,
        f"pretty_name: {_quoted(title)}",
        "size_categories:",
        f"- {_quoted(size_category(len(index)))}",
        "task_categories:",
        "- image-classification",
        "tags:",
        *(f"- {tag}" for tag in ("winnow", "data-pruning", "coreset-selection")),
        "---",
    ]


def size_category(n: int) -> str:
    """The hub's name for a number of samples.

    >>> size_category(999), size_category(1000), size_category(50_000_000), size_category(10**12)
    ('n<1K', '1K<n<10K', '10M<n<100M', 'n>1T')
    """
    larger = (("10M<n<100M", 10**8), ("100M<n<1B", 10**9), ("1B<n<10B", 10**10), ("10B<n<100B", 10**11))
    return next((name for name, below in (*SIZES, *larger, ("100B<n<1T", 10**12)) if n < below), "n>1T")


def _facts(index: PrunedIndex, facts: CardFacts, numbers: Mapping[str, Any]) -> list[tuple[str, str]]:
    step = index.provenance[-1] if index.provenance else {}
    config, source = step.get("config") or {}, numbers["source"]
    gate = step.get("gate")
    rows = [
        ("source", facts.source or "not told"),
        ("fingerprint of the source", source["fingerprint"]),
        ("images of the source", f"{source['samples']:,} ({source['nbytes'] / 1e6:,.1f} MB)"),
        ("kept", f"{numbers['kept']:,} ({100 * numbers['keep']:.2f} %, {numbers['nbytes'] / 1e6:,.1f} MB)"),
        ("fingerprint of the index", numbers["fingerprint"]),
        ("method", _method(step, config)),
        ("gate", f"{gate['score']}, open to {gate['width']:.1%}" if isinstance(gate, dict) else "open to all"),
        ("targets", ", ".join(facts.targets)),
        ("surrogate", facts.surrogate),
        ("kept because of", ", ".join(f"{name} {count:,}" for name, count in numbers["reasons"].items())),
        ("licence of the images", facts.licence),
        *facts.fields,
        ("made by", " → ".join(str(entry.get("step")) for entry in index.provenance) or "unknown"),
        ("version", str((step.get("versions") or {}).get("winnow", "unknown"))),
    ]
    return [(name, value) for name, value in rows if value]


def _method(step: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    if config.get("mix"):
        return f"mix {config['mix']}"
    method = step.get("method")
    pair = f"{method.get('quota')} x {method.get('rank')}" if isinstance(method, dict) else "unknown"
    return f"{config['method']} ({pair})" if config.get("method") else pair


def _classes(index: PrunedIndex, numbers: Mapping[str, Any]) -> list[str]:
    shown = classes_to_list(*index.per_class(), _ROWS).tolist()
    rows = []
    for label in shown:
        one = numbers["classes"][label]
        rows.append([one["class"], f"{one['kept']:,}", f"{one['total']:,}", f"{100 * one['keep']:.1f} %"])
    lines = _table(["class", "kept", "of", "share"], rows)
    if len(shown) < len(index.classes):
        lines += [
            "",
            f"{len(shown)} of {len(index.classes)} classes, those with the largest and the smallest kept shares; "
            "`prune show --all` lists every one.",
        ]
    return lines


def _provenance(index: PrunedIndex) -> list[str]:
    """Each step as a line of JSON; a fence in a name cannot end the block."""
    return [json.dumps(entry, sort_keys=True).replace("`", "\\u0060") for entry in index.provenance]


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(map(_text, row)) + " |" for row in (head, ["---"] * len(head), *rows)]


def _text(text: str) -> str:
    """Text that is neither Markdown of its own nor HTML."""
    shown = printable(text).replace("\\", "\\\\")
    for sign in ("|", "`", "*", "[", "]", "$"):
        shown = shown.replace(sign, f"\\{sign}")
    return shown.replace("<", "&lt;")


def _quoted(text: str) -> str:
    return json.dumps(printable(text), ensure_ascii=False)
