"""Files from a Hugging Face Hub or a mirror of it into the cache, each verified before it is handed on.

The client is huggingface_hub. It checks a file's size and never its hash. It gives up where a connection breaks in
mid-body or a server answers 5xx, and reads a refusal as a missing network.
"""

import errno
import os
import re
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import constants, errors, get_hf_file_metadata, hf_hub_download, hf_hub_url

from effnet_zoo.atomic_io import explained, file_errors, scratch_beside, user_path
from effnet_zoo.checkpoints import cache
from effnet_zoo.checkpoints.cache import CachedFile, LocalFile, Pin, RemoteFile, WrongFileError
from effnet_zoo.errors import FileError, HubError, MissingFileError, first_line

_Answer = TypeVar("_Answer")

MIRRORS = "EFFNET_ZOO_MIRRORS"
"""The environment variable that lists other endpoints and local folders, in the order they are asked before the Hub."""
CONNECT = 4.0
"""Seconds to wait for a connection. Behind a firewall that drops everything, none ever comes."""
ATTEMPTS = 4
FIRST_PAUSE = 0.5
"""Seconds before the second attempt; each further pause is twice as long."""
LONGEST_PAUSE = 30.0
"""Seconds: if a server asks for a longer pause, the request is given up."""
PATIENCE = 3.0
"""Seconds: a refusal or silence that took longer is not tried again, because the client or the system has retried."""
TRANSIENT = (408, 429, 500, 502, 503, 504)
"""HTTP statuses after which the same request may succeed."""

REASONS: Mapping[type[Exception], str] = {
    errors.OfflineModeIsEnabled: "not asked because HF_HUB_OFFLINE is set: unset it",
    errors.GatedRepoError: "the repository is gated: accept its terms there and log in with `hf auth login`",
    errors.RevisionNotFoundError: "the repository has no such revision",
    errors.RepositoryNotFoundError: "no such repository, or a private one (HTTP {status}): check the name, or log in "
    "with `hf auth login`",
    errors.EntryNotFoundError: "the repository has no such file",
}
"""What the client's errors mean, and what to do. GatedRepoError comes before its base class RepositoryNotFoundError."""
STATUSES: Mapping[int, str] = {
    401: "the token is missing or not valid (HTTP 401): log in with `hf auth login`, or unset HF_TOKEN",
    403: "access denied (HTTP 403): check what the token may do",
    429: "too many requests (HTTP 429): log in with `hf auth login`, or try again later",
}
"""What an HTTP status means, and what to do."""


def fetch(cached: CachedFile, *, instead_of: LocalFile | None) -> LocalFile:
    """Return a verified file from the first mirror that has the right one, or from the Hub.

    Its SHA-256 must be the ledger's, else the lock file's, else the one that the server states. A wrong file
    of the cache, `instead_of`, is never removed before there is a right one to take its place. If no place has the
    file, the error is a `MissingFileError`.
    """
    file, pin = cached.file, cached.expected()
    mirrors = [place for part in os.environ.get(MIRRORS, "").split(",") if (place := part.strip().rstrip("/"))]
    failures: list[HubError] = []
    for place in (*mirrors, constants.ENDPOINT):
        try:
            if place.startswith(("http://", "https://")):
                return _from_hub(cached, pin, place, instead_of)
            found = _from_folder(file, pin, user_path(place, MIRRORS))
            if instead_of is not None:
                _remove(instead_of.path)
            return found
        except HubError as error:
            failures.append(error)
    url = without_password(hf_hub_url(file.repository, file.filename, revision=pin.revision))
    missing = all(isinstance(error, MissingFileError) for error in failures)
    raise (MissingFileError if missing else HubError)(
        f"cannot get {file}: {'; '.join(map(str, failures))}. To bring it by hand, put {url} at "
        f"FOLDER/{file.repository}/{file.filename} and set {MIRRORS}=FOLDER"
    )


def _from_folder(file: RemoteFile, pin: Pin, folder: Path) -> LocalFile:
    path = folder / file.repository / file.filename
    with cache.hub_errors(path):
        exists = path.is_file()
    if not exists:
        raise MissingFileError(f"{path}: there is no such file")
    return LocalFile(path=path, pin=pin).verified()


def _from_hub(cached: CachedFile, pin: Pin, place: str, wrong: LocalFile | None) -> LocalFile:
    """Fetch a file into the cache, and once more if it is wrong: a proxy may have changed it, or a bit have flipped.

    The second one is fetched into a folder of its own, and takes the place of the wrong one if it is right.
    """
    is_new = False
    if wrong is None:
        found, is_new = _downloaded(cached, pin, place)
        try:
            return found.verified()
        except WrongFileError:
            wrong = found
    try:
        with scratch_beside(cached.folder) as scratch:
            found, _ = _downloaded(CachedFile(cached.file, scratch), wrong.pin, place)
            right = found.verified()
            with file_errors(wrong.path):
                os.replace(right.path.resolve(), wrong.path.resolve())
    except (FileError, HubError) as error:
        if is_new:
            _remove(wrong.path)
        if isinstance(error, FileError):
            raise HubError(f"{error}: {wrong.path} is not the expected file, and was left there") from None
        if isinstance(error, WrongFileError):
            reason = str(error).removeprefix(f"{found.path} is ")
            raise WrongFileError(f"{without_password(place)}: downloaded twice, both times {reason}") from None
        raise
    return LocalFile(path=wrong.path, pin=right.pin)


