"""Pulling weights over a network, from mirrors and out of caches that fail in every way a script can bring about.

The client reads its environment at import, so the code under test runs in fresh interpreters; one does several steps.
"""

import hashlib
import json
import os
import random
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import loopback
from tests.loopback import Before, Cut, Drip, Flip, Reset, Stall, Status, Truncate

ROOT = Path(__file__).parents[2]
REPO = "org/model"
FILE = "model.safetensors"
TOKEN = "hf_of_the_test"
NOWHERE = "http://127.0.0.1:9"  # nothing listens there


def safetensors(size: int, seed: int) -> bytes:
    header = json.dumps({"weight": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return struct.pack("<Q", len(header)) + header + random.Random(seed).randbytes(size)


WEIGHTS = safetensors(100_000, seed=1)
NEWER = safetensors(100_000, seed=2)
BIG = safetensors(12 * 2**20, seed=3)  # the client writes, and resumes at, multiples of 10 MiB


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


GOOD = sha256(WEIGHTS)

# The package's __init__ imports torch, which takes seconds; nothing that pulls does.
PRELUDE = f"""
import dataclasses, hashlib, json, os, shutil, socket, sys, time, types, urllib.error, urllib.request
from pathlib import Path
package = types.ModuleType("effnet_zoo")
package.__path__ = [{str(ROOT / "effnet_zoo")!r}]
sys.modules["effnet_zoo"] = package
from effnet_zoo.checkpoints import cache, download, hub, locate
from effnet_zoo.errors import EffnetZooError
hub.FIRST_PAUSE = 0.01
touched = []

def pull(repository={REPO!r}, filename={FILE!r}, sha256=None, cache_dir=None):
    before, start, loaded, error, path = len(touched), time.monotonic(), None, None, None
    try:
        source = locate.of_repository(repository, filename)
        if sha256:
            source = locate.Source(remote=dataclasses.replace(source.remote, sha256=sha256))
        path = locate.obtain(source, cache_dir)
        loaded, path = hashlib.sha256(path.read_bytes()).hexdigest(), str(path)
    except EffnetZooError as e:
        error = str(e)
    seconds = time.monotonic() - start
    print(json.dumps(dict(loaded=loaded, error=error, path=path, seconds=seconds, touched=len(touched) - before)))

def block():
    def refuse(*_, **__):
        touched.append(1)
        raise OSError("sockets are blocked")
    for name in ("connect", "connect_ex", "sendto"):
        setattr(socket.socket, name, refuse)
    socket.getaddrinfo = socket.create_connection = refuse

def flip(path):
    content = bytearray(Path(path).read_bytes())
    content[-1] ^= 1
    Path(path).write_bytes(content)

def visit(path):
    try:
        urllib.request.urlopen(os.environ["HF_ENDPOINT"] + path)
    except urllib.error.HTTPError:
        pass
"""


@dataclass(frozen=True)
class Pulled:
    """What one `pull()` of a child came to."""

    loaded: str | None
    error: str | None
    path: str | None
    seconds: float
    touched: int  # attempts at a connection after block()


@dataclass
class Place:
    """A Hub, and a home for the caches of the children that pull from it."""

    hub: loopback.Hub
    home: Path

    @property
    def cache(self) -> Path:
        return self.home / "hub"

    def start(self, code: str, *prefix: str, **extra: str) -> "subprocess.Popen[str]":
        environment = {**os.environ, "EFFNET_ZOO_HOME": "", "EFFNET_ZOO_MIRRORS": ""}
        environment |= self.hub.environment(self.home, **extra)
        return subprocess.Popen(
            [*prefix, sys.executable, "-W", "ignore", "-c", PRELUDE + code],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, code: str, *prefix: str, **extra: str) -> list[Pulled]:
        return finish(self.start(code, *prefix, **extra))

    def asked(self, method: str, server: str = "hub") -> int:
        return sum(request.method == method and request.server == server for request in self.hub.requests)


def finish(child: "subprocess.Popen[str]") -> list[Pulled]:
    out, err = child.communicate(timeout=120)
    assert child.returncode == 0, err
    assert TOKEN not in out + err
    pulled = [Pulled(**json.loads(line)) for line in out.splitlines()]
    for one in pulled:
        assert (one.loaded is None) == (one.error is not None)
        assert "\n" not in (one.error or "")
    return pulled


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with loopback.serve(token=TOKEN) as hub:
        yield Place(hub, tmp_path / "home")
        leaked = [request for request in hub.requests if request.server == "cdn" and "authorization" in request.headers]
        assert not leaked


def lock_file(cache: Path, revision: str = "main", filename: str = FILE) -> Path:
    return cache / "models--org--model" / "effnet-zoo" / f"{revision}--{filename.replace('/', '--')}.json"


def kept(cache: Path) -> set[str]:
    """The hash of every file that some program could load from a cache."""
    paths = [*cache.glob("*/blobs/*"), *(path for path in cache.glob("*/snapshots/**/*") if path.is_file())]
    return {sha256(path.read_bytes()) for path in paths if path.suffix != ".incomplete"}


@dataclass(frozen=True)
class Case:
    """A fault, how many requests meet it (None: all), and the error that it comes to (None: the weights are loaded)."""

    name: str
    method: str
    fault: loopback.Fault
    times: int | None
    error: str | None
    server: loopback.Port | None = None


HEAD, BODY = "HEAD", "GET"
CASES = [
    Case("the Hub's answer is reset once", HEAD, Reset(), 1, None),
    Case("a reset in mid-body", BODY, Reset(after=50_000), 1, None, "cdn"),
    Case("resets in mid-body for ever", BODY, Reset(after=50_000), None, "check the network", "cdn"),
    Case("a connection closed early", BODY, Cut(after=50_000), 1, None, "cdn"),
    Case("a body cut short under a length that fits it", BODY, Truncate(missing=7), 1, None, "cdn"),
    Case("bodies cut short for ever", BODY, Truncate(missing=7), None, "Consistency check failed", "cdn"),
    Case("a flipped byte", BODY, Flip(offset=99_999), 1, None, "cdn"),
    Case("flipped bytes for ever", BODY, Flip(offset=9), None, f"names: expected sha256 {GOOD}, got", "cdn"),
    Case("429 once", HEAD, Status(429), 1, None),
    Case("429 once from the CDN", BODY, Status(429, retry_after=0), 1, None, "cdn"),
    Case("429 for ever", HEAD, Status(429), None, "too many requests (HTTP 429)"),
    Case("429 for an hour", HEAD, Status(429, retry_after=3600), None, "too many requests (HTTP 429)"),
    Case("500 once", HEAD, Status(500), 1, None),
    Case("500 once from the CDN", BODY, Status(500), 1, None, "cdn"),
    Case("503 for ever", HEAD, Status(503), None, "the server fails (HTTP 503): try again later"),
    Case("500 for ever from the CDN", BODY, Status(500), None, "the server fails (HTTP 500): try again later", "cdn"),
    Case("401", HEAD, Status(401), None, "the token is missing or not valid (HTTP 401): log in"),
    Case("410", HEAD, Status(410), None, "the request was refused (HTTP 410)"),
    Case("403", HEAD, Status(403), None, "access denied (HTTP 403): check what the token may do"),
    Case("403 from the CDN", BODY, Status(403), None, "access denied (HTTP 403)", "cdn"),
    Case("a gated repository", HEAD, Status(403, "GatedRepo"), None, "is gated: accept its terms there and log in"),
    Case("no such repository", HEAD, Status(404, "RepoNotFound"), None, "no such repository, or a private one"),
    Case("no such revision", HEAD, Status(404, "RevisionNotFound"), None, "has no such revision"),
    Case("no such file", HEAD, Status(404, "EntryNotFound"), None, "has no such file"),
    Case("a proxy's page instead of a Hub", HEAD, Status(200, body=b"log in"), None, "this is not a Hub's answer"),
    Case("a slow drip", BODY, Drip(chunk=10_000, pause=0.05), 1, None, "cdn"),
    Case("a stall", BODY, Stall(after=50_000), 1, None, "cdn"),
    Case("stalls for ever", BODY, Stall(after=50_000), None, "timed out: check the network", "cdn"),
]

FAULT = """
pull("org/other")
pull()
visit("/recover")
pull()
block()
pull()
pull("org/other")
"""


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))
def test_a_fault_ends_in_the_weights_or_in_its_own_error_and_neither_keeps_bad_nor_loses_good(
    place: Place, case: Case
) -> None:
    place.hub.put(REPO, {FILE: WEIGHTS})
    place.hub.put("org/other", {FILE: NEWER})
    script = place.hub.fault(case.method, f"^/{REPO}/", case.fault, times=case.times, server=case.server)
    place.hub.fault("GET", "^/recover$", Before(place.hub.faults.clear))
    other, first, again, warm, still = place.run(FAULT, HF_HUB_DOWNLOAD_TIMEOUT="1")
    assert script.hits == case.times if case.times else script.hits
    assert other.loaded == still.loaded == sha256(NEWER)
    if case.error:
        assert first.error is not None
        assert case.error in first.error
        assert first.error.startswith(f"cannot get {FILE} of {REPO} (revision main): {place.hub.url}: ")
        assert f"put {place.hub.url}/{REPO}/resolve/main/{FILE} at FOLDER/{REPO}/{FILE}" in first.error
        assert first.loaded is None, "something was loaded"
    else:
        assert first.loaded == GOOD
    assert again.loaded == warm.loaded == GOOD
    assert (warm.touched, still.touched) == (0, 0)
    assert kept(place.cache) == {GOOD, sha256(NEWER)}


