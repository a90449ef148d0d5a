"""Files from a Hugging Face Hub or a mirror of it: errors that say what to do, and what the client leaves out.

The client is huggingface_hub. It checks a file's size and never its hash, gives up where a connection breaks in
mid-body or a server answers 5xx, and reads a refusal as a missing network.
"""

import errno
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name

from effnet_zoo.errors import HubError
from effnet_zoo.files import sha256, written_whole

Answer = TypeVar("Answer")

ATTEMPTS = 4
FIRST_PAUSE = 0.5
"""Seconds before the second attempt; each further pause is twice as long."""
LONGEST_PAUSE = 30.0
"""Seconds that a server may ask to be left alone for before this gives up instead."""

TRANSIENT = (408, 429, 500, 502, 503, 504)
MIRRORS = "EFFNET_ZOO_MIRRORS"
HOME = "EFFNET_ZOO_HOME"


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """A file of a repository.

    Attributes:
        repository: ``owner/name``.
        filename: Its path there.
        revision: Branch, tag or commit; None for the main branch.
        sha256: Of its content, if known.
    """

    repository: str
    filename: str
    revision: str | None = None
    sha256: str | None = None

    def __str__(self) -> str:
        return f"{self.filename} of {self.repository} (revision {self.revision or 'main'})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """What a file was when it was first fetched: the commit, and the SHA-256 of its content if it is known."""

    revision: str | None
    sha256: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A file on this machine, and the SHA-256 it must have, None where nobody has said one."""

    path: Path
    pin: Pin


def cache_folder(cache_dir: str | Path | None = None) -> Path:
    """Where fetched files are kept: `cache_dir`, ``$EFFNET_ZOO_HOME/hub``, or huggingface_hub's own cache."""
    if cache_dir is not None:
        return Path(cache_dir)
    if home := os.environ.get(HOME):
        return Path(home).expanduser() / "hub"
    return Path(constants.HF_HUB_CACHE)


def mirrors() -> list[str]:
    """Other endpoints and local folders, in the order they are asked before the Hub."""
    return [place for part in os.environ.get(MIRRORS, "").split(",") if (place := part.strip())]


def cached(file: RemoteFile, cache_dir: str | Path | None = None) -> Fetched | None:
    """The file from the cache, without any request; None if it is not there.

    What it must be is what the ledger or the lock file says. A file that another program has put there is held to the
    hash that the client was told when it fetched it.
    """
    folder = cache_folder(cache_dir)
    pin = known_pin(file, folder)
    found = try_to_load_from_cache(file.repository, file.filename, cache_dir=folder, revision=pin.revision or "main")
    if not isinstance(found, str):
        return None
    path = Path(found)
    return Fetched(path=path, pin=Pin(revision=path.parent.name, sha256=pin.sha256 or _hash_in_name(path)))


def fetch(file: RemoteFile, cache_dir: str | Path | None = None) -> Fetched:
    """The file from the first mirror that has it and has it right, or from the Hub.

    Args:
        file: What to fetch. Where its commit or hash is not known, the lock file's are enforced, and where there is no
            lock file yet the hash that the server itself names.
        cache_dir: See `cache_folder`.

    Raises:
        HubError: If no place has it; names the file, each place, what it said, and how to bring the file by hand.
    """
    folder = cache_folder(cache_dir)
    pin = known_pin(file, folder)
    said: list[str] = []
    for place in (*mirrors(), constants.ENDPOINT):
        try:
            if "://" in place:
                return _download(file, pin, place, folder)
            return _from_folder(file, pin, Path(place).expanduser())
        except HubError as error:
            said.append(str(error))
    raise HubError(
        f"cannot get {file}: {'; '.join(said)}. To bring it by hand, put it at "
        f"FOLDER/{file.repository}/{file.filename} and set {MIRRORS}=FOLDER"
    )


