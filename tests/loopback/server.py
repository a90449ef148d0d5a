"""The servers of the Hub on loopback.

Files in LFS are served from a second port, the CDN, so that a test can see what is sent to whom. Both ports answer
HTTP/1.1 and close the connection after every answer.
"""

import base64
import fcntl
import hashlib
import json
import re
import socket
import struct
import sys
import termios
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from tests.loopback.faults import (
    Before,
    Cut,
    Drip,
    Fault,
    Flip,
    Header,
    LostAnswer,
    Port,
    Request,
    Reset,
    Stall,
    Status,
    Truncate,
)
from tests.loopback.hub import Hub
from tests.loopback.repository import INITIAL, File, Repo, is_lfs


@contextmanager
def serve(*, token: str | None = None) -> Iterator[Hub]:
    """A Hub until the block ends; an exception in answering, or in a fault's callable, is raised there."""
    hub = Hub(token)
    with _Server(hub, "hub") as front, _Server(hub, "cdn") as cdn:
        hub.url, hub.cdn_url = front.url, cdn.url
        servers = [front, cdn]
        threads = [threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True) for server in servers]
        for thread in threads:
            thread.start()
        try:
            yield hub
        finally:
            hub.stopping.set()
            for server in servers:
                server.shutdown()
            for thread in threads:
                thread.join()
    if hub.errors:
        raise hub.errors[0]


@dataclass(frozen=True)
class _Answer:
    status: int
    headers: dict[str, str]
    body: bytes = b""


