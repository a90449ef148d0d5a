"""The loopback Hub does what it says: to the real client, and byte for byte where a client would hide it."""

import hashlib
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import huggingface_hub.constants
import huggingface_hub.file_download
import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile

from tests import loopback

# The client's own, of its HTTP library, whenever it uploads to LFS.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

REPO = "org/model"
TOKEN = "hf_of_the_test"
WEIGHTS = bytes(range(256)) * 4
CARD = b"---\nlicense: mit\n---\n"
LOST = (HTTPError, OSError)  # the client's transport errors are of its HTTP library's, which has changed


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[loopback.Hub]:
    with loopback.serve(token=TOKEN) as hub:
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        # What the client read from the environment at import, which has happened; in 0.34 `endpoint=` does not do.
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
        template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        for module in (huggingface_hub.constants, huggingface_hub.file_download):
            monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DOWNLOAD_TIMEOUT", 1)
        yield hub


@pytest.fixture
def api(hub: loopback.Hub) -> HfApi:
    return HfApi(endpoint=hub.url, token=TOKEN)


def fetch(
    url: str, path: str, *, method: str = "GET", body: bytes | None = None, timeout: float = 5, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """One request with nothing of a Hub client's: status, headers and body."""
    with closing(http.client.HTTPConnection(urlsplit(url).netloc, timeout=timeout)) as connection:
        connection.request(method, path, body=body, headers=headers)
        with closing(connection.getresponse()) as response:
            return response.status, {key.lower(): value for key, value in response.getheaders()}, response.read()


def download(api: HfApi, filename: str, cache: Path, revision: str | None = None) -> bytes:
    return Path(api.hf_hub_download(REPO, filename, revision=revision, cache_dir=cache)).read_bytes()


def add(path: str, content: bytes) -> CommitOperationAdd:
    return CommitOperationAdd(path_in_repo=path, path_or_fileobj=content)


def listed(hub: loopback.Hub, *, server: str | None = None) -> list[str]:
    return [str(request) for request in hub.requests if server in (None, request.server)]


def test_a_regular_file_comes_from_the_hub_and_one_in_lfs_from_the_cdn(
    hub: loopback.Hub, api: HfApi, tmp_path: Path
) -> None:
    commit = hub.put(REPO, {"model.safetensors": WEIGHTS, "sub folder/config.json": b"{}"})
    assert download(api, "sub folder/config.json", tmp_path) == b"{}"
    assert not listed(hub, server="cdn")
    assert download(api, "model.safetensors", tmp_path) == WEIGHTS
    sha256 = hub.repos[REPO].trees[commit]["model.safetensors"].sha256
    assert listed(hub, server="cdn") == [f"GET /{REPO}/{sha256}/model.safetensors"]
    assert f"HEAD /{REPO}/resolve/main/model.safetensors" in listed(hub, server="hub")
    assert sorted(path.name for path in tmp_path.glob("*/snapshots/*/*")) == ["model.safetensors", "sub folder"]
    assert [path.name for path in tmp_path.glob("*/snapshots/*")] == [commit]
    assert sha256 in [path.name for path in tmp_path.glob("*/blobs/*")]


def test_the_token_goes_to_the_hub_and_never_to_the_cdn(hub: loopback.Hub, api: HfApi, tmp_path: Path) -> None:
    hub.create(REPO, private=True)
    hub.put(REPO, {"model.safetensors": WEIGHTS})
    download(api, "model.safetensors", tmp_path)
    api.create_commit(REPO, [add("new.bin", b"new")], commit_message="More")
    assert [request.method for request in hub.requests if request.server == "cdn"] == ["GET", "PUT"]
    assert not [request for request in hub.requests if request.server == "cdn" and "authorization" in request.headers]
    sent = {request.headers.get("authorization") for request in hub.requests if REPO in request.path} - {None}
    assert sent == {f"Bearer {TOKEN}"}
    status, _, _ = fetch(hub.cdn_url, hub.requests[-1].path, Authorization=f"Bearer {TOKEN}")
    assert status == 400, "the CDN would let a leaked token pass"


def test_a_whole_snapshot_can_be_downloaded(hub: loopback.Hub, api: HfApi, tmp_path: Path) -> None:
    files = {"model.safetensors": WEIGHTS, "README.md": CARD, "a/b/c.txt": b"c"}
    hub.put(REPO, files)
    folder = Path(api.snapshot_download(REPO, cache_dir=tmp_path))
    assert {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()} == files


def test_every_kind_of_revision_can_be_asked_for(hub: loopback.Hub, api: HfApi, tmp_path: Path) -> None:
    first = hub.put(REPO, {"a.txt": b"first"})
    hub.put(REPO, {"a.txt": b"second"})
    branch = hub.put(REPO, {"a.txt": b"branch"}, revision="v2/draft")
    pull = api.create_commit(REPO, [add("a.txt", b"pull")], commit_message="Idea", create_pr=True)
    assert pull.pr_revision == "refs/pr/1"
    for revision, content in [(first, b"first"), ("v2/draft", b"branch"), (branch, b"branch"), ("refs/pr/1", b"pull")]:
        assert download(api, "a.txt", tmp_path, revision) == content
    assert hub.files(REPO) == {"a.txt": b"second"}
    refs = api.list_repo_refs(REPO, include_pull_requests=True)
    assert {ref.name for ref in refs.branches} == {"main", "v2/draft"}
    assert [ref.target_commit for ref in refs.pull_requests or []] == [pull.oid]


def test_a_stalled_download_resumes_and_only_the_resumed_part_is_spoilt(
    hub: loopback.Hub, api: HfApi, tmp_path: Path
) -> None:
    content = bytes(12 * 2**20)
    hub.put(REPO, {"model.safetensors": content})
    flip = hub.fault("GET", "model.safetensors", loopback.Flip(), when_range=True)
    stall = hub.fault("GET", "model.safetensors", loopback.Stall(after=11 * 2**20), server="cdn")
    got = download(api, "model.safetensors", tmp_path)
    assert (stall.hits, flip.hits) == (1, 1)
    ranges = [request.headers.get("range") for request in hub.requests if request.server == "cdn"]
    assert ranges == [None, "bytes=10485760-"]
    assert len(got) == len(content)
    assert [offset for offset in range(10 * 2**20, len(got)) if got[offset]] == [10 * 2**20]
    assert not any(got[: 10 * 2**20])


def test_a_commit_adds_to_lfs_and_to_git_and_deletes(hub: loopback.Hub, api: HfApi) -> None:
    assert api.create_repo(REPO).repo_id == REPO
    api.create_commit(REPO, [add("old.bin", b"old"), add("old/a.txt", b"a")], commit_message="Old")
    hub.clear()
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        add("model.safetensors", WEIGHTS),
        add("README.md", CARD),
        CommitOperationDelete("old.bin"),
        CommitOperationDelete("old/"),
    ]
    parent = hub.history(REPO)[-1].oid
    info = api.create_commit(REPO, operations, commit_message="New", commit_description="Why", parent_commit=parent)
    assert info.oid == hub.history(REPO)[-1].oid
    attributes = hub.files(REPO).pop(".gitattributes")
    assert hub.files(REPO) == {".gitattributes": attributes, "model.safetensors": WEIGHTS, "README.md": CARD}
    assert [commit.message for commit in hub.history(REPO)] == ["initial commit", "Old", "New"]
    assert hub.history(REPO)[-1] == loopback.Commit(
        info.oid, parent, "New", "Why", ("README.md", "model.safetensors"), ("old.bin", "old/a.txt")
    )
    sha256 = hub.repos[REPO].trees[info.oid]["model.safetensors"].sha256
    assert [str(request) for request in hub.requests if request.method != "GET"] == [
        "POST /api/validate-yaml",
        f"POST /api/models/{REPO}/preupload/main",
        f"POST /{REPO}.git/info/lfs/objects/batch",
        f"PUT /{REPO}/{sha256}",
        f"POST /{REPO}.git/info/lfs/objects/verify",
        f"POST /api/models/{REPO}/commit/main",
    ]