def lock(file: RemoteFile, pin: Pin, cache_dir: str | Path | None = None) -> None:
    """Write down what a file is, to hold it to that from now on."""
    path = _lock_path(file, cache_folder(cache_dir))
    with written_whole(path) as beside:
        beside.write_text(json.dumps({"revision": pin.revision, "sha256": pin.sha256}) + "\n", encoding="utf-8")


def discard(path: Path, cache_dir: str | Path | None = None) -> None:
    """Remove a file from the cache: its entry, and the content that the entry points to. Outside of it, do nothing."""
    if path.is_relative_to(cache_folder(cache_dir)):
        content = path.resolve()
        path.unlink(missing_ok=True)
        content.unlink(missing_ok=True)


def explain(error: Exception, place: str, *, needed: int = 0, folder: Path | None = None) -> str:
    """What went wrong with a Hub, and what to do, in one sentence without a full stop.

    Args:
        error: What the client raised.
        place: The Hub's address.
        needed: Bytes that were to be written.
        folder: Where to.
    """
    cause = _cause(error)
    status = _status(cause)
    if isinstance(cause, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set and the file is not in the cache: unset it"
    if isinstance(cause, GatedRepoError):
        return f"{place}: the repository is gated: accept its terms there and log in with `hf auth login`"
    if isinstance(cause, RevisionNotFoundError):
        return f"{place}: the repository has no such revision"
    if isinstance(cause, RepositoryNotFoundError):
        return (
            f"{place}: no such repository, or a private one (HTTP {status}): check the name, or log in with "
            "`hf auth login`"
        )
    if isinstance(cause, EntryNotFoundError):
        return f"{place}: the repository has no such file"
    if isinstance(cause, HFValidationError):
        return f"not a repository's name: {_first_line(cause)}"
    if status == 401:
        return f"{place}: the token was refused (HTTP 401): log in with `hf auth login`"
    if status == 403:
        return f"{place}: access denied (HTTP 403): the token may not do this"
    if status == 429:
        return f"{place}: too many requests (HTTP 429): log in with `hf auth login`, or try again later"
    if status is not None and status >= 500:
        return f"{place}: the server fails (HTTP {status}): try again later"
    if getattr(cause, "errno", None) == errno.ENOSPC:
        return _disk_full(needed, folder)
    return f"{place}: {_first_line(cause)}: check the network"


def retrying(action: Callable[[], Answer]) -> Answer:
    """Do something that may fail in passing up to `ATTEMPTS` times, with growing pauses; raises the last error."""
    pause = FIRST_PAUSE
    for _ in range(ATTEMPTS - 1):
        try:
            return action()
        except Exception as error:  # what is not transient is raised again
            wait = max(pause, _retry_after(error))
            if not is_transient(error) or wait > LONGEST_PAUSE:
                raise
        time.sleep(wait)
        pause *= 2
    return action()


def is_transient(error: Exception) -> bool:
    """Whether the same request may succeed a little later: a broken connection, or a server that says so."""
    cause = _cause(error)
    if isinstance(cause, OfflineModeIsEnabled):
        return False
    if (status := _status(cause)) is not None:
        return status in TRANSIENT
    if isinstance(cause, OSError) and cause.errno is not None:
        return isinstance(cause, ConnectionError | TimeoutError)
    # Without errno: httpx's and requests' own, and the client's "Consistency check failed" of a body cut short.
    return isinstance(cause, HTTPError | OSError) and not isinstance(cause, EntryNotFoundError | FileNotFoundError)


def _download(file: RemoteFile, pin: Pin, place: str, folder: Path) -> Fetched:
    token = None if place == constants.ENDPOINT else False  # a mirror never sees the Hub's token
    size = 0

    def attempt() -> Fetched:
        nonlocal size
        url = hf_hub_url(file.repository, file.filename, revision=pin.revision, endpoint=place)
        head = get_hf_file_metadata(url, token=token)
        size = head.size or 0
        path = hf_hub_download(
            file.repository,
            file.filename,
            revision=head.commit_hash,
            cache_dir=folder,
            endpoint=place,
            token=token,
        )
        told = head.etag if head.etag and _is_sha256(head.etag) else None
        return Fetched(path=Path(path), pin=Pin(revision=head.commit_hash, sha256=pin.sha256 or told))

    try:
        if constants.HF_HUB_OFFLINE:
            raise OfflineModeIsEnabled
        found = retrying(attempt)
        if _wrong(found):  # once more: a cache may have held it, or a bit flipped on the way
            discard(found.path, folder)
            found = retrying(attempt)
    except (HTTPError, EntryNotFoundError, HFValidationError, OSError) as error:
        raise HubError(explain(error, place, needed=size, folder=folder)) from error
    if got := _wrong(found):
        discard(found.path, folder)
        raise HubError(
            f"{place} twice gave another file: expected sha256 {found.pin.sha256}, got {got} at {found.path}, "
            "which was removed"
        )
    return found


def _from_folder(file: RemoteFile, pin: Pin, folder: Path) -> Fetched:
    path = folder / file.repository / file.filename
    if not path.is_file():
        raise HubError(f"{path}: there is no such file")
    found = Fetched(path=path, pin=pin)
    if got := _wrong(found):
        raise HubError(f"{path} is another file: expected sha256 {pin.sha256}, got {got}")
    return found


def _wrong(found: Fetched) -> str | None:
    """The hash of a file if it is not the one that it must have."""
    if found.pin.sha256 is None:
        return None
    got = sha256(found.path)
    return got if got != found.pin.sha256 else None


def known_pin(file: RemoteFile, cache_dir: str | Path | None = None) -> Pin:
    """The ledger's commit and hash, or where it has none the lock file's.

    Raises:
        HubError: If the lock file is damaged.
    """
    folder = cache_folder(cache_dir)
    try:
        entry: Any = json.loads(_lock_path(file, folder).read_text(encoding="utf-8"))
        locked = Pin(revision=entry["revision"], sha256=entry["sha256"])
    except FileNotFoundError:
        locked = Pin(revision=file.revision, sha256=None)
    except (ValueError, TypeError, KeyError) as error:
        path = _lock_path(file, folder)
        raise HubError(f"{path} is not a lock file ({error}): delete it to record the weights anew") from None
    return Pin(revision=locked.revision or file.revision, sha256=file.sha256 or locked.sha256)


def _lock_path(file: RemoteFile, folder: Path) -> Path:
    repository = folder / repo_folder_name(repo_id=file.repository, repo_type="model")
    name = f"{file.revision or 'main'}--{file.filename}.json".replace("/", "--")
    return repository / "effnet-zoo" / name


def _hash_in_name(path: Path) -> str | None:
    """The client names the content of a large file by the SHA-256 that the Hub told it."""
    name = path.resolve().name
    return name if _is_sha256(name) else None


def _is_sha256(text: str) -> bool:
    return len(text) == 64 and set(text) <= set("0123456789abcdef")


def _cause(error: Exception) -> Exception:
    """What stopped the client, which says only that a file is not on disk and keeps the reason as the cause."""
    if isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        return _cause(error.__cause__)
    return error


def _status(error: Exception) -> int | None:
    response = getattr(error, "response", None)
    return response.status_code if isinstance(error, HfHubHTTPError) and response is not None else None


def _retry_after(error: Exception) -> float:
    response = getattr(_cause(error), "response", None)
    wanted = response.headers.get("Retry-After", "") if response is not None else ""
    return float(wanted) if wanted.isdigit() else 0.0


def _disk_full(needed: int, folder: Path | None) -> str:
    where = folder
    while where is not None and not where.exists() and where != where.parent:
        where = where.parent
    free = f", {shutil.disk_usage(where).free / 1e6:.0f} MB are free" if where else ""
    return (
        f"the disk is full: {needed / 1e6:.0f} MB are to be written to {folder}{free}: free some, or set {HOME} to "
        "a folder on another disk"
    )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
