"""A thousand mutilated folders and lists: each is written as a 20-line reference reads it, or refused in one line.

    python tests/benchmarks/mutilated_inputs.py --cases 1000 --results tests/benchmarks/results/mutilated-inputs.md

Folders get hidden files, tools' folders, links, circles of links, pipes, odd names, wrong bytes, empty files and mixed
suffixes; lists get other encodings, line ends, delimiters, headers, repeated and missing lines. `prune write` must end
with the reference's samples and code 0, or with one line on standard error, code 2 and nothing written, within 20
seconds. A hundred cases are part of `make test`: tests/prune/data/test_mutilated_inputs.py. Exit code 1 when one fails.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import re
import signal
import stat
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

SECONDS = 20
Samples = set[tuple[bytes, bytes]]
"""Id and class of every image."""
_SUFFIXES = (
    b".jpg",
    b".jpeg",
    b".jfif",
    b".png",
    b".webp",
    b".avif",
    b".bmp",
    b".ppm",
    b".pgm",
    b".tif",
    b".tiff",
    b".gif",
)
_TOOLS = {
    b"@eaDir",
    b"#recycle",
    b"#snapshot",
    b"$RECYCLE.BIN",
    b"System Volume Information",
    b"__MACOSX",
    b"lost+found",
}
REFUSED = (
    r"is not UTF-8: rename it",
    r"not classes: name one of them, as in .*; where .* is a class, give --nested",
    r"hold the same folders .* give --nested",
    r"holds one class, .*; at least two are needed",
    r"holds no class folders",
    r"holds no images",
    r"none of its \d+ images? can be read",
    r"none of its \d+ images? is in ",
    r"has several classes \(.*\); one class an image is supported",
    r"has no class; one class an image is supported",
    r"lines have fewer cells than the first",
    r"is a path without a class",
    r"lists no images",
    r"leads out of .*; give --root",
    r"is no text file",
    r"not a table",
    r"has \d+ columns without names: say which holds the class",
    r"which column holds the (paths|classes)\?",
    r"has a class and no path",
    r"are several classes; one class an image is supported",
    r"is not in .*; give --root",
)
"""What may be said of a case that is refused."""


def encoded(format: str) -> bytes:
    """A small image."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), (200, 90, 10)).save(buffer, format)
    return buffer.getvalue()


def readable(path: bytes) -> bool:
    """Whether Pillow decodes the regular file at a path."""
    from PIL import Image

    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        Image.open(os.fsdecode(path)).convert("RGB")
    except Exception:  # Pillow raises all kinds of errors for a broken file
        return False
    return True


def reference(root: bytes) -> Samples:
    """What a folder of class folders holds: own folders before those that links lead to, each once in a class."""
    found: Samples = set()
    for label in os.listdir(root):
        seen, own, linked = {os.path.realpath(root)}, [label], []
        while own or linked:
            folder = own.pop(0) if own else linked.pop(0)
            real, last = os.path.realpath(os.path.join(root, folder)), os.path.basename(folder)
            if real in seen or not os.path.isdir(real) or last.startswith(b".") or last in _TOOLS:
                continue
            seen.add(real)
            for name in sorted(os.listdir(real)):
                path = folder + b"/" + name
                if os.path.isdir(os.path.join(root, path)):
                    (linked if os.path.islink(os.path.join(root, path)) else own).append(path)
                elif name.lower().endswith(_SUFFIXES) and name[:1] != b"." and readable(os.path.join(root, path)):
                    found.add((path, label))
    return found


IMAGES = {
    b".png": "PNG",
    b".jpg": "JPEG",
    b".JPEG": "JPEG",
    b".gif": "GIF",
    b".webp": "WEBP",
    b".tif": "TIFF",
    b".bmp": "BMP",
}
_ODD = (
    "a b", " x ", "-rf", "#1", "50%", "quo'te\"", "é", "e\u0301", "名", "new\nline", "tab\tx", "back\\slash", "a;b",
    "a,b", "*", "[1]", "{a}", "$HOME", "CON", "n" * 120, "\u202e", "🙂", "~", "a|b", "=1+1",
)  # fmt: skip
_FILES: dict[str, bytes] = {}


def _image(rng: random.Random, folder: bytes, name: bytes) -> bytes:
    """Save an image under a name of any suffix; its path."""
    suffix = rng.choice(list(IMAGES))
    format = IMAGES[suffix]
    if format not in _FILES:
        _FILES[format] = encoded(format)
    path = os.path.join(folder, name + suffix)
    os.makedirs(folder, exist_ok=True)
    with open(path, "wb") as file:
        file.write(_FILES[format])
    return path


