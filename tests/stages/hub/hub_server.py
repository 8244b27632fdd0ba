"""A hub of this machine: what huggingface_hub asks of one to make a repository, to commit to it and to download it."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LARGE = 5000  # bytes; a larger file goes by Git LFS
COMMIT = "c" * 40
TOKEN = "hf_token_of_the_tests"


class Hub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.objects: dict[str, bytes] = {}
        self.address = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, content: object, status: int = 200, **headers: str) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def do_POST(self) -> None:
        hub, body = self.server, self.rfile.read(int(self.headers["Content-Length"]))
        path = self.path.partition("?")[0]
        if path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.answer({"error": "Invalid username or password."}, 401)
        elif path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            hub.private.setdefault(name, asked.get("visibility") == "private")
            status = 409 if name in hub.repositories else 200
            hub.repositories.setdefault(name, {})
            self.answer({"url": f"{hub.address}/{name}"}, status)
        elif re.fullmatch(r"/api/models/(.+)/preupload/main", path):
            files = json.loads(body)["files"]
            mode = [(one["path"], "lfs" if one["size"] > LARGE else "regular") for one in files]
            self.answer({"files": [{"path": p, "uploadMode": m, "shouldIgnore": False} for p, m in mode]})
        elif path.endswith(".git/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            actions = [{"upload": {"href": f"{hub.address}/lfs/{one['oid']}"}} for one in objects]
            given = [{**one, "actions": action} for one, action in zip(objects, actions, strict=True)]
            self.answer({"transfer": "basic", "objects": given})
        elif match := re.fullmatch(r"/api/models/(.+)/commit/main", path):
            for line in map(json.loads, body.splitlines()):
                self.commit(hub.repositories[match[1]], line["key"], line["value"])
            self.answer({"commitUrl": f"{hub.address}/{match[1]}/commit/{COMMIT}", "commitOid": COMMIT})
        else:
            self.answer({"error": path}, 404)

    def commit(self, files: dict[str, bytes], key: str, value: dict[str, str]) -> None:
        if key == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif key == "lfsFile":
            files[value["path"]] = self.server.objects[value["oid"]]

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        assert hashlib.sha256(data).hexdigest() == self.path.rpartition("/")[2]
        self.server.objects[self.path.rpartition("/")[2]] = data
        self.answer({})

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        about = re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/\w+|/tree/\w+)?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/\w+/(.+)", path)
        files = self.server.repositories.get((about or file or {1: ""})[1])
        if files is None or (file and file[2] not in files):
            self.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
        elif about and "/tree/" in path:
            rows = [(name, hashlib.sha1(data).hexdigest(), len(data)) for name, data in files.items()]
            self.answer([{"type": "file", "path": name, "oid": oid, "size": size} for name, oid, size in rows])
        elif about:
            siblings = [{"rfilename": name} for name in files]
            self.answer({"id": about[1], "sha": COMMIT, "siblings": siblings, "private": False, "tags": []})
        elif file:
            tag = hashlib.sha256(files[file[2]]).hexdigest()
            self.answer(files[file[2]], X_Repo_Commit=COMMIT, ETag=f'"{tag}"')

    do_HEAD = do_GET


@contextmanager
def hub() -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
