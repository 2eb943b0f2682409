"""`prune card`, `prune push` and `prune pull`: the real client against a stand-in of the hub on this machine."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from prune import __main__ as prune
from prune.index.manifest import Manifest
from prune.index.npz import save_arrays
from prune.index.pruned_index import PrunedIndex

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture
def case(tmp_path, monkeypatch):
    """An index of 30 of 60 images in two classes, one of a name that is Markdown."""
    label = np.arange(60) % 2
    classes = ["a|b <i>", "cat"]
    manifest = Manifest(
        ids=np.array([f"{k}/{i:02d}.jpg".encode() for i, k in enumerate(label)]),
        labels=label.astype(np.int32),
        digests=np.arange(60, dtype=np.uint64),
        crc32=np.arange(60, dtype=np.uint32),
        classes=classes,
        **{name: np.full(60, 8, np.int32) for name in ("nbytes", "width", "height")},
    )
    manifest.save(tmp_path / "s.manifest.npz")
    meta = {"format": "winnow-scores/1", "fingerprint": manifest.fingerprint, "manifest": "s.manifest.npz"}
    meta |= {"targets": ["pets"], "surrogate": {"arch": "resnet18"}}
    save_arrays(tmp_path / "scores.npz", {"sample/el2n": np.arange(60, dtype="<f4")}, meta)
    monkeypatch.chdir(tmp_path)
    select = ["--scores", "scores.npz", "--method", "el2n", "--keep", "0.5", "--out", "pets-50.index.npz"]
    assert prune.main(["select", *select]) == 0
    return tmp_path


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's HTTP interface as the client uses to make a repository, commit, list and download."""

    def log_message(self, *words):
        pass

    def _answer(self, code, body=b"", **headers):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        for name, value in {"Content-Type": "application/json", "Content-Length": len(data), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != "Bearer hf_right":
            return self._answer(401, {"error": "Invalid username or password."})
        if self.path == "/api/repos/create":
            self.server.asked.append(json.loads(body))
            return self._answer(200, {"url": f"{self.server.place}/datasets/user/pets"})
        if self.path == "/api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        if "/preupload/" in self.path:
            files = [{"path": one["path"], "uploadMode": "regular"} for one in json.loads(body)["files"]]
            return self._answer(200, {"files": [one | {"shouldIgnore": False, "oid": None} for one in files]})
        for line in body.splitlines():
            one = json.loads(line)
            if one["key"] == "file":
                self.server.files[one["value"]["path"]] = base64.b64decode(one["value"]["content"])
        commit = f"{self.server.place}/datasets/user/pets/commit/{'0' * 40}"
        return self._answer(200, {"success": True, "commitOid": "0" * 40, "commitUrl": commit})

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        files = self.server.files
        if not self.path.startswith(("/api/datasets/user/pets", "/datasets/user/pets")):
            return self._answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        self.server.asked.append(self.path)
        if "/revision/" in self.path:
            siblings = [{"rfilename": name} for name in files]
            return self._answer(200, {"id": "user/pets", "sha": "0" * 40, "siblings": siblings})
        name = self.path.rpartition("/resolve/main/")[2] or self.path.rpartition(f"/{'0' * 40}/")[2]
        if name not in files:
            return self._answer(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound")
        etag = f'"{hashlib.sha1(files[name]).hexdigest()}"'
        return self._answer(
            200, files[name], ETag=etag, X_Repo_Commit="0" * 40, Content_Type="application/octet-stream"
        )


@pytest.fixture
def hub(monkeypatch, tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.files, server.asked, server.place = {}, [], f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", server.place)
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    yield SimpleNamespace(files=server.files, asked=server.asked)
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_index_that_is_pushed_and_pulled_is_the_same_and_has_its_card(case, hub, capsys):
    push = ["push", "pets-50.index.npz", "--repo", "user/pets", "--licence", "cc-by-4.0", "--source-name", "photos"]
    assert prune.main(push) == 0
    assert hub.asked[0]["type"] == "dataset"
    assert set(hub.files) == {"pets-50.index.npz", "README.md"}
    text = hub.files["README.md"].decode()
    assert "prune pull user/pets --out pets-50.index.npz" in text
    assert prune.main(["pull", "user/pets", "--out", "got.index.npz"]) == 0
    assert Path("got.index.npz").read_bytes() == Path("pets-50.index.npz").read_bytes()
    assert prune.main(["pull", "user/pets", "--out", "got.index.npz"]) == 0
    assert "up to date" in capsys.readouterr().err
    (case / "folder").mkdir()
    assert prune.main(["pull", "user/pets", "--file", "pets-50.index.npz", "--out", "folder"]) == 0
    assert len(PrunedIndex.load(Path("folder/pets-50.index.npz"))) == 30


def refused(capsys, *arguments):
    capsys.readouterr()
    assert prune.main(list(arguments)) == 2
    said = capsys.readouterr()
    assert said.out == ""
    lines = [line for line in said.err.splitlines() if line.startswith("prune ")]
    assert len(lines) == 1
    return lines[0]


def test_a_damaged_index_is_refused_and_nothing_is_written(case, hub, capsys):
    data = bytearray(Path("pets-50.index.npz").read_bytes())
    data[len(data) // 2] ^= 1
    hub.files["pets-50.index.npz"] = bytes(data)
    said = refused(capsys, "pull", "user/pets", "--out", "got.index.npz")
    assert "user/pets: pets-50.index.npz is refused: " in said
    assert not Path("got.index.npz").exists()


def test_what_the_hub_refuses_is_one_line(case, hub, capsys, monkeypatch):
    assert "user/other: no such repository" in refused(capsys, "pull", "user/other", "--out", "x.index.npz")
    assert "0 files of it end in .index.npz" in refused(capsys, "pull", "user/pets", "--out", "x.index.npz")
    hub.files |= {"a.index.npz": b"", "b.index.npz": b""}
    said = refused(capsys, "pull", "user/pets", "--out", "x.index.npz")
    assert "name one of a.index.npz, b.index.npz with --file" in said
    wanted = ("pull", "user/pets", "--file", "c.index.npz", "--out", "x.index.npz")
    assert "user/pets: no such file in it" in refused(capsys, *wanted)
    assert "USER/NAME" in refused(capsys, "push", "pets-50.index.npz", "--repo", "pets")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "user/pets: " in refused(capsys, "push", "pets-50.index.npz", "--repo", "user/pets")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert "no token: set HF_TOKEN" in refused(capsys, "push", "pets-50.index.npz", "--repo", "user/pets")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "user/pets: " in refused(capsys, *wanted)
    assert not Path("x.index.npz").exists()


def test_a_card_has_a_header_that_the_hubs_own_reader_takes_and_the_facts_of_the_index(case, capsys):
    from huggingface_hub import DatasetCard

    flags = ["--scores", "scores.npz", "--licence", "cc-by-4.0", "--source-name", "photos"]
    assert prune.main(["card", "pets-50.index.npz", *flags, "--out", "CARD.md"]) == 0
    text = Path("CARD.md").read_text(encoding="utf-8")
    header = yaml.safe_load(text.split("---\n")[1])
    assert header["license"] == "cc-by-4.0"
    assert header["size_categories"] == ["n<1K"]
    assert header["task_categories"] == ["image-classification"]
    assert DatasetCard(text).data.license == "cc-by-4.0"
    index = PrunedIndex.load(Path("pets-50.index.npz"))
    for words in (index.source, index.fingerprint, "el2n (threshold x el2n:top)", "| targets | pets |", "resnet18"):
        assert words in text
    assert "| a\\|b &lt;i> | 15 | 30 | 50.0 % |" in text
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    mine = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert [block.replace("pets-30", "pets-50") for block in blocks] == mine  # the README's, which a test executes
    assert prune.main(["card", "pets-50.index.npz"]) == 0
    assert "license: unknown" in capsys.readouterr().out
    assert prune.main(["card", "pets-50.index.npz", "--licence", "My own"]) == 0
    assert 'license: other\nlicense_name: "My own"' in capsys.readouterr().out
    (case / "CARD.md").write_text("mine")
    assert "exists with other content" in refused(capsys, "card", "pets-50.index.npz", "--out", "CARD.md")


def test_a_hub_that_cannot_be_reached_is_asked_once_and_told_in_one_line(case, monkeypatch, capfd):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        assert prune.main(["pull", "user/pets", "--out", "got.index.npz"]) == 2
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 1
    assert "the hub cannot be reached" in said[0]
    assert not Path("got.index.npz").exists()