def make_folder(rng: random.Random, root: bytes) -> str:
    """A folder of classes with one to six mutilations; their names."""
    classes = rng.sample([b"cat", b"dog", b"elk", b"A b", b"train", b"0", b"10"], rng.randint(2, 4))
    for name in classes:
        for number in range(rng.randint(1, 3)):
            _image(rng, os.path.join(root, name), b"%d" % number)
    done = []
    for _ in range(rng.randint(1, 6)):
        kind = rng.choice(list(FOLDERS))
        folders = [os.path.join(root, name) for name in classes if os.path.isdir(os.path.join(root, name))] or [root]
        files = [os.path.join(at, name) for at, _, names in os.walk(root) for name in names]
        with contextlib.suppress(OSError):  # it cannot be done to what is there by now
            FOLDERS[kind](rng, root, rng.choice(folders), rng.choice(sorted(files) or [root]))
            done.append(kind)
    return ", ".join(sorted(set(done)))


def _overwrite(path: bytes, data: bytes) -> None:
    if os.path.isfile(path):
        with open(path, "wb") as file:
            file.write(data)


def _cut(rng: random.Random, root: bytes, folder: bytes, file: bytes) -> None:
    if os.path.isfile(file):
        with open(file, "rb") as opened:
            data = opened.read()
        _overwrite(file, data[: rng.randrange(len(data) + 1)])


def _into_split(rng: random.Random, root: bytes, folder: bytes, file: bytes) -> None:
    os.makedirs(os.path.join(root, b"new"), exist_ok=True)
    os.rename(folder, os.path.join(root, b"new", os.path.basename(folder)))
    os.rename(os.path.join(root, b"new"), os.path.join(root, rng.choice([b"train", b"val", b"part"])))


Mutilation = Callable[[random.Random, bytes, bytes, bytes], object]
FOLDERS: dict[str, Mutilation] = {
    "hidden file": lambda rng, root, folder, file: _image(rng, folder, b"._1"),
    "hidden folder": lambda rng, root, folder, file: _image(rng, os.path.join(rng.choice([root, folder]), b".x"), b"1"),
    "tools' folder": lambda rng, root, folder, file: _image(
        rng, os.path.join(rng.choice([root, folder]), rng.choice(sorted(_TOOLS))), b"1"
    ),
    "deeper folder": lambda rng, root, folder, file: _image(rng, os.path.join(folder, b"deep", b"er"), b"1"),
    "image in no class": lambda rng, root, folder, file: _image(rng, root, b"loose"),
    "empty class": lambda rng, root, folder, file: os.makedirs(os.path.join(root, b"empty"), exist_ok=True),
    "odd name": lambda rng, root, folder, file: _image(rng, folder, rng.choice(_ODD).encode()),
    "odd class": lambda rng, root, folder, file: _image(rng, os.path.join(root, rng.choice(_ODD).encode()), b"1"),
    "file name not UTF-8": lambda rng, root, folder, file: _image(rng, folder, bytes([rng.randint(128, 255)])),
    "class not UTF-8": lambda rng, root, folder, file: _image(rng, os.path.join(root, b"caf\xe9"), b"1"),
    "no bytes": lambda rng, root, folder, file: _overwrite(file, b""),
    "wrong bytes": lambda rng, root, folder, file: _overwrite(file, rng.randbytes(rng.randint(1, 300))),
    "cut short": _cut,
    "text as an image": lambda rng, root, folder, file: _overwrite(file, b"<html>404</html>"),
    "other suffix": lambda rng, root, folder, file: os.rename(
        file, file + rng.choice([b".bak", b".txt", b"_", b".png"])
    ),
    "no suffix": lambda rng, root, folder, file: os.rename(file, os.path.splitext(file)[0]),
    "suffix alone": lambda rng, root, folder, file: os.rename(file, os.path.join(folder, b".png")),
    "folder with an image's name": lambda rng, root, folder, file: _image(rng, os.path.join(folder, b"x.jpg"), b"1"),
    "pipe": lambda rng, root, folder, file: os.mkfifo(os.path.join(folder, b"pipe.jpg")),
    "pipe for a class": lambda rng, root, folder, file: os.mkfifo(os.path.join(root, b"pipe")),
    "device": lambda rng, root, folder, file: os.symlink(b"/dev/zero", os.path.join(folder, b"zero.png")),
    "link to nowhere": lambda rng, root, folder, file: os.symlink(b"nothing", os.path.join(folder, b"gone.png")),
    "link to itself": lambda rng, root, folder, file: os.symlink(b"self.png", os.path.join(folder, b"self.png")),
    "link to an image": lambda rng, root, folder, file: os.symlink(file, os.path.join(folder, b"link.png")),
    "circle": lambda rng, root, folder, file: os.symlink(b"..", os.path.join(folder, b"up")),
    "circle at the top": lambda rng, root, folder, file: os.symlink(b".", os.path.join(root, b"again")),
    "link to a class": lambda rng, root, folder, file: os.symlink(folder, os.path.join(root, b"also")),
    "link in a class": lambda rng, root, folder, file: os.symlink(folder, os.path.join(folder, b"aa")),
    "splits": _into_split,
    "file for a class": lambda rng, root, folder, file: _image(rng, root, b"cat"),
    "table beside": lambda rng, root, folder, file: Path(os.fsdecode(root), "metadata.csv").write_text("file_name,x\n"),
}