def test_a_byte_flipped_after_a_resume_is_noticed(place: Place) -> None:
    place.hub.put(REPO, {FILE: BIG})
    cut = place.hub.fault("GET", ".", Cut(after=11 * 2**20), server="cdn")
    flipped = place.hub.fault("GET", ".", Flip(offset=5), server="cdn", when_range=True)
    (pulled,) = place.run("pull()")
    assert (cut.hits, flipped.hits) == (1, 1)
    assert pulled.loaded == sha256(BIG)
    assert place.asked("GET", "cdn") == 3
    assert kept(place.cache) == {sha256(BIG)}


def test_a_download_that_is_killed_leaves_nothing_that_is_ever_loaded(place: Place) -> None:
    place.hub.put(REPO, {FILE: BIG})
    script = place.hub.fault("GET", ".", Stall(after=11 * 2**20), server="cdn")
    child = place.start("pull()", HF_HUB_DOWNLOAD_TIMEOUT="60")
    end = time.monotonic() + 60
    while not any(path.stat().st_size for path in place.cache.glob("*/blobs/*.incomplete")):
        assert time.monotonic() < end
        assert child.poll() is None
        time.sleep(0.02)
    child.kill()
    assert child.communicate()[0] == ""
    assert script.hits == 1
    assert kept(place.cache) == set()
    offline, online = place.run(
        "download.constants.HF_HUB_OFFLINE = True\npull()\ndownload.constants.HF_HUB_OFFLINE = False\npull()"
    )
    assert (offline.path, offline.loaded) == (None, None)
    assert online.loaded == sha256(BIG)