def _downloaded(cached: CachedFile, pin: Pin, place: str) -> tuple[LocalFile, bool]:
    """Fetch a file into a cache, and return whether the cache did not have its content before."""
    token = None if place == constants.ENDPOINT else False  # a mirror never sees the Hub's token
    # To connect, and to read: the HTTP library takes two, where the client's annotation knows of one.
    timeout: Any = (min(CONNECT, constants.HF_HUB_ETAG_TIMEOUT), constants.HF_HUB_ETAG_TIMEOUT)
    file, folder = cached.file, cached.folder.parent
    size, name = 0, without_password(place)
    try:
        if constants.HF_HUB_OFFLINE:
            raise errors.OfflineModeIsEnabled
        url = hf_hub_url(file.repository, file.filename, revision=pin.revision, endpoint=place)
        head = retrying(lambda: get_hf_file_metadata(url, token=token, timeout=timeout))
        commit, etag, size = head.commit_hash, head.etag, head.size or 0
        if commit is None or etag is None:
            raise HubError(f"{name}: this is not a Hub's answer: check the address, and for a proxy's login")
        kept = (cached.folder / "blobs" / etag, cached.folder / "snapshots" / commit / file.filename)
        is_new = not any(path.exists() for path in kept)
        path = retrying(
            lambda: hf_hub_download(
                file.repository, file.filename, revision=commit, cache_dir=folder, endpoint=place, token=token
            )
        )
    except HubError:
        raise
    except Exception as error:  # the client has many, its HTTP library's and its storage's among them
        cause = _cause_of(error)
        missing = isinstance(cause, errors.EntryNotFoundError) and not isinstance(cause, errors.LocalEntryNotFoundError)
        reason = explain(error, place, needed=size, folder=folder)
        raise (MissingFileError if missing else HubError)(reason) from error
    sha256, stated_by = pin.sha256, pin.stated_by
    if sha256 is None and cache.is_sha256(etag):
        sha256, stated_by = etag, name
    return LocalFile(path=Path(path), pin=Pin(revision=commit, sha256=sha256, stated_by=stated_by)), is_new


def _remove(path: Path) -> None:
    """Remove a wrong file from the cache: its entry, and the content that the entry points to."""
    content = path.resolve()
    try:
        path.unlink(missing_ok=True)
        content.unlink(missing_ok=True)
    except OSError as error:
        raise HubError(f"{explained(error, path)}: {path} is not the expected file: remove it") from None


# Which requests are worth another attempt, and what went wrong in words that say what to do.


def retrying(action: Callable[[], _Answer]) -> _Answer:
    """Return what `action` returns. A failure that may pass is retried, up to `ATTEMPTS` times, with growing pauses."""
    pause = FIRST_PAUSE
    for _ in range(ATTEMPTS - 1):
        start = time.monotonic()
        try:
            return action()
        except Exception as error:  # what will not pass is raised again
            wait = _wait_after(error, pause, tried=time.monotonic() - start)
            if wait is None:
                raise
        time.sleep(wait)
        pause *= 2
    return action()


def explain(error: Exception, place: str, *, needed: int = 0, folder: Path | None = None) -> str:
    """Return what went wrong with the Hub at an address, and what to do, in one sentence without a full stop.

    If the disk is full, it names the folder that was written to, and the bytes that are needed there.
    """
    cause, place = _cause_of(error), without_password(place)
    response, line = _response(cause), first_line(_root(cause)).rstrip(".")
    status = None if response is None else response.status_code
    if isinstance(cause, errors.HFValidationError):
        return f"not a repository's name: {line}"
    for kind, reason in REASONS.items():
        if isinstance(cause, kind):
            return f"{place}: {reason.format(status=status)}"
    if status is not None:
        failed = f"the server fails (HTTP {status}): try again later"
        refused = f"the request was refused (HTTP {status}): check the address"
        return f"{place}: {STATUSES.get(status, failed if status >= 500 else refused)}"
    if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
        size = f"{needed / 1e6:.0f} MB are to be written to {folder}: " if folder else ""
        return f"the disk is full: {size}free some, or set {cache.HOME} to a folder on another disk"
    if isinstance(cause, OSError) and cause.filename is not None:
        return f"{cause.filename}: {cause.strerror}: set {cache.HOME} to a folder that can be written to"
    return f"{place}: {line}: check the network"


def without_password(place: str) -> str:
    """Return an address without the name and password in it."""
    return re.sub(r"//[^/@]*@", "//", place)


def _cause_of(error: Exception) -> Exception:
    """Return the client's reason where it says only that a file is not on disk."""
    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        return _cause_of(error.__cause__)
    return error


def _wait_after(error: Exception, pause: float, *, tried: float) -> float | None:
    """Return the seconds until the same request may succeed, at least `pause`; None if it is not worth an attempt."""
    cause = _cause_of(error)
    response, never = _response(cause), (errors.OfflineModeIsEnabled, errors.EntryNotFoundError, FileNotFoundError)
    if response is not None:
        may_pass = response.status_code in TRANSIENT
        asked = response.headers.get("Retry-After", "")
        pause = max(pause, float(asked) if asked.isdigit() else 0.0)
    elif isinstance(cause, OSError) and cause.errno is not None:
        may_pass = isinstance(cause, ConnectionError | TimeoutError)
    else:  # httpx's and requests' own, and the client's "Consistency check failed" of a body cut short
        may_pass = isinstance(cause, errors.HTTPError | OSError) and not isinstance(cause, never)
    was_silent = isinstance(_root(cause), TimeoutError | ConnectionRefusedError | socket.gaierror)
    has_waited = tried > PATIENCE and (response is not None or was_silent)
    return pause if may_pass and not has_waited and pause <= LONGEST_PAUSE else None


def _root(error: BaseException) -> BaseException:
    """Return the first error of a chain: the system's own words, without those of the libraries around it."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return error


def _response(cause: Exception) -> Any:
    # Not only of the client's HfHubHTTPError: 0.34 gives up on 429 with requests' own error.
    return getattr(cause, "response", None)  # compared with None: one of requests is false if it is an error
