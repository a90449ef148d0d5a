"""Requests to a Hub: which are worth another attempt, and what went wrong in words that say what to do.

The client is huggingface_hub. It gives up where a connection breaks in mid-body or a server answers 5xx, and reads a
refusal as a missing network.
"""

import errno
import re
import shutil
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

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

from effnet_zoo.checkpoints.cache import HOME
from effnet_zoo.errors import first_line

Answer = TypeVar("Answer")

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
    HFValidationError: "not a repository's name: {line}",
    OfflineModeIsEnabled: "not asked because HF_HUB_OFFLINE is set: unset it",
    GatedRepoError: "the repository is gated: accept its terms there and log in with `hf auth login`",
    RevisionNotFoundError: "the repository has no such revision",
    RepositoryNotFoundError: "no such repository, or a private one (HTTP {status}): check the name, or log in with "
    "`hf auth login`",
    EntryNotFoundError: "the repository has no such file",
}
"""What the client's errors mean, and what to do. GatedRepoError comes before its base class RepositoryNotFoundError."""
STATUSES: Mapping[int, str] = {
    401: "the token is missing or not valid (HTTP 401): log in with `hf auth login`, or unset HF_TOKEN",
    403: "access denied (HTTP 403): check what the token may do",
    429: "too many requests (HTTP 429): log in with `hf auth login`, or try again later",
}
"""What an HTTP status means, and what to do."""


def explain(error: Exception, place: str, *, needed: int = 0, folder: Path | None = None) -> str:
    """Return what went wrong with the Hub at an address, and what to do, in one sentence without a full stop.

    If the disk is full, it names the folder that was written to, and the bytes that are needed there.
    """
    cause, place = cause_of(error), without_password(place)
    status, line = _status(cause), first_line(_root(cause)).rstrip(".")
    for kind, reason in REASONS.items():
        if isinstance(cause, kind):
            return f"{place}: {reason.format(status=status, line=line)}"
    if status is not None:
        failed = f"the server fails (HTTP {status}): try again later"
        refused = f"the request was refused (HTTP {status}): check the address"
        return f"{place}: {STATUSES.get(status, failed if status >= 500 else refused)}"
    if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full: {_space(needed, folder)}free some, or set {HOME} to a folder on another disk"
    if isinstance(cause, OSError) and cause.filename is not None:
        return f"{cause.filename}: {cause.strerror}: set {HOME} to a folder that can be written to"
    return f"{place}: {line}: check the network"


def retrying(action: Callable[[], Answer]) -> Answer:
    """Return what `action` returns. A failure that may pass is retried, up to `ATTEMPTS` times, with growing pauses."""
    pause = FIRST_PAUSE
    for _ in range(ATTEMPTS - 1):
        start = time.monotonic()
        try:
            return action()
        except Exception as error:  # what will not pass is raised again
            cause = cause_of(error)
            wait = max(pause, _retry_after(cause))
            tried_long = _was_waited_for(cause) and time.monotonic() - start > PATIENCE
            if not _may_pass(cause) or tried_long or wait > LONGEST_PAUSE:
                raise
        time.sleep(wait)
        pause *= 2
    return action()


def cause_of(error: Exception) -> Exception:
    """Return the client's reason where it says only that a file is not on disk."""
    if isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        return cause_of(error.__cause__)
    return error


def without_password(place: str) -> str:
    """Return an address without the name and password in it."""
    return re.sub(r"//[^/@]*@", "//", place)


def _may_pass(cause: Exception) -> bool:
    if isinstance(cause, OfflineModeIsEnabled):
        return False
    if (status := _status(cause)) is not None:
        return status in TRANSIENT
    if isinstance(cause, OSError) and cause.errno is not None:
        return isinstance(cause, ConnectionError | TimeoutError)
    # Without errno: httpx's and requests' own, and the client's "Consistency check failed" of a body cut short.
    return isinstance(cause, HTTPError | OSError) and not isinstance(cause, EntryNotFoundError | FileNotFoundError)


def _was_waited_for(cause: Exception) -> bool:
    """Return whether the client or the system may have waited or retried before it gave up."""
    silent = (TimeoutError, ConnectionRefusedError, socket.gaierror)
    return _status(cause) is not None or isinstance(_root(cause), silent)


def _root(error: BaseException) -> BaseException:
    """Return the first error of a chain: the system's own words, without those of the libraries around it."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return error


def _status(cause: Exception) -> int | None:
    # Not only the client's HfHubHTTPError: 0.34 gives up on 429 with requests' own error.
    response = getattr(cause, "response", None)  # one of requests is false if it is an error
    return response.status_code if response is not None else None


def _retry_after(cause: Exception) -> float:
    response = getattr(cause, "response", None)
    seconds = response.headers.get("Retry-After", "") if response is not None else ""
    return float(seconds) if seconds.isdigit() else 0.0


def _space(needed: int, folder: Path | None) -> str:
    if folder is None:
        return ""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free
    return f"{needed / 1e6:.0f} MB are to be written to {folder}, {free / 1e6:.0f} MB are free: "
