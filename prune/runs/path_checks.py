"""The paths of a command, checked before anything slow is imported: inputs exist, and outputs can be made.

A field of a `Config` that holds paths names inputs, unless it is `out` or its type says otherwise:

    beton: Location[Path]                  # must exist
    html: Written[Path | None] = None      # is written: the folder above it must take files

What lies at an input is the step's own matter: it opens the file, and says more than whether it exists.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import errno
import functools
import inspect
import os
import re
import tempfile
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

from prune.runs.disk_errors import in_words
from prune.runs.files import InputError, note

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Output:
    """The step writes what the field names, or makes it where it is absent."""


Written = Annotated[T, Output()]


def meant_paths(config: Any, argv: Sequence[str]) -> Any:
    """The config of a command line with `~` expanded in its paths, as a shell does for a word of its own.

    A shell leaves `--out=~/x` as it is. Other texts are paths where they begin with ~/ or have it behind NAME=.

    Raises
    ------
    InputError
        A path is empty: in Python that would be the current folder.
    """
    values = [word.partition("=")[2] if word.startswith("--") and "=" in word else word for word in argv]
    empty = "" in values and not any(value and os.path.normpath(value) == "." for value in values)
    changes = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        each = value if isinstance(value, tuple) else (value,)
        if empty and any(one == Path() or (one == "" and field.name in _PLACES) for one in each):
            raise InputError(f"--{field.name.replace('_', '-')}: is empty; give a path, or . for the current folder")
        found = tuple(_at_home(one) for one in each)
        if found != each:
            changes[field.name] = found if isinstance(value, tuple) else found[0]
    return dataclasses.replace(config, **changes) if changes else config


_PLACES = ("images", "source")
"""Fields that name places by texts: a path, or a scheme such as hf://."""


def _at_home(value: Any) -> Any:
    """A path or text with the user's folder in place of `~`; anything else as it is."""
    if isinstance(value, Path):
        return Path(os.path.expanduser(value))
    if isinstance(value, str) and (found := re.fullmatch(r"([\w.-]+=)?(~/.*)", value, re.DOTALL)):
        return (found[1] or "") + os.path.expanduser(found[2])
    return value


def check_paths(config: Any) -> None:
    """Check the paths of a step's flags.

    Raises
    ------
    InputError
        An input does not exist, or no file or folder can be made where an output is wanted.
    """
    inputs, outputs = _paths(config)
    for name, path in inputs:
        _need(config, name, path)
    for path in outputs:
        check_place(path)


def check_place(out: Path) -> None:
    """Raise `InputError` when `out` does not exist and cannot be made: a read-only disk, no permission, /proc.

    Whether an existing output may be written is left to the step: one that is up to date is not.
    """
    out = Path(out)
    if os.path.lexists(out):
        if os.path.islink(out) and not os.path.exists(out):
            raise InputError(
                f"{out}: is a link to {os.readlink(out)}, which does not exist; remove the link, or give another name"
            )
        return
    try:
        folder = next((above for above in out.parents if os.path.lexists(above)), Path())
        probe = tempfile.mkdtemp(prefix=".winnow-", dir=folder)
        os.rmdir(probe)
    except FileNotFoundError:  # what the system says of /proc, and of a link that leads nowhere
        raise InputError(f"{out}: nothing can be made in {folder}; give a place where you may write") from None
    except NotADirectoryError:
        raise InputError(f"{out}: a file lies where a folder is needed ({folder}); give another place") from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise InputError(f"{out}: the name is too long") from None
        error.filename = str(out)
        raise InputError(in_words(error)) from None


def need_directory(out: Path) -> None:
    """Raise `InputError` when a file lies where a step writes a directory; a step calls it before slow imports."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; --out must be a directory")


def note_suffix(out: Path, wanted: str) -> None:
    """Print a line where a file that is written has another suffix than its kind; older scripts may use such names.

    For ".index.npz" any .npz will do: that is how other commands know an index.
    """
    if out.suffix != Path(f"x{wanted}").suffix:  # a name of a suffix alone has none
        note(f"{out}: the name does not end in {wanted}, by which other commands and people know such a file")


def _paths(config: Any) -> tuple[list[tuple[str, Path]], list[Path]]:
    """The paths of a config: inputs with the names of their fields, and outputs."""
    inputs: list[tuple[str, Path]] = []
    outputs: list[Path] = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        found = [one for one in (value if isinstance(value, tuple) else (value,)) if isinstance(one, Path)]
        if field.name == "out" or any(isinstance(mark, Output) for mark in _marks(config, field.name)):
            outputs += [one for one in found if not set(str(one)) & set("{}")]  # {keep} stands for a number
        else:
            inputs += [(field.name, one) for one in found]
    return inputs, outputs


def _marks(config: Any, name: str) -> tuple[Any, ...]:
    kind: type = type(config)
    return get_args(_hints(kind)[name])[1:]


@functools.cache
def _hints(config: type) -> dict[str, Any]:
    return get_type_hints(config, include_extras=True)


def _need(config: Any, name: str, path: Path) -> None:
    """Raise `InputError` when nothing is at a path; a pattern, another scheme or a manifest alone is no such case."""
    text = str(path)
    if any(sign in text for sign in "*?[{") or (":" in text and not path.is_absolute()):
        return
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        if path.suffix == ".beton" and path.with_suffix(".manifest.npz").exists():
            return  # some steps need the manifest alone
        positional = any("Positional" in repr(mark) for mark in _marks(config, name))
        flag = "" if positional else f"--{name.replace('_', '-')} "
        wanted = "; ".join(filter(None, (_near(path), f"wanted: {_first_sentence(type(config), name)}")))
        raise InputError(f"{flag}{path}: no such file or directory; {wanted}") from None
    except OSError:  # no permission, a name that is too long: the step that opens it says it better
        return


def _near(path: Path) -> str:
    """What is there instead: names like the last one, or the first folder that does not exist."""
    if not (folder := path.parent).is_dir():
        missing = next((up for up in reversed(path.parents) if not up.exists()), folder)
        return f"{missing} is absent, too" if missing != path else ""
    try:
        near = difflib.get_close_matches(path.name, os.listdir(folder), n=2, cutoff=0.75)
    except OSError:
        return ""
    return f"there is {' and '.join(str(folder / name) for name in near)}" if near else ""


def _first_sentence(config: type, name: str) -> str:
    """How a field's docstring begins; only the user's mistake makes it worth reading the source."""
    try:
        text = field_texts(config).get(name, "an existing path")
    except OSError:  # installed without its source
        text = "an existing path"
    return " ".join(text.split()).split(". ")[0].rstrip(".")


def field_texts(config: type) -> dict[str, str]:
    """The docstrings below the fields of a config class and of the classes that it extends."""
    found: dict[str, str] = {}
    for kind in reversed(config.__mro__):
        if not dataclasses.is_dataclass(kind):
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
        body = tree.body if isinstance(tree, ast.ClassDef) else []
        for field, text in zip(body, body[1:]):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                found[ast.unparse(field.target)] = inspect.cleandoc(str(text.value.value))
    return found