def make_list(rng: random.Random, root: bytes) -> tuple[str, bytes, Samples]:
    """A list with one to four mutilations: their names, the list, and the samples that it means."""
    pairs = []
    for number in range(rng.randint(2, 6)):
        folder = rng.choice([b"", b"a", b"b c"])
        name = rng.choice(
            [b"%d" % number, b"%d" % number, rng.choice(("é", "a b", "#1", "50%")).encode() + b"%d" % number]
        )
        path = os.path.relpath(_image(rng, os.path.join(root, folder), name), root)
        pairs.append(
            (path, rng.choice([b"cat", b"dog", b"n01 tench", b"7"] if number > 1 else [[b"cat"], [b"dog"]][number]))
        )
    suffix, mark = rng.choice([(b".csv", b","), (b".csv", b";"), (b".tsv", b"\t"), (b".txt", b"\t"), (b".txt", b",")])
    head = rng.choice([b"", b"path%slabel" % mark, b"File_Name%sClass" % mark])
    lines = [mark.join(pair) for pair in pairs]
    end, before, done = b"\n", b"", []
    for _ in range(rng.randint(1, 4)):
        kind = rng.choice(list(LISTS))
        done.append(kind)
        if kind == "mark":
            before = b"\xef\xbb\xbf"
        elif kind == "line ends":
            end = rng.choice([b"\r\n", b"\r"])
        else:
            lines, pairs = LISTS[kind](rng, root, mark, lines, pairs)
    text = before + end.join([*([head] if head else []), *lines]) + rng.choice([b"", end])
    if "wrong bytes" in done:
        at = rng.randrange(max(1, len(text)))  # a list without lines has no byte to damage
        text = text[:at] + rng.randbytes(2) + text[at + 1 :]
    if "UTF-16" in done and before == b"":
        with contextlib.suppress(UnicodeDecodeError):
            text = text.decode().encode("utf-16")
    file = os.path.join(root, b"list" + suffix)
    with open(file, "wb") as opened:
        opened.write(text)
    means = {(path, label) for path, label in pairs if readable(os.path.join(root, path))}
    return ", ".join(sorted(set(done))), file, means


def _quoted(rng, root, mark, lines, pairs):  # type: ignore[no-untyped-def]
    return [b'"%s"%s"%s"' % (line.rsplit(mark, 1)[0].strip(b'"'), mark, line.rsplit(mark, 1)[1].strip(b'"'))
            if mark in line and line[:1] != b"#" else line for line in lines], pairs  # fmt: skip


def _pipe(rng, root, mark, lines, pairs):  # type: ignore[no-untyped-def]
    with contextlib.suppress(FileExistsError):
        os.mkfifo(os.path.join(root, b"pipe.jpg"))
    return [*lines, b"pipe.jpg" + mark + b"cat"], pairs


def _broken(rng, root, mark, lines, pairs):  # type: ignore[no-untyped-def]
    _overwrite(os.path.join(root, pairs[0][0]), b"") if pairs else None
    return lines, pairs


LISTS: dict[str, Callable[..., tuple[list[bytes], list[tuple[bytes, bytes]]]]] = {
    "mark": lambda rng, root, mark, lines, pairs: (lines, pairs),
    "line ends": lambda rng, root, mark, lines, pairs: (lines, pairs),
    "UTF-16": lambda rng, root, mark, lines, pairs: (lines, pairs),
    "wrong bytes": lambda rng, root, mark, lines, pairs: (lines, pairs),
    "blank lines": lambda rng, root, mark, lines, pairs: ([x for line in lines for x in (line, b"  ")], pairs),
    "comments": lambda rng, root, mark, lines, pairs: ([b"# a, b; c", *lines, b"#"], pairs),
    "quotes": _quoted,
    "repeated line": lambda rng, root, mark, lines, pairs: ([*lines, rng.choice(lines or [b""])], pairs),
    "missing image": lambda rng, root, mark, lines, pairs: ([*lines, b"gone.png" + mark + b"cat"], pairs),
    "line without a class": lambda rng, root, mark, lines, pairs: ([*lines, b"a/9.png"], pairs),
    "empty class": lambda rng, root, mark, lines, pairs: ([*lines, b"a/9.png" + mark], pairs),
    "two classes": lambda rng, root, mark, lines, pairs: (
        [*lines, (pairs[0][0] if pairs else b"x.png") + mark + b"yak"],
        pairs,
    ),
    "way out of the folder": lambda rng, root, mark, lines, pairs: ([*lines, b"../x.png" + mark + b"cat"], pairs),
    "no lines": lambda rng, root, mark, lines, pairs: ([], []),
    "pipe": _pipe,
    "broken image": _broken,
}