def test_two_processes_that_pull_at_once_make_one_download(place: Place) -> None:
    place.hub.put(REPO, {FILE: WEIGHTS})

    def until_both_have_asked() -> None:
        end = time.monotonic() + 60
        while place.asked("HEAD") < 4 and time.monotonic() < end:  # this package's and the client's, of each
            time.sleep(0.01)

    script = place.hub.fault("GET", ".", Before(until_both_have_asked), server="cdn")
    children = [place.start("pull()", HF_HUB_DOWNLOAD_TIMEOUT="60") for _ in range(2)]
    assert [finish(child)[0].loaded for child in children] == [GOOD, GOOD]
    assert script.hits == place.asked("GET", "cdn") == 1
    assert place.asked("HEAD") >= 4


FULL = """
import errno, subprocess
from huggingface_hub import file_download
fits = lambda: None
if {tmpfs}:
    os.makedirs(cache.cache_folder())
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(cache.cache_folder())], check=True)
    fits = lambda: subprocess.run(["mount", "-o", "remount,size=40m", str(cache.cache_folder())], check=True)
else:
    real = file_download.http_get
    def fits():
        file_download.http_get = real
    def full(url, temp_file, **_):
        temp_file.write(b"some")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    file_download.http_get = full
pull("org/small")
pull()
fits()
pull()
block()
pull("org/small")
"""


