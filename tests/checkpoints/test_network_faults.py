"""Pulling weights over a network and from servers that fail in every way a script can bring about."""

import shutil
import socket
import subprocess
import time
from dataclasses import dataclass

import pytest

from tests import loopback
from tests.checkpoints.pulling import BIG, FILE, GOOD, NEWER, REPO, WEIGHTS, Place, finish, kept, sha256
from tests.loopback import Before, Cut, Drip, Flip, Reset, Stall, Status, Truncate


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
        "hub.constants.HF_HUB_OFFLINE = True\npull()\nhub.constants.HF_HUB_OFFLINE = False\npull()"
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
