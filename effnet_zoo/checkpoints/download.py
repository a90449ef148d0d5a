"""Files from a Hugging Face Hub or a mirror of it: errors that say what to do, and what the client leaves out.

The client is huggingface_hub. It checks a file's size and never its hash, gives up where a connection breaks in
mid-body or a server answers 5xx, and reads a refusal as a missing network.
"""

import errno
import json
import os
import re
import shutil
import socket
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import validate_repo_id
from msgspec import Meta

from effnet_zoo.atomic_io import explained, file_errors, read_text, scratch_beside, sha256, user_path, write_text
from effnet_zoo.documents import from_json
from effnet_zoo.errors import FileError, HubError, MissingFileError, first_line, quoted

Answer = TypeVar("Answer")

ATTEMPTS = 4
FIRST_PAUSE = 0.5
"""Seconds before the second attempt; each further pause is twice as long."""
LONGEST_PAUSE = 30.0
"""Seconds that a server may ask to be left alone for before this gives up instead."""
PATIENCE = 3.0
"""Seconds after which a refusal or silence is not tried again: the client, or the system, has tried for long enough."""
CONNECT = 4.0
"""Seconds to wait for a connection: behind a firewall that drops everything it never comes."""

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

    def __post_init__(self) -> None:
        try:
            validate_repo_id(self.repository)
        except HFValidationError:
            raise HubError(f"{quoted(self.repository)} is not a repository's name: expected owner/name") from None

    def __str__(self) -> str:
        return f"{self.filename} of {self.repository} (revision {self.revision or 'main'})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """What a file was when it was first fetched: the commit, and the SHA-256 of its content if it is known."""

    revision: str | None
    sha256: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lock:
    """The content of a lock file."""

    revision: str | None
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A file on this machine, and the SHA-256 it must have.

    Attributes:
        path: The file.
        pin: Its commit, and the SHA-256 it must have; None where nobody has said one.
        told_by: Who has said it.
    """

    path: Path
    pin: Pin
    told_by: str

    def check(self, got: str) -> None:
        """Compares the file's SHA-256 with the one it must have.

        Raises:
            WrongFileError: If it is another.
        """
        if self.pin.sha256 not in (None, got):
            raise WrongFileError(
                f"{self.path} is not the file that {self.told_by} names: expected sha256 {self.pin.sha256}, got {got}"
            )


class WrongFileError(HubError):
    """A file that is there, and is not the one it must be."""


def cache_folder(cache_dir: str | Path | None = None) -> Path:
    """Where fetched files are kept: `cache_dir`, ``$EFFNET_ZOO_HOME/hub``, or huggingface_hub's own cache."""
    if cache_dir is not None:
        return Path(cache_dir)
    if home := os.environ.get(HOME):
        return user_path(home, HOME) / "hub"
    return Path(constants.HF_HUB_CACHE)


def mirrors() -> list[str]:
    """Other endpoints and local folders, in the order they are asked before the Hub."""
    return [place for part in os.environ.get(MIRRORS, "").split(",") if (place := part.strip().rstrip("/"))]


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
    commit = path.parents[file.filename.count("/")].name
    if pin.sha256:
        return Fetched(path=path, pin=Pin(revision=commit, sha256=pin.sha256), told_by=_told_by(file, folder))
    name = "the name that the client gave its content"
    return Fetched(path=path, pin=Pin(revision=commit, sha256=_hash_in_name(path)), told_by=name)


def fetch(
    file: RemoteFile,
    use: Callable[[Fetched], Answer],
    cache_dir: str | Path | None = None,
    *,
    instead_of: Fetched | None = None,
) -> Answer:
    """Returns what is made of a file from the first mirror that has it and has it right, or from the Hub.

    What is in the cache is never removed before there is a right file to take its place.

    Args:
        file: What to fetch. Where its commit or hash is not known, the lock file's are enforced, and where there is no
            lock file yet the hash that the server itself names.
        use: What to make of it; raises a `WrongFileError` if it is not the file it must be. It may be called for
            several files.
        cache_dir: See `cache_folder`.
        instead_of: The file in the cache that was found to be wrong, if there is one.

    Raises:
        HubError: If no place has it; names the file, each place, what it said, and how to bring the file by hand.
        MissingFileError: If each place answered, and has no such file.
    """
    folder = cache_folder(cache_dir)
    pin = known_pin(file, folder)
    told_by = _told_by(file, folder) if pin.sha256 else None
    said: list[HubError] = []
    for place in (*mirrors(), constants.ENDPOINT):
        try:
            if place.startswith(("http://", "https://")):
                return _from_hub(_Request(file, pin, told_by, place), folder, use, instead_of)
            request = _Request(file, pin, told_by, str(user_path(place, MIRRORS)))
            answer = _from_folder(request, use)
            if instead_of is not None:
                _remove(instead_of.path)
            return answer
        except HubError as error:
            said.append(error)
    url = _public(hf_hub_url(file.repository, file.filename, revision=pin.revision))
    nowhere = all(isinstance(error, MissingFileError) for error in said)
    raise (MissingFileError if nowhere else HubError)(
        f"cannot get {file}: {'; '.join(map(str, said))}. To bring it by hand, put {url} at "
        f"FOLDER/{file.repository}/{file.filename} and set {MIRRORS}=FOLDER"
    )


