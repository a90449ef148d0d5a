"""Files from a Hugging Face Hub or a mirror of it into the cache, each verified before it is handed on.

The client is huggingface_hub. It checks a file's size and never its hash.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, OfflineModeIsEnabled

from effnet_zoo.atomic_io import explained, file_errors, scratch_beside, user_path
from effnet_zoo.checkpoints import cache
from effnet_zoo.checkpoints.cache import LocalFile, Pin, RemoteFile, WrongFileError, is_sha256, repository_folder
from effnet_zoo.checkpoints.hub import cause_of, explain, retrying, without_password
from effnet_zoo.errors import FileError, HubError, MissingFileError

CONNECT = 4.0
"""Seconds to wait for a connection. Behind a firewall that drops everything, none ever comes."""

MIRRORS = "EFFNET_ZOO_MIRRORS"
"""The environment variable that lists other endpoints and local folders, in the order they are asked before the Hub."""


@dataclass(frozen=True, slots=True)
class _Request:
    """A file to fetch from one place.

    Attributes:
        file: The file.
        pin: The commit and the SHA-256 that it must have, where they are known.
        stated_by: Who states the SHA-256; None if nobody does.
        place: The address of a Hub, or a folder.
    """

    file: RemoteFile
    pin: Pin
    stated_by: str | None
    place: str


def fetch(
    file: RemoteFile, cache_dir: str | Path | None = None, *, instead_of: LocalFile | None = None
) -> tuple[Path, Pin]:
    """Fetch a file from the first mirror that has the right one, or from the Hub.

    What is in the cache is never removed before there is a right file to take its place.

    Args:
        file: What to fetch. Where its commit or SHA-256 is not known, the lock file's are enforced, and where there is
            no lock file yet, the SHA-256 that the server states.
        cache_dir: See `cache_folder`.
        instead_of: The file in the cache that was found to be wrong, if there is one.

    Returns:
        The path, and what the file is.

    Raises:
        HubError: If no place has the right file. The message names the file, what each place answered, and how to
            bring the file by hand.
        MissingFileError: If every place answered that it has no such file.
    """
    folder = cache.cache_folder(cache_dir)
    pin = cache.expected_pin(file, folder)
    stated_by = cache.stated_by(file, folder) if pin.sha256 else None
    mirrors = [place for part in os.environ.get(MIRRORS, "").split(",") if (place := part.strip().rstrip("/"))]
    failures: list[HubError] = []
    for place in (*mirrors, constants.ENDPOINT):
        try:
            if place.startswith(("http://", "https://")):
                return _from_hub(_Request(file, pin, stated_by, place), folder, instead_of)
            found = _from_folder(_Request(file, pin, stated_by, str(user_path(place, MIRRORS))))
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


def _from_folder(request: _Request) -> tuple[Path, Pin]:
    path = Path(request.place) / request.file.repository / request.file.filename
    try:
        with file_errors(path):
            exists = path.is_file()
    except FileError as error:
        raise HubError(str(error)) from None
    if not exists:
        raise MissingFileError(f"{path}: there is no such file")
    return path, LocalFile(path=path, pin=request.pin, stated_by=request.stated_by or "nobody").verified()


def _from_hub(request: _Request, folder: Path, instead_of: LocalFile | None) -> tuple[Path, Pin]:
    """Fetch a file into the cache, and once more if it is wrong: a proxy may have changed it, or a bit have flipped."""
    if instead_of is not None:
        return _replaced(request, folder, instead_of)
    found, is_new = _downloaded(request, folder)
    try:
        return found.path, found.verified()
    except WrongFileError:
        try:
            return _replaced(request, folder, found)
        except HubError:
            if is_new:
                _remove(found.path)
            raise


def _replaced(request: _Request, folder: Path, wrong: LocalFile) -> tuple[Path, Pin]:
    """Fetch a file into a folder of its own, and put it in the place of a wrong one if it is right."""
    request = replace(request, pin=wrong.pin, stated_by=wrong.stated_by)
    try:
        with scratch_beside(repository_folder(request.file, folder)) as scratch:
            found, _ = _downloaded(request, scratch)
            try:
                pin = found.verified()
            except WrongFileError as error:
                place = without_password(request.place)
                reason = str(error).removeprefix(f"{found.path} is ")
                raise WrongFileError(f"{place}: downloaded twice, both times {reason}") from None
            with file_errors(wrong.path):
                os.replace(found.path.resolve(), wrong.path.resolve())
    except FileError as error:
        raise HubError(f"{error}: {wrong.path} is not the expected file, and was left there") from None
    return wrong.path, pin


def _downloaded(request: _Request, folder: Path) -> tuple[LocalFile, bool]:
    """Fetch a file into a cache, and return whether the cache did not have its content before."""
    file, pin, place = request.file, request.pin, request.place
    token = None if place == constants.ENDPOINT else False  # a mirror never sees the Hub's token
    # To connect, and to read: the HTTP library takes two, where the client's annotation knows of one.
    timeout: Any = (min(CONNECT, constants.HF_HUB_ETAG_TIMEOUT), constants.HF_HUB_ETAG_TIMEOUT)
    size, is_new = 0, True

    def attempt() -> LocalFile:
        nonlocal size, is_new
        url = hf_hub_url(file.repository, file.filename, revision=pin.revision, endpoint=place)
        head = get_hf_file_metadata(url, token=token, timeout=timeout)
        if head.commit_hash is None or head.etag is None:
            raise HubError(
                f"{without_password(place)}: this is not a Hub's answer: check the address, and for a proxy's login"
            )
        size = head.size or 0
        repository = repository_folder(file, folder)
        kept = (repository / "blobs" / head.etag, repository / "snapshots" / head.commit_hash / file.filename)
        is_new = is_new and not any(path.exists() for path in kept)
        path = hf_hub_download(
            file.repository,
            file.filename,
            revision=head.commit_hash,
            cache_dir=folder,
            endpoint=place,
            token=token,
        )
        stated = head.etag if is_sha256(head.etag) else None
        return LocalFile(
            path=Path(path),
            pin=Pin(revision=head.commit_hash, sha256=pin.sha256 or stated),
            stated_by=request.stated_by or without_password(place),
        )

    try:
        if constants.HF_HUB_OFFLINE:
            raise OfflineModeIsEnabled
        return retrying(attempt), is_new
    except HubError:
        raise
    except Exception as error:  # the client has many, its HTTP library's and its storage's among them
        cause = cause_of(error)
        missing = isinstance(cause, EntryNotFoundError) and not isinstance(cause, LocalEntryNotFoundError)
        reason = explain(error, place, needed=size, folder=folder)
        raise (MissingFileError if missing else HubError)(reason) from error


def _remove(path: Path) -> None:
    """Remove a wrong file from the cache: its entry, and the content that the entry points to."""
    content = path.resolve()
    try:
        path.unlink(missing_ok=True)
        content.unlink(missing_ok=True)
    except OSError as error:
        raise HubError(f"{explained(error, path)}: {path} is not the expected file: remove it") from None