@pytest.mark.parametrize("tmpfs", [True, False])
def test_a_full_disk_is_an_error_that_says_how_much_is_needed_and_loses_nothing(place: Place, tmpfs: bool) -> None:
    prefix = ["unshare", "-rm"] if tmpfs else []
    if tmpfs and (not shutil.which("unshare") or subprocess.run([*prefix, "true"], check=False).returncode):
        pytest.skip("needs user namespaces to mount a small tmpfs")
    place.hub.put(REPO, {FILE: BIG})
    place.hub.put("org/small", {FILE: WEIGHTS})
    code = FULL.format(tmpfs=tmpfs)
    if not tmpfs:  # where every write fails, the small one has to come first
        code = code.replace("file_download.http_get = full", "pull('org/small')\n    file_download.http_get = full", 1)
        code = code.replace('full\npull("org/small")\n', "full\n", 1)
    small, full, fits, warm = place.run(code, *prefix)
    assert small.loaded == warm.loaded == GOOD
    assert full.error is not None
    assert "the disk is full: 13 MB are to be written to" in full.error
    assert "free some, or set EFFNET_ZOO_HOME to a folder on another disk" in full.error
    assert full.path is None
    assert fits.loaded == sha256(BIG)


def test_a_pinned_checkpoint_is_fetched_by_its_commit_once_and_then_without_any_connection(place: Place) -> None:
    commit = place.hub.put(REPO, {FILE: WEIGHTS})
    place.hub.put(REPO, {FILE: NEWER})
    name = f"{REPO}@{commit}"
    cold, warm, elsewhere = place.run(
        f"pull({name!r}, sha256={GOOD!r})\nblock()\npull({name!r}, sha256={GOOD!r})\npull('org/elsewhere')"
    )
    assert cold.loaded == warm.loaded == GOOD
    assert warm.touched == 0
    assert elsewhere.touched > 0, "the block does not block"
    assert place.asked("GET", "cdn") == 1
    assert not lock_file(place.cache).parent.exists()


def test_a_checkpoint_without_a_pin_is_locked_to_the_first_download(place: Place) -> None:
    commit = place.hub.put(REPO, {FILE: WEIGHTS, "sub/config.json": b"{}"})
    first, config = place.run("pull()\npull(filename='sub/config.json')")
    assert (first.loaded, config.loaded) == (GOOD, sha256(b"{}"))
    assert json.loads(lock_file(place.cache).read_text()) == {"revision": commit, "sha256": GOOD}
    entry = {"revision": commit, "sha256": sha256(b"{}")}
    assert json.loads(lock_file(place.cache, filename="sub/config.json").read_text()) == entry
    place.hub.put(REPO, {FILE: NEWER})
    shutil.rmtree(place.cache / "models--org--model" / "snapshots")
    shutil.rmtree(place.cache / "models--org--model" / "blobs")
    code = "pull()\npull(filename='sub/config.json')\nblock()\npull()\n" + "pull(filename='sub/config.json')\n" * 2
    locked, _, warm, config, config_again = place.run(code)
    assert locked.loaded == warm.loaded == GOOD, "the branch has moved on, the lock has not"
    assert config.loaded == config_again.loaded == sha256(b"{}")
    assert (warm.touched, config.touched, config_again.touched) == (0, 0, 0)
    # The commit is there and holds something else, as after a rewritten history.
    file = loopback.File(NEWER, lfs=True)
    place.hub.repos[REPO].trees[commit][FILE] = file
    place.hub.repos[REPO].objects[file.sha256] = NEWER
    shutil.rmtree(place.cache / "models--org--model" / "snapshots")
    (other,) = place.run("pull()")
    assert other.error is not None
    assert (
        f"downloaded twice, both times not the file that the lock file {lock_file(place.cache)} names: " in other.error
    )
    assert f"expected sha256 {GOOD}, got {sha256(NEWER)}" in other.error
    assert json.loads(lock_file(place.cache).read_text()) == {"revision": commit, "sha256": GOOD}