def lock(file: RemoteFile, pin: Pin, cache_dir: str | Path | None = None) -> None:
    """Write down what a file is, to hold it to that from now on."""
    path = lock_path(file, cache_dir)
    try:
        write_text(path, json.dumps({"revision": pin.revision, "sha256": pin.sha256}) + "\n")
    except FileError as error:  # a cache that is read only, or full: the file itself is right
        warnings.warn(f"{error}: {file} is not held to this content next time", stacklevel=3)


def explain(error: Exception, place: str, *, needed: int = 0, folder: Path | None = None) -> str:
    """What went wrong with a Hub, and what to do, in one sentence without a full stop.

    Args:
        error: What the client raised.
        place: The Hub's address.
        needed: Bytes that were to be written.
        folder: Where to.
    """
    cause, place = _cause(error), _public(place)
    status = _status(cause)
    if isinstance(cause, OfflineModeIsEnabled):
        return f"{place}: not asked because HF_HUB_OFFLINE is set: unset it"
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
        return f"not a repository's name: {first_line(cause).rstrip('.')}"
    if status == 401:
        return f"{place}: the token is missing or not valid (HTTP 401): log in with `hf auth login`, or unset HF_TOKEN"
    if status == 403:
        return f"{place}: access denied (HTTP 403): check what the token may do"
    if status == 429:
        return f"{place}: too many requests (HTTP 429): log in with `hf auth login`, or try again later"
    if status is not None and status >= 500:
        return f"{place}: the server fails (HTTP {status}): try again later"
    if status is not None:
        return f"{place}: the request was refused (HTTP {status}): check the address"
    if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
        return _disk_full(needed, folder)
    if isinstance(cause, OSError) and cause.filename is not None:
        return f"{cause.filename}: {cause.strerror}: set {HOME} to a folder that can be written to"
    return f"{place}: {first_line(_root(cause)).rstrip('.')}: check the network"


def retrying(action: Callable[[], Answer]) -> Answer:
    """Do something that may fail in passing up to `ATTEMPTS` times, with growing pauses; raises the last error."""
    pause = FIRST_PAUSE
    for _ in range(ATTEMPTS - 1):
        start = time.monotonic()
        try:
            return action()
        except Exception as error:  # what is not transient is raised again
            wait = max(pause, _retry_after(error))
            tried_long = _was_waited_for(error) and time.monotonic() - start > PATIENCE
            if not is_transient(error) or tried_long or wait > LONGEST_PAUSE:
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


@dataclass(frozen=True, slots=True)
class _Request:
    """A file to fetch from one place.

    Attributes:
        file: The file.
        pin: The commit and the SHA-256 it must have, where they are known.
        told_by: Who has said the SHA-256, if somebody has.
        place: An address or a folder.
    """

    file: RemoteFile
    pin: Pin
    told_by: str | None
    place: str


def _from_hub(request: _Request, folder: Path, use: Callable[[Fetched], Answer], instead_of: Fetched | None) -> Answer:
    """Fetches a file into the cache, and once more if it is wrong: a cache may have held it, or a bit have flipped."""
    if instead_of is not None:
        return use(_replaced(request, folder, instead_of))
    found, fresh = _downloaded(request, folder)
    try:
        return use(found)
    except WrongFileError:
        try:
            found = _replaced(request, folder, found)
        except HubError:
            if fresh:  # it was not in the cache before
                _remove(found.path)
            raise
    return use(found)


def _replaced(request: _Request, folder: Path, wrong: Fetched) -> Fetched:
    """Fetches a file to a place of its own, and puts it in the place of a wrong one if it is right."""
    request = replace(request, pin=wrong.pin, told_by=wrong.told_by)
    try:
        with scratch_beside(_repository(request.file, folder)) as scratch:
            found, _ = _downloaded(request, scratch)
            if (got := sha256(found.path)) != wrong.pin.sha256:
                raise WrongFileError(
                    f"{_public(request.place)}: twice another file than {wrong.told_by} names: "
                    f"expected sha256 {wrong.pin.sha256}, got {got}"
                )
            with file_errors(wrong.path):
                os.replace(found.path.resolve(), wrong.path.resolve())
    except FileError as error:
        raise HubError(f"{error}: {wrong.path} is not the expected file, and was left there") from None
    return wrong