def test_what_the_hub_says_of_its_files_is_what_was_committed(hub: loopback.Hub, api: HfApi) -> None:
    commit = hub.put(REPO, {"model.safetensors": WEIGHTS, "sub/b.txt": b"b"})
    stored = hub.repos[REPO].trees[commit]
    for entry in (
        api.get_paths_info(REPO, ["model.safetensors", "none"]),
        [entry for entry in api.list_repo_tree(REPO) if isinstance(entry, RepoFile)],
    ):
        (weights,) = entry
        assert isinstance(weights, RepoFile)
        assert weights.lfs
        assert (weights.lfs.sha256, weights.lfs.size) == (stored["model.safetensors"].sha256, len(WEIGHTS))
    assert [entry.path for entry in api.list_repo_tree(REPO)] == ["model.safetensors", "sub"]
    assert [entry.path for entry in api.list_repo_tree(REPO, "sub")] == ["sub/b.txt"]
    assert [entry.path for entry in api.list_repo_tree(REPO, recursive=True)] == [
        "model.safetensors",
        "sub",
        "sub/b.txt",
    ]
    info = api.model_info(REPO, files_metadata=True)
    assert info.sha == api.model_info(REPO, revision=commit).sha == commit
    assert {sibling.rfilename: sibling.blob_id for sibling in info.siblings or []} == {
        path: file.oid for path, file in stored.items()
    }
    assert stored["sub/b.txt"].oid == "63d8dbd40c23542e740659a7168a0ce3138ea748"  # what `git hash-object` says