def written(place: bytes, out: Path) -> tuple[int, str, Samples]:
    """Run `prune write`: its exit code, what it printed, and the samples that it wrote."""
    from prune.__main__ import main
    from prune.index.manifest import Manifest

    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        code = main(
            [
                "write",
                "--images",
                os.fsdecode(place),
                "--out",
                str(out / "x.beton"),
                "--workers",
                "1",
                "--allow-empty-classes",
            ]
        )
    if code:
        return code, errors.getvalue(), set()
    manifest = Manifest.load(out / "x.manifest.npz")
    labels = (manifest.classes[label].encode() for label in manifest.labels)
    return code, errors.getvalue(), set(zip((bytes(one) for one in manifest.ids), labels))


def fault(kinds: str, place: bytes, expected: Samples, out: Path) -> str:
    """What is wrong with the outcome of one case; '' where nothing is, 'refused: WHY' where it was refused."""
    code, said, found = written(place, out)
    left = sorted(p.name for p in out.iterdir()) if out.exists() else []
    if code == 2:
        lines = [line for line in said.splitlines() if line.startswith("prune write: ")]
        known = next((words for words in REFUSED if re.search(words, said)), None)
        if len(lines) != 1 or known is None or left:
            return f"{kinds}: refused with {said!r}, and {left} left behind"
        return f"refused: {known}"
    if code:
        return f"{kinds}: exit code {code} ({said!r})"
    if left != ["x.beton", "x.manifest.npz"]:
        return f"{kinds}: {left} were written"
    if found != expected and "wrong bytes" not in kinds.split(", "):  # a list whose words are others means others
        return f"{kinds}: {sorted(found - expected)} beyond and {sorted(expected - found)} short of the reference"
    return ""


def case(rng: random.Random, place: Path) -> tuple[str, str, str]:
    """Make one case in an empty folder and run it: "folder" or "list", its mutilations, its fault."""
    root = os.fsencode(place / "images")
    os.makedirs(root)
    if rng.random() < 0.6:
        kinds = make_folder(rng, root)
        return "folder", kinds, fault(kinds.replace("wrong bytes", "other bytes"), root, reference(root), place / "out")
    kinds, file, means = make_list(rng, root)
    return "list", kinds, fault(kinds, file, means, place / "out")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path)
    options = parser.parse_args()
    signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(TimeoutError(f"more than {SECONDS} s")))
    outcomes: Counter[tuple[str, str]] = Counter()
    mutilations: Counter[str] = Counter()
    faults, slowest = [], 0.0
    for number in range(options.cases):
        with tempfile.TemporaryDirectory() as place:
            signal.alarm(SECONDS)
            begin = time.perf_counter()
            input_kind, kinds, found = case(random.Random(1_000_003 * options.seed + number), Path(place))
            signal.alarm(0)
            slowest = max(slowest, time.perf_counter() - begin)
        mutilations.update(f"{input_kind}: {kind}" for kind in kinds.split(", "))
        outcomes[input_kind, "refused in one line" if found.startswith("refused: ") else "as the reference"] += 1
        if found and not found.startswith("refused: "):
            faults.append(f"case {number}: {found}")
            print(faults[-1], file=sys.stderr)
    lines = ["| input | outcome | cases |", "| --- | --- | ---: |"]
    lines += [f"| {kind} | {what} | {count} |" for (kind, what), count in sorted(outcomes.items())]
    lines += [
        "",
        f"Faults: {len(faults)}. The slowest case took {slowest:.2f} s.",
        "",
        "| mutilation | cases |",
        "| --- | ---: |",
    ]
    lines += [f"| {kind} | {count} |" for kind, count in sorted(mutilations.items())]
    text = f"# {options.cases} mutilated folders and lists, seed {options.seed}\n\n" + "\n".join(lines) + "\n"
    print(text)
    if options.results:
        about = (
            "`python tests/benchmarks/mutilated_inputs.py --cases N --results FILE`: each case has one to six\n"
            "mutilations. `prune write` ends with the samples of a 20-line reference, or with one line, code 2 and\n"
            "nothing written.\n"
        )
        options.results.write_text(text.replace("\n\n", f"\n\n{about}\n", 1), encoding="utf-8")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