class _RefusalError(Exception):
    def __init__(self, status: int, message: str, code: str | None = None, **headers: str) -> None:
        super().__init__(message)
        headers |= {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self.answer = _json({"error": message}, status, headers)


def _json(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> _Answer:
    return _Answer(status, {"Content-Type": "application/json", **(headers or {})}, json.dumps(value).encode())


def _content(content: bytes, wanted: str | None, headers: Mapping[str, str]) -> _Answer:
    """A file, or the range of it that is wanted."""
    headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes", **headers}
    part = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted or "")
    if not part or part[0] == "bytes=-":
        return _Answer(200, headers, content)
    size = len(content)
    start = int(part[1]) if part[1] else max(size - int(part[2]), 0)
    stop = min(int(part[2]) + 1, size) if part[1] and part[2] else size
    if start >= stop:
        return _Answer(416, {**headers, "Content-Range": f"bytes */{size}"})
    return _Answer(206, {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{size}"}, content[start:stop])


class _Server(ThreadingHTTPServer):
    request_queue_size = 64

    def __init__(self, hub: Hub, name: Port) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub, self.name = hub, name
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: object) -> None:
        error = sys.exception()
        if error and not isinstance(error, ConnectionError):  # which is a client that has gone
            self.hub.errors.append(error)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, *args: object) -> None:
        """Quiet: `Hub.requests` is the log."""

    def answer(self) -> None:
        hub = self.server.hub
        self.close_connection = True
        self.fields = {name.lower(): value for name, value in self.headers.items()}
        faults = hub.receive(Request(self.command, self.path, self.server.name, self.fields))
        for fault in faults:
            if isinstance(fault, Before):
                fault.call()
        body = self.read()
        breaks = sorted((fault for fault in faults if isinstance(fault, Reset | Cut | Stall)), key=lambda f: f.after)
        for fault in breaks:
            if fault.after == 0 and self.breaks(fault):
                return
        answer = next((_scripted(fault) for fault in faults if isinstance(fault, Status)), None)
        if answer is None:
            with hub.lock:
                answer = self.act(body)
        if LostAnswer() in faults:
            self.reset()
            return
        answer = _spoilt(answer, faults)
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()
        content = b"" if self.command == "HEAD" else answer.body
        drip = next((fault for fault in faults if isinstance(fault, Drip)), Drip(max(len(content), 1), 0))
        sent = 0
        for fault in breaks:
            if fault.after:
                self.write(content[sent : fault.after], drip)
                sent = fault.after
                if self.breaks(fault):
                    return
        self.write(content[sent:], drip)

    do_HEAD = do_GET = do_POST = do_PUT = answer  # noqa: N815 - names that http.server looks for

    def read(self) -> bytes:
        """The request's body; ConnectionError if it never comes to its end."""
        if self.fields.get("transfer-encoding", "").lower() != "chunked":
            return self.read_exactly(int(self.fields.get("content-length", 0)))
        body = bytearray()
        while size := int(self.rfile.readline() or b"-1", 16):
            body += self.read_exactly(size)
            self.rfile.readline()
        self.rfile.readline()
        return bytes(body)

    def read_exactly(self, size: int) -> bytes:
        body = self.rfile.read(max(size, 0))
        if len(body) != size:
            raise ConnectionError("the client has gone")
        return body

    def write(self, content: bytes, drip: Drip) -> None:
        for start in range(0, len(content), drip.chunk):
            self.wfile.write(content[start : start + drip.chunk])
            if drip.pause:
                self.server.hub.stopping.wait(drip.pause)

    def breaks(self, fault: Reset | Cut | Stall) -> bool:
        """Meet a fault; whether it was the end."""
        match fault:
            case Reset():
                self.reset()
            case Stall():
                self.server.hub.stopping.wait(fault.seconds)
        return not isinstance(fault, Stall)

    def reset(self) -> None:
        # A reset throws away what is still to be sent, so what was written has to have arrived.
        end = time.monotonic() + 5
        while time.monotonic() < end and any(fcntl.ioctl(self.connection, termios.TIOCOUTQ, bytes(4))):
            time.sleep(0.001)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.rfile.close()  # it would hold the socket open
        self.connection.close()

    def act(self, body: bytes) -> _Answer:
        target = urlsplit(self.path)
        parts = [unquote(part) for part in target.path.strip("/").split("/")]
        query = {name: values[-1] for name, values in parse_qs(target.query).items()}
        try:
            return self.cdn(parts, body) if self.server.name == "cdn" else self.front(parts, query, body)
        except _RefusalError as error:
            return error.answer

    def cdn(self, parts: list[str], body: bytes) -> _Answer:
        if "authorization" in self.fields:
            raise _RefusalError(400, "Only one auth mechanism allowed")  # the URL is signed already, S3 says
        match self.command, parts:
            case "PUT", [owner, name, oid]:
                if hashlib.sha256(body).hexdigest() != oid:
                    raise _RefusalError(400, "The content does not match its SHA-256")
                self.server.hub.repos[f"{owner}/{name}"].objects[oid] = body
                return _Answer(200, {})
            case "GET" | "HEAD", [owner, name, oid, *_]:
                repo = self.server.hub.repos.get(f"{owner}/{name}")
                if repo and oid in repo.objects:
                    return _content(repo.objects[oid], self.fields.get("range"), {"ETag": f'"{oid}"'})
        raise _RefusalError(404, "Not Found")

    def front(self, parts: list[str], query: dict[str, str], body: bytes) -> _Answer:
        match self.command, parts:
            case "GET", ["api", "whoami-v2"]:
                self.authorise()
                token = {"displayName": "loopback", "role": "write"}
                user = {"type": "user", "name": self.server.hub.user, "orgs": [], "auth": {"accessToken": token}}
                return _json(user)
            case "POST", ["api", "repos", "create"]:
                return self.create(json.loads(body))
            case "POST", ["api", "validate-yaml"]:
                return _json({"errors": [], "warnings": []})
            case "POST", ["api", "models", owner, name, "preupload", revision]:
                repo = self.repo(owner, name, write=True)
                tree = repo.trees[self.revision(repo, revision)]
                return _json(
                    {"files": [_upload_mode(file, tree.get(file["path"])) for file in json.loads(body)["files"]]}
                )
            case "POST", ["api", "models", owner, name, "commit", revision]:
                return self.commit(self.repo(owner, name, write=True), revision, "create_pr" in query, body)
            case "GET", ["api", "models", owner, name]:
                return self.info(self.repo(owner, name), "main", "blobs" in query)
            case "GET", ["api", "models", owner, name, "revision", revision]:
                return self.info(self.repo(owner, name), revision, "blobs" in query)
            case "GET", ["api", "models", owner, name, "refs"]:
                return _refs(self.repo(owner, name), prs="include_prs" in query)
            case "GET", ["api", "models", owner, name, "tree", revision, *path]:
                repo = self.repo(owner, name)
                entries = _entries(repo.trees[self.revision(repo, revision)])
                folder = "".join(f"{part}/" for part in path)
                deep = query.get("recursive", "").lower() in ("true", "1")
                found = [
                    e for p, e in entries.items() if p.startswith(folder) and (deep or "/" not in p[len(folder) :])
                ]
                if folder and not found:
                    raise _RefusalError(404, f"{folder} does not exist on {revision}", "EntryNotFound")
                return _json(found)
            case "POST", ["api", "models", owner, name, "paths-info", revision]:
                repo = self.repo(owner, name)
                entries = _entries(repo.trees[self.revision(repo, revision)])
                return _json([entries[path] for path in parse_qs(body.decode()).get("paths", []) if path in entries])
            case "POST", [owner, name, "info", "lfs", "objects", "batch" | "verify" as step] if name.endswith(".git"):
                repo = self.repo(owner, name.removesuffix(".git"), write=True)
                return self.batch(repo, json.loads(body)) if step == "batch" else _verify(repo, json.loads(body))
            case "GET" | "HEAD", [owner, name, "resolve", revision, *path]:
                return self.resolve(self.repo(owner, name), revision, "/".join(path))
        raise _RefusalError(404, "Not Found")

    def authorise(self, *, needed: bool = True) -> bool:
        """Whether the request has a token; refused if it is wrong, or needed and missing."""
        token, given = self.server.hub.token, self.fields.get("authorization", "").removeprefix("Bearer ")
        if token and given not in ("", token):
            raise _RefusalError(401, "Invalid credentials in Authorization header")
        if token and needed and not given:
            raise _RefusalError(401, "Invalid username or password.")
        return bool(given)

    def repo(self, owner: str, name: str, *, write: bool = False) -> Repo:
        known = self.authorise(needed=write)
        repo = self.server.hub.repos.get(f"{owner}/{name}")
        if repo is None or (repo.private and not known):
            # As the Hub does, without a token it does not say whether there is none or a private one.
            status, message = (404, "Repository not found") if known else (401, "Invalid username or password.")
            raise _RefusalError(status, message, "RepoNotFound")
        return repo

    def revision(self, repo: Repo, revision: str) -> str:
        commit = repo.find(revision)
        if commit is None:
            raise _RefusalError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    def create(self, wanted: dict[str, Any]) -> _Answer:
        hub = self.server.hub
        self.authorise()
        repo_id = f"{wanted.get('organization') or hub.user}/{wanted['name']}"
        answer = {"url": f"{hub.url}/{repo_id}", "name": repo_id}
        if repo_id in hub.repos:
            return _json({**answer, "error": "You already created this model repo"}, 409)
        repo = hub.create(repo_id, private=bool(wanted.get("private")) or wanted.get("visibility") == "private")
        attributes = {path: File(text.encode(), lfs=False) for path, text in INITIAL.items()}
        repo.commit(attributes, "main", None, "initial commit")
        return _json(answer)

    def batch(self, repo: Repo, wanted: dict[str, Any]) -> _Answer:
        objects: list[dict[str, Any]] = []
        for item in wanted["objects"]:
            objects.append({"oid": item["oid"], "size": item["size"]})
            if item["oid"] not in repo.objects:
                upload = {"href": f"{self.server.hub.cdn_url}/{repo.id}/{item['oid']}"}
                verify = {"href": f"{self.server.url}/{repo.id}.git/info/lfs/objects/verify"}
                objects[-1]["actions"] = {"upload": upload, "verify": verify}
        return _json({"transfer": "basic", "objects": objects})

    def commit(self, repo: Repo, revision: str, create_pr: bool, body: bytes) -> _Answer:
        parent = self.revision(repo, revision)
        if revision not in repo.refs and not create_pr:
            raise _RefusalError(400, f"{revision} is not a branch")
        tree = repo.trees[parent]
        header: dict[str, str] = {}
        changes: dict[str, File | None] = {}
        for line in body.splitlines():
            match json.loads(line):
                case {"key": "header", "value": value}:
                    header = value
                case {"key": "file", "value": {"path": path, "content": content}}:
                    changes[path] = File(base64.b64decode(content), lfs=False)
                case {"key": "lfsFile", "value": {"path": path, "oid": oid}}:
                    if oid not in repo.objects:
                        raise _RefusalError(400, f"LFS pointer of {path} points to a file that does not exist")
                    changes[path] = File(repo.objects[oid], lfs=True)
                case {"key": "deletedFile", "value": {"path": path}}:
                    if path not in tree:
                        raise _RefusalError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
                    changes[path] = None
                case {"key": "deletedFolder", "value": {"path": path}}:
                    gone = [name for name in tree if name.startswith(path.rstrip("/") + "/")]
                    if not gone:
                        raise _RefusalError(404, f"A folder with this name doesn't exist: {path}", "EntryNotFound")
                    changes |= dict.fromkeys(gone)
                case other:
                    raise _RefusalError(400, f"Unknown operation: {other}")
        if header.get("parentCommit", parent) != parent:
            raise _RefusalError(412, "A commit has happened since. Please refresh and try again.")
        number = sum(ref.startswith("refs/pr/") for ref in repo.refs) + 1
        ref = f"refs/pr/{number}" if create_pr else revision
        oid = repo.commit(changes, ref, parent, header["summary"], header.get("description", ""))
        answer = {"success": True, "commitOid": oid, "commitUrl": f"{self.server.url}/{repo.id}/commit/{oid}"}
        if create_pr:
            answer["pullRequestUrl"] = f"{self.server.url}/{repo.id}/discussions/{number}"
        return _json(answer)

    def info(self, repo: Repo, revision: str, blobs: bool) -> _Answer:
        commit = self.revision(repo, revision)
        siblings: list[dict[str, Any]] = []
        for path, file in repo.trees[commit].items():
            siblings.append({"rfilename": path})
            if blobs:
                siblings[-1] |= {"blobId": file.oid, "size": len(file.content)}
                if file.lfs:
                    lfs = {"sha256": file.sha256, "size": len(file.content), "pointerSize": len(file.git)}
                    siblings[-1]["lfs"] = lfs
        gated = "manual" if repo.gated else False
        answer = {"id": repo.id, "modelId": repo.id, "sha": commit, "private": repo.private, "gated": gated}
        return _json({**answer, "siblings": siblings, "tags": []})

    def resolve(self, repo: Repo, revision: str, path: str) -> _Answer:
        if repo.gated:
            status = 403 if "authorization" in self.fields else 401
            raise _RefusalError(status, f"Access to model {repo.id} is restricted", "GatedRepo")
        commit = self.revision(repo, revision)
        headers = {"X-Repo-Commit": commit}
        file = repo.trees[commit].get(path)
        if file is None:
            raise _RefusalError(404, "Entry not found", "EntryNotFound", **headers)
        if not file.lfs:
            return _content(file.content, self.fields.get("range"), {**headers, "ETag": f'"{file.oid}"'})
        headers["Location"] = f"{self.server.hub.cdn_url}/{repo.id}/{file.sha256}/{quote(path)}"
        return _Answer(302, {**headers, "X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(len(file.content))})


def _scripted(fault: Status) -> _Answer:
    headers = {
        "X-Error-Code": fault.error_code,
        "Retry-After": None if fault.retry_after is None else str(fault.retry_after),
    }
    return _Answer(fault.code, {name: value for name, value in headers.items() if value}, fault.body)


def _spoilt(answer: _Answer, faults: Iterable[Fault]) -> _Answer:
    body = bytearray(answer.body)
    for fault in faults:
        if isinstance(fault, Truncate):
            del body[max(len(body) - fault.missing, 0) :]
        elif isinstance(fault, Flip):
            body[fault.offset] ^= 1
    headers = {"Content-Length": str(len(body)), **answer.headers}
    for fault in faults:
        if isinstance(fault, Header):
            headers = {name: value for name, value in headers.items() if name.lower() != fault.name.lower()}
            if fault.value is not None:
                headers[fault.name] = fault.value
    return _Answer(answer.status, headers, bytes(body))


def _verify(repo: Repo, item: dict[str, Any]) -> _Answer:
    if len(repo.objects.get(item["oid"], b"")) != item["size"]:
        raise _RefusalError(400, f"{item['oid']} is not there, or not of this size")
    return _json({})


def _upload_mode(file: dict[str, Any], old: File | None) -> dict[str, Any]:
    mode = "lfs" if is_lfs(file["path"], file["size"]) else "regular"
    answer = {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}
    if old:
        answer["oid"] = old.sha256 if old.lfs else old.oid
    return answer


def _entries(tree: Mapping[str, File]) -> dict[str, dict[str, Any]]:
    """What tree and paths-info say of every file and folder."""
    entries: dict[str, dict[str, Any]] = {}
    for path, file in tree.items():
        size = len(file.content)
        for folder in PurePosixPath(path).parents[:-1]:
            inside = json.dumps(
                [(name, f.oid) for name, f in tree.items() if PurePosixPath(name).is_relative_to(folder)]
            )
            oid = hashlib.sha1(inside.encode()).hexdigest()
            entries[str(folder)] = {"type": "directory", "path": str(folder), "oid": oid, "size": 0}
        entries[path] = {"type": "file", "path": path, "oid": file.oid, "size": size}
        if file.lfs:
            entries[path]["lfs"] = {"oid": file.sha256, "size": size, "pointerSize": len(file.git)}
    return entries


def _refs(repo: Repo, *, prs: bool) -> _Answer:
    refs: dict[str, list[dict[str, str]]] = {"branches": [], "converts": [], "tags": []}
    if prs:
        refs["pullRequests"] = []
    for name, commit in repo.refs.items():
        if not name.startswith("refs/pr/"):
            refs["branches"].append({"name": name, "ref": f"refs/heads/{name}", "targetCommit": commit})
        elif prs:
            number = name.removeprefix("refs/pr/")
            refs["pullRequests"].append({"name": number, "ref": name, "targetCommit": commit})
    return _json(refs)
