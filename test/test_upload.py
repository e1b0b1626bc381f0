"""Uploading, to a server on this machine that answers as the hub's API does."""

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import tiny

from espnet_ctckd.bin import upload_hf

pytest.importorskip("huggingface_hub")


class Hub(BaseHTTPRequestHandler):
    """What of the hub's API an upload without its newer storage asks for."""

    def _answer(self):
        size = int(self.headers.get("content-length") or 0)
        sent, hub = self.rfile.read(size), self.server
        url = f"http://127.0.0.1:{hub.server_port}"
        status, told = 200, {}
        if self.path.startswith("/put/"):
            hub.large[self.path.rpartition("/")[2]] = sent
        elif self.headers.get("authorization") != "Bearer hf_right":
            status, told = 401, {"error": "Invalid credentials"}
        elif self.path == "/api/repos/create":
            hub.repos.append(json.loads(sent))
            told = {"url": f"{url}/me/student"}
        elif self.path.endswith("/preupload/main"):
            files = json.loads(sent)["files"]
            told["files"] = [
                {
                    "path": f["path"],
                    "uploadMode": "lfs" if f["path"].endswith(".pth") else "regular",
                    "shouldIgnore": False,
                }
                for f in files
            ]
        elif self.path.endswith("/info/lfs/objects/batch"):
            told = {"transfer": "basic", "objects": json.loads(sent)["objects"]}
            for each in told["objects"]:
                href = {"href": f"{url}/put/{each['oid']}"}
                each["actions"] = {"upload": href}
        elif self.path.endswith("/commit/main"):
            hub.commits += [json.loads(line) for line in sent.splitlines()]
            told = {"commitUrl": f"{url}/me/student/commit/1", "commitOid": "1"}
        elif self.path == "/api/validate-yaml":
            told = {"errors": [], "warnings": []}
        else:
            status = 404
        text = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = do_PUT = _answer  # noqa: N815, as the base class wants them

    def log_message(self, *_):
        """Says nothing."""


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.large, server.commits, server.repos = {}, [], []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


@pytest.fixture
def packed(tmp_path):
    inside = {
        "meta.yaml": b"espnet: '202511'\n",
        "README.md": b"---\nlicense: mit\n---\n# A student\n",
        "exp/student/model.pth": os.urandom(50_000),
        "exp/student/config.yaml": b"encoder: conformer\n",
    }
    with zipfile.ZipFile(tmp_path / "student.zip", "w") as z:
        for name, content in inside.items():
            z.writestr(name, content)
    return tmp_path / "student.zip", inside


def upload(port, packed, token):
    command = ["-m", "espnet_ctckd.bin.upload_hf", "--repo", "me/student", "--packed"]
    return subprocess.run(
        [sys.executable, *command, packed],
        env={
            **os.environ,
            "HF_ENDPOINT": f"http://127.0.0.1:{port}",
            "HF_TOKEN": token,
            # The newer storage has a protocol of its own, which is not played here.
            "HF_HUB_DISABLE_XET": "1",
        },
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_every_file_of_the_zip_arrives(hub, packed):
    path, inside = packed
    done = upload(hub.server_port, path, "hf_right")
    assert done.returncode == 0, done.stderr
    assert "uploaded: http" in done.stdout
    (repo,) = hub.repos
    assert (repo["organization"], repo["name"]) == ("me", "student")
    arrived = {}
    for each in hub.commits:
        value = each["value"]
        if each["key"] == "file":
            arrived[value["path"]] = base64.b64decode(value["content"])
        if each["key"] == "lfsFile":
            arrived[value["path"]] = hub.large[value["oid"]]
            assert hashlib.sha256(arrived[value["path"]]).hexdigest() == value["oid"]
    assert arrived == inside


def test_a_wrong_token_is_one_clear_error(hub, packed):
    done = upload(hub.server_port, packed[0], "hf_wrong")
    assert done.returncode == 1
    error = tiny.the_error(done.stderr)
    assert "cannot be uploaded to me/student" in error
    assert "401" in error
    assert hub.commits == []


def test_no_server_and_a_damaged_zip_are_one_clear_error_each(packed):
    path, _ = packed
    done = upload(9, path, "hf_right")
    assert done.returncode == 1
    assert "cannot be uploaded to me/student" in tiny.the_error(done.stderr)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    done = upload(9, path, "hf_right")
    assert "is damaged (Bad CRC-32" in tiny.the_error(done.stderr)


def test_what_was_not_packed_is_refused(tmp_path):
    flags = ["--repo", "me/student", "--packed"]
    (tmp_path / "a.zip").write_text("no zip")
    status, stderr = tiny.call(upload_hf, *flags, tmp_path / "a.zip")
    assert status == 1
    assert "is not a zip" in tiny.the_error(stderr)
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as z:
        z.writestr("x", "y")
    status, stderr = tiny.call(upload_hf, *flags, tmp_path / "b.zip")
    assert "has no meta.yaml" in tiny.the_error(stderr)