def test_a_stale_parent_is_refused_and_nothing_changes(hub: loopback.Hub, api: HfApi) -> None:
    stale = hub.put(REPO, {"a.txt": b"1"})
    hub.put(REPO, {"a.txt": b"2"})
    with pytest.raises(HfHubHTTPError, match="412"):
        api.create_commit(REPO, [add("a.txt", b"3")], commit_message="Mine", parent_commit=stale)
    assert hub.files(REPO) == {"a.txt": b"2"}


def test_a_commit_can_come_between(hub: loopback.Hub, api: HfApi) -> None:
    parent = hub.put(REPO, {"a.txt": b"1"})
    hub.fault("POST", "/commit/main", loopback.Before(lambda: hub.put(REPO, {"b.txt": b"theirs"})))
    with pytest.raises(HfHubHTTPError, match="412"):
        api.create_commit(REPO, [add("a.txt", b"mine")], commit_message="Mine", parent_commit=parent)
    assert hub.files(REPO) == {"a.txt": b"1", "b.txt": b"theirs"}


def test_a_repository_that_exists_is_not_made_again(hub: loopback.Hub, api: HfApi) -> None:
    hub.put(REPO, {"a.txt": b"1"})
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo(REPO)
    assert api.create_repo(REPO, exist_ok=True).repo_id == REPO
    assert hub.files(REPO) == {"a.txt": b"1"}
    assert api.create_repo("mine").repo_id == f"{hub.user}/mine"


def test_a_commit_whose_answer_is_lost_is_there(hub: loopback.Hub, api: HfApi) -> None:
    hub.put(REPO, {"a.txt": b"1"})
    hub.fault("POST", "/commit/", loopback.LostAnswer())
    with pytest.raises(LOST):
        api.create_commit(REPO, [add("a.txt", b"2")], commit_message="Mine")
    assert hub.files(REPO) == {"a.txt": b"2"}


def test_a_commit_that_is_reset_or_failed_is_not_there_and_its_uploads_are_kept(hub: loopback.Hub, api: HfApi) -> None:
    hub.put(REPO, {"a.txt": b"1"})
    for fault in (loopback.Reset(), loopback.Status(500)):
        hub.fault("POST", "/commit/", fault)
        with pytest.raises(LOST):
            api.create_commit(REPO, [add("model.safetensors", WEIGHTS)], commit_message="Mine")
    assert len(hub.history(REPO)) == 1
    api.create_commit(REPO, [add("model.safetensors", WEIGHTS)], commit_message="Mine")
    assert hub.files(REPO)["model.safetensors"] == WEIGHTS
    assert [request.method for request in hub.requests if request.server == "cdn"] == ["PUT"]


def test_a_file_that_is_there_already_makes_no_commit(hub: loopback.Hub, api: HfApi) -> None:
    commit = hub.put(REPO, {"model.safetensors": WEIGHTS, "a.txt": b"a"})
    operations = [add("model.safetensors", WEIGHTS), add("a.txt", b"a")]
    assert api.create_commit(REPO, operations, commit_message="Again").oid == commit
    assert not [call for call in listed(hub) if "/commit/" in call]


