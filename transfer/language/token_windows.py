"""Text as windows of tokens: the tokenizer of a model's directory, windows to train on, and windows held out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from prune.runs.files import InputError, need_file

TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class Text:
    """Windows of one text, none of which overlap.

    Attributes
    ----------
    train, held_out : (n, t) int64
        Windows to rank and train on, and windows on which perplexity is measured.
    fingerprint : str
        Of the files' bytes.
    """

    train: np.ndarray
    held_out: np.ndarray
    fingerprint: str


def open_tokenizer(directory: Path, vocabulary: int) -> Tokenizer:
    """Read tokenizer.json, which holds data alone.

    Raises
    ------
    InputError
        There is none, it is damaged, or it has more tokens than the model.
    """
    place = Path(directory) / TOKENIZER
    if not place.is_file():
        open_it = f"AutoTokenizer.from_pretrained({str(directory)!r})"
        code = f"from transformers import AutoTokenizer; {open_it}.save_pretrained({str(directory)!r})"
        raise InputError(f'{place}: no such file; transformers writes it: python -c "{code}"')
    try:
        found = Tokenizer.from_file(str(place))
    except Exception as error:  # the reader's own exceptions have no common base
        raise InputError(f"{place}: damaged, or not a tokenizer: {str(error)[:200]}") from None
    found.no_padding()
    found.no_truncation()
    if (size := found.get_vocab_size()) > vocabulary:
        raise InputError(f"{place}: has {size} tokens, and the model {vocabulary}: they do not belong together")
    return found


def tokenizer_fingerprint(directory: Path) -> str:
    """Of the bytes of tokenizer.json."""
    return hashlib.sha256((Path(directory) / TOKENIZER).read_bytes()).hexdigest()[:32]


def first_tokens(tokenizer: Tokenizer) -> list[int]:
    """The token with which the tokenizer begins a text; empty where it begins with none."""
    found: list[int] = tokenizer.encode("").ids
    return found if len(found) == 1 else []


def tokens_of(tokenizer: Tokenizer, files: Sequence[Path]) -> tuple[np.ndarray, str]:
    """Tokens of UTF-8 files one after the other, (n,) int64, and the fingerprint of their bytes.

    Raises
    ------
    InputError
        A file is missing or no text.
    """
    parts, total = [], hashlib.sha256()
    for file in files:
        data = need_file(Path(file), "a text file").read_bytes()
        total.update(hashlib.sha256(data).digest())
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{file}: not UTF-8 at byte {error.start}; a plain text file is expected") from None
        parts.append(np.asarray(tokenizer.encode(text, add_special_tokens=False).ids, np.int64))
    return np.concatenate([np.zeros(0, np.int64), *parts]), total.hexdigest()[:32]


def windows_of(tokens: np.ndarray, length: int, first: Sequence[int] = ()) -> np.ndarray:
    """Cut tokens into windows, each beginning with `first`; what is left over at the end is dropped.

    Examples
    --------
    >>> windows_of(np.arange(7), 3)
    array([[0, 1, 2],
           [3, 4, 5]])
    """
    inside = length - len(first)
    count = len(tokens) // inside
    body = np.asarray(tokens[: count * inside], np.int64).reshape(count, inside)
    head = np.broadcast_to(np.asarray(list(first), np.int64), (count, len(first)))
    return np.concatenate([head, body], 1)


def read_text(tokenizer: Tokenizer, files: Sequence[Path], held_out: Sequence[Path], length: int) -> Text:
    """Read the text that guides a compression, and that on which it is tested.

    Parameters
    ----------
    tokenizer : Tokenizer
    files : sequence of Path
    held_out : sequence of Path
        Empty: the last tenth of the windows of `files`.
    length : int
        Tokens of a window.

    Raises
    ------
    InputError
        A file is missing, no text, too short, or both text and held out.
    """
    if both := {Path(file).resolve() for file in files} & {Path(file).resolve() for file in held_out}:
        raise InputError(f"--held-out {min(both)}: is one of --text, too: a text that was learned says nothing")
    first = first_tokens(tokenizer)
    tokens, fingerprint = tokens_of(tokenizer, files)
    train = windows_of(tokens, length, first)
    if held_out:
        other, more = tokens_of(tokenizer, held_out)
        kept, fingerprint = windows_of(other, length, first), fingerprint + more
    else:
        share = max(1, len(train) // 10)
        train, kept = train[:-share], train[-share:]
    for name, found in (("--text", train), ("--held-out", kept)):
        if len(found) < 2:
            raise InputError(
                f"{name}: too short: {len(tokens):,} tokens give {len(found)} windows of {length}; give more text, or "
                "a smaller --window"
            )
    return Text(train, kept, fingerprint)


def spread(windows: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of the windows, evenly spread.

    Examples
    --------
    >>> spread(np.arange(10)[:, None], 4).ravel()
    array([0, 3, 6, 9])
    """
    return windows[np.unique(np.linspace(0, len(windows) - 1, min(len(windows), count)).round().astype(np.int64))]