BY_THE_CLIENT = f"""
from huggingface_hub import hf_hub_download
hf_hub_download({REPO!r}, {FILE!r})
if {{blocked}}:
    block()
pull()
block()
pull()
"""


@pytest.mark.parametrize("flipped", [False, True])
def test_a_file_that_the_client_alone_put_in_the_cache_is_held_to_its_blobs_name_and_locked(
    place: Place, flipped: bool
) -> None:
    commit = place.hub.put(REPO, {FILE: WEIGHTS})
    script = place.hub.fault("GET", ".", Flip(offset=500), server="cdn", times=int(flipped))
    first, again = place.run(BY_THE_CLIENT.format(blocked=not flipped))
    assert script.hits == int(flipped)
    assert place.asked("GET", "cdn") == 1 + flipped
    assert first.loaded == again.loaded == GOOD
    assert (first.touched, again.touched) == (0, 0)
    assert json.loads(lock_file(place.cache).read_text()) == {"revision": commit, "sha256": GOOD}
    assert kept(place.cache) == {GOOD}


ROTTEN = """
pull(*{of})
[path] = Path(cache.cache_folder()).glob("*/snapshots/*/*")
{damage}
pull(*{of})
{damage}
block()
pull(*{of})
print(json.dumps(dict(loaded=None, error=str(path.exists()), path=None, seconds=0, touched=0)))
pull(*{of})
"""


@pytest.mark.parametrize("damage", ["flip(path)", "os.truncate(path, 500)"])
@pytest.mark.parametrize("pinned", [False, True])
def test_a_cached_file_gone_bad_is_replaced_or_without_a_network_an_error_and_never_loaded(
    place: Place, damage: str, pinned: bool
) -> None:
    commit = place.hub.put(REPO, {FILE: WEIGHTS})
    of = (f"{REPO}@{commit}", FILE, GOOD) if pinned else ()
    cold, again, bad, there, still = place.run(ROTTEN.format(of=of, damage=damage))
    assert cold.loaded == again.loaded == GOOD
    assert place.asked("GET", "cdn") == 2
    for error in (bad.error, still.error):
        assert error is not None
        assert f"cannot get {FILE} of {REPO}" in error
    assert bad.error is not None
    told_by = "the ledger" if pinned else f"the lock file {lock_file(place.cache)}"
    assert f"{cold.path} is not the file that {told_by} names: expected sha256 {GOOD}, got" in bad.error
    assert "it was left there, not loaded." in bad.error
    assert (f"If {lock_file(place.cache)} is wrong, correct it, or delete it with a network." in bad.error) == (
        not pinned
    )
    assert bad.touched, "no other file was looked for"
    assert there.error == "True"
    assert not [path for path in place.cache.iterdir() if path.name.startswith(".effnet-zoo")]


WRONG_DIGIT = """
pull()
[lock] = Path(cache.cache_folder()).glob("*/effnet-zoo/*.json")
right = lock.read_text()
lock.write_text(right.replace(json.loads(right)["sha256"], "0" * 64))
if {offline}:
    block()
pull()
if {offline}:
    lock.write_text(right)
else:
    lock.unlink()
pull()
"""


@pytest.mark.parametrize("offline", [True, False])
def test_a_wrong_digit_in_a_lock_file_costs_no_weights(place: Place, offline: bool) -> None:
    place.hub.put(REPO, {FILE: WEIGHTS})
    first, refused, again = place.run(WRONG_DIGIT.format(offline=offline))
    lock = lock_file(place.cache)
    assert refused.error is not None
    assert f"is not the file that the lock file {lock} names: expected sha256 {'0' * 64}, got {GOOD}" in refused.error
    assert (
        f"it was left there, not loaded. If {lock} is wrong, correct it, or delete it with a network" in refused.error
    )
    assert first.loaded == again.loaded == GOOD
    assert kept(place.cache) == {GOOD}
    assert place.asked("GET", "cdn") == (1 if offline else 2), "only to compare"