@pytest.mark.parametrize(
    ("revision", "filename", "error"),
    [("main", "none.txt", EntryNotFoundError), ("none", "a.txt", RevisionNotFoundError)],
)
def test_what_is_not_in_a_repository_has_its_own_error(
    hub: loopback.Hub, api: HfApi, tmp_path: Path, revision: str, filename: str, error: type[Exception]
) -> None:
    hub.put(REPO, {"a.txt": b"a"})
    with pytest.raises(error):
        download(api, filename, tmp_path, revision)


def test_a_repository_that_is_missing_private_or_gated_is_refused(
    hub: loopback.Hub, api: HfApi, tmp_path: Path
) -> None:
    anonymous = HfApi(endpoint=hub.url, token=False)
    for client in (api, anonymous):
        with pytest.raises(RepositoryNotFoundError):
            download(client, "a.txt", tmp_path)
    hub.create(REPO, private=True)
    hub.put(REPO, {"a.txt": b"a"})
    with pytest.raises(RepositoryNotFoundError):
        download(anonymous, "a.txt", tmp_path)
    assert download(api, "a.txt", tmp_path / "allowed") == b"a"
    hub.repos[REPO].gated, hub.repos[REPO].private = True, False
    for client in (api, anonymous):
        with pytest.raises(GatedRepoError):
            download(client, "a.txt", tmp_path / "gated")


def test_only_the_hubs_token_may_change_anything(hub: loopback.Hub, api: HfApi) -> None:
    hub.put(REPO, {"a.txt": b"a"})
    assert api.whoami()["name"] == hub.user
    with pytest.raises(HTTPError):
        api.whoami(token="hf_wrong")
    for token in ("hf_wrong", False):
        client = HfApi(endpoint=hub.url, token=token)
        with pytest.raises(HfHubHTTPError, match="401"):
            client.create_commit(REPO, [add("a.txt", b"b")], commit_message="Theirs")
        with pytest.raises(HfHubHTTPError, match="401"):
            client.create_repo("theirs")
    assert hub.files(REPO) == {"a.txt": b"a"}
    assert list(hub.repos) == [REPO]


def test_a_commit_of_an_object_that_was_not_uploaded_or_a_deletion_of_nothing_is_refused(hub: loopback.Hub) -> None:
    hub.put(REPO, {"a.txt": b"a"})
    header = {"key": "header", "value": {"summary": "Mine"}}
    for operation, status in [
        ({"key": "lfsFile", "value": {"path": "m.bin", "algo": "sha256", "oid": "0" * 64, "size": 1}}, 400),
        ({"key": "deletedFile", "value": {"path": "none.txt"}}, 404),
        ({"key": "deletedFolder", "value": {"path": "none"}}, 404),
    ]:
        body = "\n".join(json.dumps(line) for line in (header, operation)).encode()
        path = f"/api/models/{REPO}/commit/main"
        assert fetch(hub.url, path, method="POST", body=body, Authorization=f"Bearer {TOKEN}")[0] == status
    assert len(hub.history(REPO)) == 1
    assert fetch(hub.cdn_url, f"/{REPO}/{'0' * 64}", method="PUT", body=b"other")[0] == 400
    assert "0" * 64 not in hub.repos[REPO].objects