def _downloaded(request: _Request, folder: Path) -> tuple[Fetched, bool]:
    """Fetches a file into a cache, and says whether the cache did not have its content before."""
    file, pin, place = request.file, request.pin, request.place
    token = None if place == constants.ENDPOINT else False  # a mirror never sees the Hub's token
    # To connect, and to read: requests and httpx both take two, where the client's annotation knows of one.
    timeout: Any = (min(CONNECT, constants.HF_HUB_ETAG_TIMEOUT), constants.HF_HUB_ETAG_TIMEOUT)
    size, fresh = 0, True

    def attempt() -> Fetched:
        nonlocal size, fresh
        url = hf_hub_url(file.repository, file.filename, revision=pin.revision, endpoint=place)
        head = get_hf_file_metadata(url, token=token, timeout=timeout)
        if head.commit_hash is None or head.etag is None:
            raise HubError(f"{_public(place)}: this is not a Hub's answer: check the address, and for a proxy's login")
        size = head.size or 0
        repository = _repository(file, folder)
        kept = (repository / "blobs" / head.etag, repository / "snapshots" / head.commit_hash / file.filename)
        fresh = fresh and not any(path.exists() for path in kept)
        path = hf_hub_download(
            file.repository,
            file.filename,
            revision=head.commit_hash,
            cache_dir=folder,
            endpoint=place,
            token=token,
        )
        told = head.etag if _is_sha256(head.etag) else None
        return Fetched(
            path=Path(path),
            pin=Pin(revision=head.commit_hash, sha256=pin.sha256 or told),
            told_by=request.told_by or _public(place),
        )

    try:
        if constants.HF_HUB_OFFLINE:
            raise OfflineModeIsEnabled
        return retrying(attempt), fresh
    except HubError:
        raise
    except Exception as error:  # the client has many, its HTTP library's and its storage's among them
        cause = _cause(error)
        missing = isinstance(cause, EntryNotFoundError) and not isinstance(cause, LocalEntryNotFoundError)
        reason = explain(error, place, needed=size, folder=folder)
        raise (MissingFileError if missing else HubError)(reason) from error


def _remove(path: Path) -> None:
    """Removes a wrong file from the cache: its entry, and the content that the entry points to."""
    content = path.resolve()
    try:
        path.unlink(missing_ok=True)
        content.unlink(missing_ok=True)
    except OSError as error:
        raise HubError(f"{explained(error, path)}: {path} is not the expected file: remove it") from None


def _from_folder(request: _Request, use: Callable[[Fetched], Answer]) -> Answer:
    path = Path(request.place) / request.file.repository / request.file.filename
    try:
        with file_errors(path):
            there = path.is_file()
        if there:
            return use(Fetched(path=path, pin=request.pin, told_by=request.told_by or "nobody"))
    except FileError as error:
        raise HubError(str(error)) from None
    raise MissingFileError(f"{path}: there is no such file")


def known_pin(file: RemoteFile, cache_dir: str | Path | None = None) -> Pin:
    """The ledger's commit and hash, or where it has none the lock file's.

    Raises:
        HubError: If the lock file is damaged.
    """
    locked = _locked(file, cache_dir)
    revision, sha256 = (locked.revision, locked.sha256) if locked else (None, None)
    return Pin(revision=revision or file.revision, sha256=file.sha256 or sha256)


def _locked(file: RemoteFile, cache_dir: str | Path | None) -> _Lock | None:
    path = lock_path(file, cache_dir)
    if not os.path.lexists(path):
        return None
    try:
        return from_json(read_text(path), _Lock, f"{path} is damaged", HubError)
    except (FileError, HubError) as error:
        raise HubError(
            f"{error}: expected a commit and a sha256 in JSON; delete it to record {file} anew, or set {HOME} to "
            "another folder"
        ) from None


def _told_by(file: RemoteFile, cache_dir: str | Path | None) -> str:
    """Who says what the hash of a file is, where `known_pin` has one."""
    return "the ledger" if file.sha256 else f"the lock file {lock_path(file, cache_dir)}"


def lock_path(file: RemoteFile, cache_dir: str | Path | None = None) -> Path:
    """Returns where what a file was when it was first fetched is written down."""
    name = f"{file.revision or 'main'}--{file.filename}.json".replace("/", "--")
    return _repository(file, cache_folder(cache_dir)) / "effnet-zoo" / name


def _repository(file: RemoteFile, folder: Path) -> Path:
    """Where the client keeps a repository in a cache."""
    return folder / repo_folder_name(repo_id=file.repository, repo_type="model")


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


def _root(error: BaseException) -> BaseException:
    """Where a chain of errors began: the system's own words, without those of the libraries around it."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return error


def _was_waited_for(error: Exception) -> bool:
    """Whether client or system may have waited, or tried again, before they gave up: not where a connection broke."""
    cause = _cause(error)
    silent = (TimeoutError, ConnectionRefusedError, socket.gaierror)
    return _status(cause) is not None or isinstance(_root(cause), silent)


def _status(error: Exception) -> int | None:
    # Not only the client's HfHubHTTPError: 0.34 gives up on 429 with requests' own error.
    response = getattr(error, "response", None)  # one of requests is false if it is an error
    return response.status_code if response is not None else None


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


def _public(place: str) -> str:
    """An address without the name and password in it."""
    return re.sub(r"//[^/@]*@", "//", place)