COUNTED = """
from effnet_zoo import atomic_io
plain, hashed = atomic_io.sha256, []
def counting(path):
    hashed.append(path)
    return plain(path)
atomic_io.sha256 = counting
for _ in range(2):
    pull()
    assert len(hashed) == 1, hashed
    hashed.clear()
"""


def test_a_file_is_hashed_once_a_load_whether_new_cached_or_a_mirrors(place: Place, tmp_path: Path) -> None:
    place.hub.put(REPO, {FILE: WEIGHTS})
    (tmp_path / "mirror" / REPO).mkdir(parents=True)
    (tmp_path / "mirror" / REPO / FILE).write_bytes(WEIGHTS)
    for mirrors, home in (("", "one"), (str(tmp_path / "mirror"), "two")):
        pulled = place.run(COUNTED, EFFNET_ZOO_MIRRORS=mirrors, EFFNET_ZOO_HOME=str(tmp_path / home))
        assert [one.loaded for one in pulled] == [GOOD, GOOD]
        assert json.loads(lock_file(tmp_path / home / "hub").read_text())["sha256"] == GOOD


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"revision": 1, "sha256": null}',
        '{"revision": null, "sha256": "abc"}',
        b"\xff".decode("latin1"),
    ],
)
def test_a_damaged_lock_file_is_an_error_that_names_it_until_it_is_deleted(place: Place, content: str) -> None:
    place.hub.put(REPO, {FILE: WEIGHTS})
    path = lock_file(place.cache)
    path.parent.mkdir(parents=True)
    path.write_text(content, encoding="latin1")
    damaged, anew = place.run(f"pull()\nos.unlink({str(path)!r})\npull()")
    assert damaged.error is not None
    assert damaged.error.startswith(str(path))
    assert f"expected a commit and a sha256 in JSON; delete it to record {FILE} of {REPO}" in damaged.error
    assert anew.loaded == GOOD
    assert json.loads(path.read_text())["sha256"] == GOOD


def test_a_lock_that_cannot_be_written_is_a_warning_and_the_weights_are_loaded(place: Place) -> None:
    place.hub.put(REPO, {FILE: WEIGHTS})
    (pulled,) = place.run(
        """
import errno, warnings
from effnet_zoo import atomic_io
def read_only(path, text, **_):
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
Path.write_text = read_only
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    pull()
assert any("the file system is read-only" in str(warning.message) for warning in caught), caught
"""
    )
    assert pulled.loaded == GOOD


def test_mirrors_are_asked_in_order_and_one_that_is_wrong_is_passed_over_and_left_alone(
    place: Place, tmp_path: Path
) -> None:
    commit = place.hub.put(REPO, {FILE: WEIGHTS})
    wrong = tmp_path / "folder" / REPO / FILE
    wrong.parent.mkdir(parents=True)
    wrong.write_bytes(NEWER)
    with loopback.serve() as empty, loopback.serve() as liar, loopback.serve() as good:
        assert {mirror.put(REPO, {FILE: WEIGHTS}) for mirror in (liar, good)} == {commit}
        flips = liar.fault("GET", ".", Flip(offset=77), server="cdn", times=None)
        mirrors = [empty.url, str(tmp_path / "none"), str(tmp_path / "folder"), f"{liar.url}/", good.url]
        name, pin = f"{REPO}@{commit}", f"sha256={GOOD!r}"
        first, warm = place.run(
            f"pull({name!r}, {pin})\nblock()\npull({name!r}, {pin})", EFFNET_ZOO_MIRRORS=",".join(mirrors)
        )
        assert first.loaded == warm.loaded == GOOD
        assert warm.touched == 0
        asked = [[r for r in mirror.requests if REPO in r.path] for mirror in (empty, liar, good)]
        assert all(asked)
        assert flips.hits == 2
        assert not [request for request in liar.requests if request.path.startswith("//")]
        assert not [r for requests in asked for r in requests if "authorization" in r.headers]
    assert not [request for request in place.hub.requests if REPO in request.path]
    assert wrong.read_bytes() == NEWER
    assert kept(place.cache) == {GOOD}


