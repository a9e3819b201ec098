"""Uploads to and downloads from a local server with the endpoints of the Hugging Face Hub."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from snn_rl.files import hub
from snn_rl.utils.errors import UserError

COMMIT = "0" * 40


class LocalHub(ThreadingHTTPServer):
    """Server of repositories, a dictionary of files per name."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: LocalHub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(filter(None, (asked.get("organization") or "user", asked["name"])))
            self.server.repositories.setdefault(name, {})
            self.answer({"url": f"{self.server.url}/{name}", "name": name, "id": name})
        elif self.path.endswith("/preupload/main"):
            asked = json.loads(body)["files"]
            modes = {"uploadMode": "regular", "shouldIgnore": False}
            self.answer({"files": [{"path": each["path"], **modes} for each in asked]})
        elif found := re.fullmatch("/api/models/(.+)/commit/main", self.path):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.server.repositories[found[1]][line["value"]["path"]] = content
            oid = {
                "commitOid": COMMIT,
                "commitUrl": f"{self.server.url}/{found[1]}/commit/{COMMIT}",
            }
            self.answer(oid)
        else:
            self.answer({"error": f"POST {self.path}"}, 404)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/api/whoami-v2":
            known = self.headers.get("Authorization") == "Bearer hf_local"
            self.answer({"name": "user", "type": "user"} if known else {}, 200 if known else 401)
            return
        if found := re.fullmatch(r"/(.+)/resolve/\w+/(.+)", path):
            content = self.server.repositories.get(found[1], {}).get(found[2])
            if content is not None:
                self.send(content)
                return
        if found := re.fullmatch("/api/models/([^/]+/[^/]+)(/revision/.+|/tree/.+)?", path):
            files = self.server.repositories.get(found[1])
            if files is not None:
                if "/tree/" in path:
                    tree = [
                        {
                            "type": "file",
                            "path": k,
                            "size": len(v),
                            "oid": hashlib.sha1(v).hexdigest(),
                        }
                        for k, v in files.items()
                    ]
                    self.answer(tree)
                    return
                siblings = [{"rfilename": name} for name in files]
                self.answer({"id": found[1], "sha": COMMIT, "siblings": siblings, "tags": []})
                return
        self.answer({"error": "Repository not found"}, 404, "RepoNotFound")

    def answer(self, value: object, status: int = 200, code: str = "") -> None:
        self.send(json.dumps(value).encode(), status, code)

    def send(self, content: bytes, status: int = 200, code: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        if code:
            self.send_header("X-Error-Code", code)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def local_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    from huggingface_hub import constants

    with LocalHub() as server:
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants.ENDPOINT)
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setenv("HF_TOKEN", "hf_local")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_a_folder_returns_unchanged(local_hub: LocalHub, tmp_path: Path) -> None:
    folder = tmp_path / "agent"
    folder.mkdir()
    for name, content in {
        hub.CONFIG: b"{}",
        hub.MODEL: bytes(range(256)),
        "play.gif": b"GIF",
    }.items():
        (folder / name).write_bytes(content)
    assert hub.upload(folder, "user/pong") == f"{local_hub.url}/user/pong"
    assert local_hub.repositories["user/pong"]["play.gif"] == b"GIF"
    local_hub.repositories["user/pong"]["evil.py"] = b"raise SystemExit"
    loaded = hub.download("user/pong")
    assert {path.name: path.read_bytes() for path in loaded.iterdir()} == {
        hub.CONFIG: b"{}",
        hub.MODEL: bytes(range(256)),
    }


def test_a_missing_repository_is_one_line(local_hub: LocalHub) -> None:
    message = r"^cannot download user/nothing: it does not exist, or it is private \(log in with"
    with pytest.raises(UserError, match=message):
        hub.download("user/nothing")


def test_uploads_are_checked_in_advance(
    local_hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.check_upload("user/pong")
    assert not local_hub.repositories
    with pytest.raises(UserError, match=r"cannot upload to user/a--b: .*a--b"):
        hub.check_upload("user/a--b")
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(UserError, match=r"^cannot upload to user/pong: .*(401|token)") as error:
        hub.check_upload("user/pong")
    assert "\n" not in str(error.value)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(
        UserError, match=r"^cannot upload to user/pong: log in with `hf auth login`"
    ):
        hub.check_upload("user/pong")


def test_a_server_that_is_away_is_one_line(
    local_hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    local_hub.shutdown()
    local_hub.server_close()
    with pytest.raises(UserError, match=r"^cannot upload to user/pong: .+") as error:
        hub.check_upload("user/pong")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "valid"),
    [("user/pong", True), ("a-b/c.d_e", True), ("pong", False), ("a/b/c", False), ("../x", False)],
)
def test_names_of_repositories(name: str, valid: bool) -> None:
    assert hub.is_repository(name) == valid