def test_an_upload_may_come_in_chunks_and_one_that_breaks_off_leaves_nothing(hub: loopback.Hub) -> None:
    hub.put(REPO, {"a.txt": b"a"})
    path = f"/{REPO}/{hashlib.sha256(b'ab').hexdigest()}"
    for rest, stored in [(b"", {}), (b"2\r\na", {}), (b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n", {b"ab"})]:
        with socket.create_connection(("127.0.0.1", urlsplit(hub.cdn_url).port or 0), timeout=5) as connection:
            connection.sendall(f"PUT {path} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".encode() + rest)
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(2**16).startswith(b"HTTP/1.1 200") == bool(stored)
        assert set(hub.repos[REPO].objects.values()) == set(stored)


@pytest.mark.parametrize(
    ("wanted", "status", "content_range", "body"),
    [
        ("", 200, None, b"0123456789"),
        ("bytes=4-", 206, "bytes 4-9/10", b"456789"),
        ("bytes=4-5", 206, "bytes 4-5/10", b"45"),
        ("bytes=4-99", 206, "bytes 4-9/10", b"456789"),
        ("bytes=-3", 206, "bytes 7-9/10", b"789"),
        ("bytes=10-", 416, "bytes */10", b""),
    ],
)
def test_both_servers_serve_ranges(
    hub: loopback.Hub, wanted: str, status: int, content_range: str | None, body: bytes
) -> None:
    hub.put(REPO, {"a.txt": b"0123456789", "a.bin": b"0123456789"})
    location = fetch(hub.url, f"/{REPO}/resolve/main/a.bin")[1]["location"]
    for url, path in [(hub.url, f"/{REPO}/resolve/main/a.txt"), (hub.cdn_url, urlsplit(location).path)]:
        got, headers, content = fetch(url, path, Range=wanted)
        assert (got, headers.get("content-range"), content) == (status, content_range, body)


def spoilt(hub: loopback.Hub, *faults: loopback.Fault, timeout: float = 5) -> tuple[int, dict[str, str], bytes]:
    """The answer to one GET of ten bytes that meets faults."""
    hub.put(REPO, {"a.txt": b"0123456789"})
    script = hub.fault("GET", r"a\.txt", *faults)
    try:
        return fetch(hub.url, f"/{REPO}/resolve/main/a.txt", timeout=timeout)
    finally:
        assert script.hits == 1


def test_a_fault_can_be_another_answer(hub: loopback.Hub) -> None:
    fault = loopback.Status(429, error_code="GatedRepo", retry_after=0, body=b"no")
    status, headers, body = spoilt(hub, fault)
    assert (status, headers["x-error-code"], headers["retry-after"], body) == (429, "GatedRepo", "0", b"no")


@pytest.mark.parametrize("after", [0, 4])
def test_a_fault_can_be_a_reset(hub: loopback.Hub, after: int) -> None:
    with pytest.raises(ConnectionResetError):
        spoilt(hub, loopback.Reset(after=after))


def test_all_that_was_sent_arrives_before_a_reset(hub: loopback.Hub) -> None:
    hub.put(REPO, {"a.txt": bytes(2**20)})
    hub.fault("GET", "a.txt", loopback.Reset(after=10**6))
    pieces: list[bytes] = []
    with socket.create_connection(("127.0.0.1", urlsplit(hub.url).port or 0), timeout=5) as connection:
        connection.sendall(f"GET /{REPO}/resolve/main/a.txt HTTP/1.1\r\nHost: hub\r\n\r\n".encode())
        with pytest.raises(ConnectionResetError):
            pieces.extend(iter(lambda: connection.recv(2**16), b""))
    headers, body = b"".join(pieces).split(b"\r\n\r\n", 1)
    assert b"Content-Length: 1048576" in headers
    assert len(body) == 10**6


def test_a_fault_can_be_a_connection_closed_early(hub: loopback.Hub) -> None:
    with pytest.raises(http.client.RemoteDisconnected):
        spoilt(hub, loopback.Cut())
    with pytest.raises(http.client.IncompleteRead) as caught:
        spoilt(hub, loopback.Cut(after=4))
    assert caught.value.partial == b"0123"


def test_a_fault_can_be_a_body_that_is_short_and_does_not_show_it(hub: loopback.Hub) -> None:
    status, headers, body = spoilt(hub, loopback.Truncate(missing=3))
    assert (status, headers["content-length"], body) == (200, "7", b"0123456")


def test_a_fault_can_be_a_wrong_byte(hub: loopback.Hub) -> None:
    assert spoilt(hub, loopback.Flip(offset=2))[2] == b"0133456789"


def test_a_fault_can_be_a_wrong_header_or_none(hub: loopback.Hub) -> None:
    headers = spoilt(hub, loopback.Header("etag", '"other"'), loopback.Header("X-Repo-Commit", None))[1]
    assert headers["etag"] == '"other"'
    assert "x-repo-commit" not in headers


@pytest.mark.parametrize("after", [0, 4])
def test_a_fault_can_be_a_stall_that_ends_or_outlasts_the_client(hub: loopback.Hub, after: int) -> None:
    start = time.monotonic()
    assert spoilt(hub, loopback.Stall(after=after, seconds=0.2))[2] == b"0123456789"
    assert time.monotonic() - start >= 0.2
    with pytest.raises(TimeoutError):
        spoilt(hub, loopback.Stall(after=after), timeout=0.2)


def test_a_fault_can_be_slowness(hub: loopback.Hub) -> None:
    start = time.monotonic()
    assert spoilt(hub, loopback.Drip(chunk=4, pause=0.1))[2] == b"0123456789"
    assert time.monotonic() - start >= 0.2


def test_a_lost_answer_is_a_reset_after_the_fact(hub: loopback.Hub) -> None:
    with pytest.raises(ConnectionResetError):
        spoilt(hub, loopback.LostAnswer())


def test_faults_given_together_are_met_together_and_those_given_apart_in_turn(hub: loopback.Hub) -> None:
    hub.put(REPO, {"a.txt": b"0123456789"})
    calls: list[str] = []
    hub.fault("GET", "a.txt", loopback.Before(lambda: calls.append("call")), loopback.Flip(0), loopback.Truncate(8))
    hub.fault("GET", "a.txt", loopback.Status(503), times=2)
    hub.fault("GET", "a.txt", loopback.Status(500), server="cdn")
    hub.fault("PUT|POST", ".", loopback.Status(418), times=None)
    answers = [fetch(hub.url, f"/{REPO}/resolve/main/a.txt") for _ in range(4)]
    assert [(status, body) for status, _, body in answers] == [
        (200, b"11"),
        (503, b""),
        (503, b""),
        (200, b"0123456789"),
    ]
    assert calls == ["call"]
    assert [fetch(hub.url, "/", method=method)[0] for method in ("POST", "PUT", "POST", "GET")] == [418, 418, 418, 404]
    assert [script.hits for script in hub.faults] == [1, 2, 0, 3]


def test_what_goes_wrong_in_the_server_is_raised_where_the_block_ends() -> None:
    def fail() -> None:
        with loopback.serve() as hub:
            hub.fault("GET", ".", loopback.Before(lambda: 1 // 0))
            with pytest.raises(http.client.RemoteDisconnected):
                fetch(hub.url, "/")

    with pytest.raises(ZeroDivisionError):
        fail()


def test_a_stall_ends_with_the_server() -> None:
    threads = threading.active_count()
    with loopback.serve() as hub:
        hub.fault("GET", ".", loopback.Stall())
        with pytest.raises(TimeoutError):
            fetch(hub.url, "/", timeout=0.1)
        end = time.monotonic() + 5
    while threading.active_count() > threads:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_hashes_are_the_same_every_time_and_never_twice() -> None:
    runs: list[list[str]] = []
    for _ in range(2):
        with loopback.serve() as hub:
            commits = [hub.put(repo, {"a.txt": b"a"}) for repo in ("a/b", "a/b", "a/c")]
            runs.append(commits + [hub.put("a/b", {"a.txt": b"a"}, revision=branch) for branch in ("x", "y")])
    assert runs[0] == runs[1]
    assert len(set(runs[0])) == 5


CODE = """
import sys
from huggingface_hub import HfApi, hf_hub_download
print(open(hf_hub_download("org/model", "model.safetensors"), "rb").read())
api = HfApi()
api.upload_file(path_or_fileobj=b"new", path_in_repo="new.bin", repo_id="org/model")
print(api.whoami()["name"])
"""


def test_the_environment_sends_a_fresh_interpreter_here(tmp_path: Path) -> None:
    with loopback.serve(token=TOKEN) as hub:
        hub.create(REPO, private=True)
        hub.put(REPO, {"model.safetensors": b"weights"})
        environment = {**os.environ, "HF_TOKEN": "hf_of_the_developer", **hub.environment(tmp_path)}
        command = [sys.executable, "-c", CODE]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert result.stdout.splitlines() == ["b'weights'", hub.user], result.stderr
        assert hub.files(REPO) == {"model.safetensors": b"weights", "new.bin": b"new"}
    assert list(tmp_path.glob("hub/models--org--model/blobs/*"))