def test_where_no_mirror_has_it_the_hub_is_asked_with_its_token_and_an_error_names_them_all_without_secrets(
    place: Place, tmp_path: Path
) -> None:
    place.hub.create(REPO, private=True)
    place.hub.put(REPO, {FILE: WEIGHTS})
    with loopback.serve() as mirror:
        secret = mirror.url.replace("//", "//user:secret@")
        mirrors = f"{secret}, {tmp_path / 'none'}"
        found, missing = place.run("pull()\npull('org/none')", EFFNET_ZOO_MIRRORS=mirrors)
        sent = [request.headers.get("authorization", "") for request in mirror.requests if "/resolve/" in request.path]
    assert found.loaded == GOOD
    assert len(sent) == 2
    assert not [header for header in sent if TOKEN in header]
    sent = [r.headers.get("authorization", "") for r in place.hub.requests if REPO in r.path and r.server == "hub"]
    assert set(sent) == {f"Bearer {TOKEN}"}
    assert missing.error is not None
    assert f"{mirror.url}: no such repository" in missing.error
    assert f"{tmp_path}/none/org/none/{FILE}: there is no such file" in missing.error
    assert f"{place.hub.url}: no such repository, or a private one (HTTP 404)" in missing.error
    assert "secret" not in missing.error


def test_a_mirrors_file_is_held_to_the_lock(place: Place, tmp_path: Path) -> None:
    place.hub.put(REPO, {FILE: WEIGHTS})
    place.run("pull()")
    shutil.rmtree(place.cache / "models--org--model" / "snapshots")
    with loopback.serve() as mirror:
        mirror.put(REPO, {FILE: NEWER})
        (pulled,) = place.run("pull()", EFFNET_ZOO_MIRRORS=mirror.url)
        assert mirror.requests
    assert pulled.loaded == GOOD


BY_HAND = f"""
hub.FIRST_PAUSE = 0.5
pull()
folder = Path("by hand").resolve()
(folder / {REPO!r}).mkdir(parents=True)
shutil.copy({{weights!r}}, folder / {REPO!r} / {FILE!r})
os.environ["EFFNET_ZOO_MIRRORS"] = str(folder)
block()
pull()
shutil.copy({{newer!r}}, folder / {REPO!r} / {FILE!r})
pull()
"""


