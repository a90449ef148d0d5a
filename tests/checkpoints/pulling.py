"""Pulls in fresh interpreters, as the client reads its environment at import; one interpreter does several steps."""

import hashlib
import json
import os
import random
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests import loopback

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
from effnet_zoo.checkpoints import cache, hub, locate
from effnet_zoo.errors import EffnetZooError
hub.FIRST_PAUSE = 0.01
touched = []

def pull(repository={REPO!r}, filename={FILE!r}, sha256=None, cache_dir=None):
    before, start, loaded, error, path = len(touched), time.monotonic(), None, None, None
    try:
        source = locate.of_repository(repository, filename)
        if sha256:
            source = dataclasses.replace(source, sha256=sha256)
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


def lock_file(cache: Path, revision: str = "main", filename: str = FILE) -> Path:
    return cache / "models--org--model" / "effnet-zoo" / f"{revision}--{filename.replace('/', '--')}.json"


def kept(cache: Path) -> set[str]:
    """The hash of every file that some program could load from a cache."""
    paths = [*cache.glob("*/blobs/*"), *(path for path in cache.glob("*/snapshots/**/*") if path.is_file())]
    return {sha256(path.read_bytes()) for path in paths if path.suffix != ".incomplete"}
