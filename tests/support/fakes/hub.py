"""The Hugging Face Hub's HTTP API on loopback, as far as huggingface_hub's own client asks it for models."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import threading
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_" + "s" * 34


@dataclass
class Repo:
    """A repository: files per commit, commits per branch."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        """Put a branch on a new state of all files."""
        sha = hashlib.sha1(repr((sorted(files.items()), len(self.commits))).encode()).hexdigest()
        self.commits[sha] = files
        self.branches[branch] = sha
        return sha

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """The files of a branch or commit."""
        return self.commits[self.branches.get(revision, revision)]


class Hub:
    """Repositories behind HTTP.

    Attributes:
        repos: by owner/name.
        asked: "METHOD path" of each request.
        refuse: answer everything so: a status, and the Hub's error code.
    """

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.refuse: tuple[int, str] | None = None
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                outer.asked.append(f"{self.command} {self.path}")
                try:
                    status, headers, data = outer.route(self.command, self.path, body, self.headers.get("Authorization"))
                except Refused as refused:
                    status, headers, data = refused.status, {"X-Error-Code": refused.code}, b'{"error": "no"}'
                self.send_response(status)
                for name, value in {"Content-Length": str(len(data)), "Connection": "close", **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            do_GET = do_POST = do_PUT = do_HEAD = answer

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Be gone: nothing listens any more."""
        self.http.shutdown()
        self.http.server_close()

    def route(self, method: str, path: str, body: bytes, auth: str | None) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of a request."""
        if self.refuse is not None:
            raise Refused(*self.refuse)
        parts = [unquote(part) for part in urlsplit(path).path.strip("/").split("/")]
        if method == "PUT":
            self.blobs[parts[-1]] = body
            return 200, {}, b""
        if method == "POST":
            if auth != f"Bearer {TOKEN}":
                raise Refused(401, "")
            return self.post(parts, body)
        if parts[:2] == ["api", "models"]:
            return self.told("/".join(parts[2:4]), parts[4:], auth)
        return self.file("/".join(parts[:2]), parts[3], "/".join(parts[4:]), auth)

    def repo(self, name: str, auth: str | None = f"Bearer {TOKEN}") -> Repo:
        if name not in self.repos or (self.repos[name].private and auth != f"Bearer {TOKEN}"):
            raise Refused(404 if auth else 401, "RepoNotFound")
        return self.repos[name]

    def told(self, name: str, rest: list[str], auth: str | None) -> tuple[int, dict[str, str], bytes]:
        repo = self.repo(name, auth)
        revision = rest[1] if len(rest) > 1 else "main"
        sha = repo.branches.get(revision, revision)
        if sha not in repo.commits:
            raise Refused(404, "RevisionNotFound")
        files = repo.commits[sha]
        if rest[:1] == ["tree"]:
            return as_json([{"type": "file", "path": n, "size": len(d), "oid": etag(d)} for n, d in files.items()])
        about = {"id": name, "sha": sha, "private": repo.private, "siblings": [{"rfilename": n} for n in files]}
        return as_json(about)

    def file(self, name: str, revision: str, path: str, auth: str | None) -> tuple[int, dict[str, str], bytes]:
        repo = self.repo(name, auth)
        sha = repo.branches.get(revision, revision)
        if path not in repo.commits[sha]:
            raise Refused(404, "EntryNotFound")
        data = repo.commits[sha][path]
        return 200, {"ETag": f'"{etag(data)}"', "X-Repo-Commit": sha}, data

    def post(self, parts: list[str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        if parts == ["api", "validate-yaml"]:
            assert json.loads(body)["content"].startswith("---\nlibrary_name: unspoken\n")
            return as_json({"errors": [], "warnings": []})
        if parts == ["api", "repos", "create"]:
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            if name in self.repos:
                return as_json({"error": "You already created this model repo", "url": f"{self.url}/{name}"}, 409)
            self.repos[name] = Repo(private=bool(asked.get("private")) or asked.get("visibility") == "private")
            self.repos[name].commit({".gitattributes": b""})
            return as_json({"url": f"{self.url}/{name}"})
        if parts[-4:] == ["info", "lfs", "objects", "batch"]:
            objects = [
                {**one, "actions": {"upload": {"href": f"{self.url}/lfs/{one['oid']}"}}}
                for one in json.loads(body)["objects"]
            ]
            return as_json({"transfer": "basic", "objects": objects})
        repo, what = self.repo("/".join(parts[2:4])), parts[4]
        if what == "branch":
            if parts[5] in repo.branches:
                return as_json({"error": "exists"}, 409)
            repo.branches[parts[5]] = repo.branches["main"]
            return as_json({})
        if what == "preupload":
            files = json.loads(body)["files"]
            mode = {True: "lfs", False: "regular"}
            return as_json(
                {
                    "files": [
                        {"path": f["path"], "uploadMode": mode[f["path"].endswith(".safetensors")], "shouldIgnore": False}
                        for f in files
                    ]
                }
            )
        assert what == "commit", parts
        return self.committed("/".join(parts[2:4]), repo, parts[5], [json.loads(line) for line in body.splitlines()])

    def committed(
        self, name: str, repo: Repo, branch: str, lines: list[dict[str, Any]]
    ) -> tuple[int, dict[str, str], bytes]:
        files = dict(repo.files(branch))
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                repo.messages.append(value["summary"])
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.blobs[value["oid"]]
            else:
                del files[value["path"]]
        sha = repo.commit(files, branch)
        return as_json({"success": True, "commitUrl": f"{self.url}/{name}/commit/{sha}", "commitOid": sha})


class Refused(Exception):
    """An error answer."""

    def __init__(self, status: int, code: str) -> None:
        self.status, self.code = status, code


def etag(data: bytes) -> str:
    """A name for contents."""
    return hashlib.sha1(data).hexdigest()


def as_json(data: object, status: int = 200) -> tuple[int, dict[str, str], bytes]:
    """An answer in JSON."""
    return status, {"Content-Type": "application/json"}, json.dumps(data).encode()