def test_cold_and_offline_is_soon_an_error_that_says_how_to_bring_the_file_and_that_works(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").write_bytes(WEIGHTS)
    (tmp_path / "newer").write_bytes(NEWER)
    code = BY_HAND.format(weights=str(tmp_path / "weights"), newer=str(tmp_path / "newer"))
    cold, brought, other = place.run(code, HF_ENDPOINT=NOWHERE)
    assert cold.error == (
        f"cannot get {FILE} of {REPO} (revision main): {NOWHERE}: [Errno 111] Connection refused: check the network. "
        f"To bring it by hand, put {NOWHERE}/{REPO}/resolve/main/{FILE} at FOLDER/{REPO}/{FILE} "
        "and set EFFNET_ZOO_MIRRORS=FOLDER"
    )
    assert cold.seconds < 6
    assert brought.loaded == GOOD
    assert brought.touched == 0
    assert other.error is not None
    assert f"by hand/{REPO}/{FILE} is not the file that the lock file " in other.error
    assert f"names: expected sha256 {GOOD}, got {sha256(NEWER)}" in other.error
    assert (tmp_path / "by hand" / REPO / FILE).read_bytes() == NEWER


def test_a_hub_that_is_silent_is_waited_for_once(place: Place) -> None:
    place.hub.put(REPO, {FILE: WEIGHTS})
    script = place.hub.fault("HEAD", ".", Stall(), times=None)
    (pulled,) = place.run("hub.PATIENCE = 0.5\npull()", HF_HUB_ETAG_TIMEOUT="1")
    assert script.hits == 1
    assert pulled.error is not None
    assert "timed out: check the network" in pulled.error
    assert pulled.seconds < 3


def test_a_firewall_that_drops_everything_is_soon_an_error(place: Place) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(0)
        queue = [socket.socket() for _ in range(4)]  # more than the queue holds, so that nobody else is answered
        for client in queue:
            client.setblocking(False)
            client.connect_ex(silent.getsockname())
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        (pulled,) = place.run("pull()", HF_ENDPOINT=address, HF_HUB_ETAG_TIMEOUT="10")  # the client's default
        for client in queue:
            client.close()
    assert pulled.error is not None
    assert "timed out: check the network" in pulled.error
    assert 1 < pulled.seconds < 6


def test_pauses_grow_and_what_will_not_pass_is_not_tried_again(place: Place) -> None:
    place.run(
        """
pauses, tried = [], []
hub.FIRST_PAUSE = 0.5
hub.time.sleep = pauses.append
def failing(error):
    def action():
        tried.append(error)
        raise error
    try:
        hub.retrying(action)
    except type(error):
        return len(tried), pauses[:]
assert failing(ConnectionResetError(104, "reset")) == (4, [0.5, 1.0, 2.0])
tried.clear(), pauses.clear()
assert failing(OSError(28, "full")) == (1, [])
"""
    )


def test_a_server_that_asks_for_a_pause_gets_it(place: Place) -> None:
    place.hub.put(REPO, {FILE: WEIGHTS})
    script = place.hub.fault("HEAD", ".", Status(429, retry_after=1))
    (pulled,) = place.run("pull()")
    assert script.hits == 1
    assert pulled.loaded == GOOD
    assert 1 <= pulled.seconds < 5


def test_a_bad_file_that_cannot_be_replaced_is_an_error_and_is_not_loaded(place: Place) -> None:
    place.hub.put(REPO, {FILE: WEIGHTS})
    first, bad = place.run(
        """
import errno
pull()
flip(next(Path(cache.cache_folder()).glob("*/blobs/*")))
def refuse(source, target):
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(target))
download.os = types.SimpleNamespace(**{**vars(os), "replace": refuse})
pull()
"""
    )
    assert bad.error is not None
    assert f"the file system is read-only: name another place: {first.path} is not the expected file" in bad.error


def test_hf_hub_offline_loads_what_is_there_and_names_what_is_not_without_any_connection(place: Place) -> None:
    place.hub.put(REPO, {FILE: WEIGHTS})
    place.run("pull()")
    place.hub.clear()
    warm, cold, bad = place.run(
        "block()\npull()\npull('org/other')\nflip(next(Path(cache.cache_folder()).glob('*/blobs/*')))\npull()",
        HF_HUB_OFFLINE="1",
    )
    assert warm.loaded == GOOD
    assert cold.error is not None
    assert cold.error.startswith(
        f"cannot get {FILE} of org/other (revision main): {place.hub.url}: not asked because HF_HUB_OFFLINE is set"
    )
    assert bad.error is not None
    assert f"expected sha256 {GOOD}, got" in bad.error
    assert "it was left there, not loaded" in bad.error
    assert (warm.touched, cold.touched, bad.touched) == (0, 0, 0)
    assert not place.hub.requests


def test_the_cache_is_the_given_folder_or_effnet_zoo_home_or_the_clients(place: Place, tmp_path: Path) -> None:
    commit = place.hub.put(REPO, {FILE: WEIGHTS})
    folders = {name: tmp_path / name for name in ("given", "mine", "theirs")}
    place.run(f"pull(cache_dir={str(folders['given'])!r})", EFFNET_ZOO_HOME=str(folders["mine"]))
    assert [folder.exists() for folder in (*folders.values(), place.cache)] == [True, False, False, False]
    place.run("pull()", EFFNET_ZOO_HOME=str(folders["mine"]), HF_HUB_CACHE=str(folders["theirs"]))
    assert (folders["mine"] / "hub" / "models--org--model" / "snapshots" / commit / FILE).is_file()
    assert lock_file(folders["mine"] / "hub").is_file()
    assert not folders["theirs"].exists()
    place.run("pull()", HF_HUB_CACHE=str(folders["theirs"]))
    assert lock_file(folders["theirs"]).is_file()
    assert not place.cache.exists()


def test_what_is_no_repositorys_name_is_an_error_before_anything_is_asked(place: Place) -> None:
    (pulled,) = place.run("block()\npull('no//name')")
    assert pulled.error == "'no//name' is not a repository's name: expected owner/name"
    assert pulled.touched == 0
