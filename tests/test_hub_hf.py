"""The Hugging Face hub, without one: a local server that speaks as much of its protocol as is needed, and the cache alone."""

import base64
import hashlib
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import pytest
import torch

import instaaug_transforms as ia
from instaaug_transforms.utils import hf

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """Repositories are a dictionary of files; one commit."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if self.path == "/api/repos/create":
            made = json.loads(body)
            name = f"{made.get('organization') or 'owner'}/{made['name']}"
            return self._send(json.dumps({"url": f"https://huggingface.co/{name}"}).encode())
        if "/preupload/" in self.path:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            return self._send(json.dumps({"files": files}).encode())
        if "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            url = f"https://huggingface.co/owner/turn/commit/{COMMIT}"  # what older versions of the library can read
            return self._send(json.dumps({"commitOid": COMMIT, "commitUrl": url}).encode())
        return self._send(b"{}")

    def do_GET(self):
        if "/api/" in self.path:
            return self._send(b'{"validated": true, "id": "owner/turn"}')
        owner, _, revision, name = (
            self.path.lstrip("/").split("/", 3)[0],
            None,
            *self.path.split("/resolve/")[1].split("/", 1),
        )
        found = self.server.files.get(name) if owner == "owner" and revision in ("main", COMMIT) else None
        return self._send(found or b"", 200 if found else 404)

    do_HEAD = do_GET

    def _send(self, data, status=200):
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        if status == 404:
            self.send_header("X-Error-Code", "EntryNotFound" if "/owner/" in self.path else "RepoNotFound")
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as made:
        made.files, made.url = {}, f"http://127.0.0.1:{made.server_port}"
        thread = threading.Thread(target=made.serve_forever, daemon=True)
        thread.start()
        for name, value in {
            "HF_ENDPOINT": made.url,
            "HF_HUB_CACHE": str(tmp_path / "cache"),
            "HF_TOKEN": "hf_x",
        }.items():
            monkeypatch.setenv(name, value)
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture
def fitted():
    aug = ia.LearnedAugment(["turn"], predictor=ia.ConvPredictor(image_size=16, width=8)).eval()
    row = {
        "arm": "one view",
        "K": 1,
        "cost": 1.0,
        "top1": 50.0,
        "nll": 0.9,
        "gain": 0.0,
        "gain_low": 0.0,
        "gain_high": 0.0,
    }
    ours = row | {"arm": "ours", "K": 2, "cost": 2.2, "top1": 71.25, "gain": 21.25, "gain_low": 18.0, "gain_high": 24.0}
    setting = {"arm": "ours", "n_views": 2}
    aug.recommended = {"recommended": setting, "table": [row, ours], "n": 80, "against": "labels"}
    return aug


def test_there_and_back(server, fitted, monkeypatch, images):
    name = fitted.push_to_hub("owner/turn", license="apache-2.0", text="Of *my* camera.", model="resnet18")
    assert name == f"hf-hub:owner/turn@{COMMIT}" and set(server.files) == {hf.FILE, "README.md"}
    for given in (name, "hf-hub:owner/turn"):
        again = ia.LearnedAugment.from_pretrained(given)
        assert torch.equal(again.views(images, 2, "top")[0], fitted.views(images, 2, "top")[0])
        assert again.recommended == fitted.recommended
    sha256 = hashlib.sha256(server.files[hf.FILE]).hexdigest()
    card = huggingface_hub.ModelCard(server.files["README.md"].decode())
    assert card.data.license == "apache-2.0" and card.data.to_dict()[hf.KEY] == sha256
    assert "| ours" in card.text and "+21.25 [+18.00, +24.00]" in card.text and "Of *my* camera." in card.text
    assert "80 held-out images" in card.text and "- model: resnet18" in card.text and sha256 in card.text
    # From the cache alone.
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert ia.LearnedAugment.from_pretrained(name, sha256=sha256).recommended == fitted.recommended
    with pytest.raises(ia.InstaAugError, match="'hf-hub:owner/other' cannot be fetched"):
        ia.LearnedAugment.from_pretrained("hf-hub:owner/other")


def test_another_file_is_refused(server, fitted):
    fitted.push_to_hub("owner/turn")
    with pytest.raises(ia.InstaAugError, match="sha256 .*expected 000000000000"):
        ia.LearnedAugment.from_pretrained("hf-hub:owner/turn", sha256="0" * 64)


def test_an_altered_file_is_noticed(server, fitted):
    fitted.push_to_hub("owner/turn")
    server.files[hf.FILE] = server.files[hf.FILE][:-4] + b"abcd"
    with pytest.raises(ia.InstaAugError, match="the file was altered"):
        ia.LearnedAugment.from_pretrained("hf-hub:owner/turn")


def test_without_a_sha256_nothing_is_loaded(server, fitted):
    fitted.push_to_hub("owner/turn")
    server.files["README.md"] = b"# no metadata\n"
    with pytest.raises(ia.InstaAugError, match="say which sha256 learned_augment.safetensors must have"):
        ia.LearnedAugment.from_pretrained("hf-hub:owner/turn")
    sha256 = hashlib.sha256(server.files[hf.FILE]).hexdigest()
    assert ia.LearnedAugment.from_pretrained("hf-hub:owner/turn", sha256=sha256).families[0].name == "turn"


def test_what_is_not_there(server):
    for name in ("hf-hub:nobody/turn", "hf-hub:owner/turn@other", "hf-hub:a/b/c"):
        with pytest.raises(ia.InstaAugError, match=f"'{name}' cannot be fetched"):
            ia.LearnedAugment.from_pretrained(name)


def test_errors_without_a_message_are_named_by_their_kind(monkeypatch):
    """They were followed by an IndexError."""

    def fails(*_, **__):
        raise TimeoutError

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fails)
    with pytest.raises(ia.InstaAugError, match="'hf-hub:owner/turn' cannot be fetched: TimeoutError"):
        ia.LearnedAugment.from_pretrained("hf-hub:owner/turn")


def test_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ia.InstaAugError, match=r"pip install 'instaaug-transforms\[hub\]'"):
        ia.LearnedAugment.from_pretrained("hf-hub:owner/turn")
