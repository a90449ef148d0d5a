"""Files from a Hugging Face Hub or a mirror of it into the cache, each verified before it is handed on.

The client is huggingface_hub. It checks a file's size and never its hash.
"""

import os
from pathlib import Path
from typing import Any

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, OfflineModeIsEnabled

from effnet_zoo.atomic_io import explained, file_errors, scratch_beside, user_path
from effnet_zoo.checkpoints import cache, hub
from effnet_zoo.checkpoints.cache import LocalFile, Pin, RemoteFile, WrongFileError
from effnet_zoo.errors import FileError, HubError, MissingFileError

CONNECT = 4.0
"""Seconds to wait for a connection. Behind a firewall that drops everything, none ever comes."""

MIRRORS = "EFFNET_ZOO_MIRRORS"
"""The environment variable that lists other endpoints and local folders, in the order they are asked before the Hub."""


def fetch(file: RemoteFile, cache_dir: str | Path | None = None, *, instead_of: LocalFile | None = None) -> LocalFile:
    """Return a verified file from the first mirror that has the right one, or from the Hub.

    If neither the ledger nor a lock file states its SHA-256, it must have the one that the server states. A file of the
    cache is never removed before there is a right file to take its place.

    Args:
        file: The file to fetch.
        cache_dir: See `cache_folder`.
        instead_of: The file in the cache that was found to be wrong, if there is one.

    Raises:
        HubError: If no place has the right file. The message names the file, what each place answered, and how to
            bring the file by hand.
        MissingFileError: If every place answered that it has no such file.
    """
    folder, pin = cache.cache_folder(cache_dir), cache.expected_pin(file, cache_dir)
    mirrors = [place for part in os.environ.get(MIRRORS, "").split(",") if (place := part.strip().rstrip("/"))]
    failures: list[HubError] = []
    for place in (*mirrors, constants.ENDPOINT):
        try:
            if place.startswith(("http://", "https://")):
                return _from_hub(file, pin, place, folder, instead_of)
            found = _from_folder(file, pin, user_path(place, MIRRORS))
            if instead_of is not None:
                _remove(instead_of.path)
            return found
        except HubError as error:
            failures.append(error)
    url = hub.without_password(hf_hub_url(file.repository, file.filename, revision=pin.revision))
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


def _from_hub(file: RemoteFile, pin: Pin, place: str, folder: Path, instead_of: LocalFile | None) -> LocalFile:
    """Fetch a file into the cache, and once more if it is wrong: a proxy may have changed it, or a bit have flipped."""
    if instead_of is not None:
        return _replaced(file, place, folder, instead_of)
    found, is_new = _downloaded(file, pin, place, folder)
    try:
        return found.verified()
    except WrongFileError:
        try:
            return _replaced(file, place, folder, found)
        except HubError:
            if is_new:
                _remove(found.path)
            raise


def _replaced(file: RemoteFile, place: str, folder: Path, wrong: LocalFile) -> LocalFile:
    """Fetch a file into a folder of its own, and put it in the place of a wrong one if it is right."""
    try:
        with scratch_beside(cache.repository_folder(file, folder)) as scratch:
            found, _ = _downloaded(file, wrong.pin, place, scratch)
            try:
                pin = found.verified().pin
            except WrongFileError as error:
                reason = str(error).removeprefix(f"{found.path} is ")
                raise WrongFileError(f"{hub.without_password(place)}: downloaded twice, both times {reason}") from None
            with file_errors(wrong.path):
                os.replace(found.path.resolve(), wrong.path.resolve())
    except FileError as error:
        raise HubError(f"{error}: {wrong.path} is not the expected file, and was left there") from None
    return LocalFile(path=wrong.path, pin=pin)


def _downloaded(file: RemoteFile, pin: Pin, place: str, folder: Path) -> tuple[LocalFile, bool]:
    """Fetch a file into a cache, and return whether the cache did not have its content before."""
    token = None if place == constants.ENDPOINT else False  # a mirror never sees the Hub's token
    # To connect, and to read: the HTTP library takes two, where the client's annotation knows of one.
    timeout: Any = (min(CONNECT, constants.HF_HUB_ETAG_TIMEOUT), constants.HF_HUB_ETAG_TIMEOUT)
    size = 0
    try:
        if constants.HF_HUB_OFFLINE:
            raise OfflineModeIsEnabled
        url = hf_hub_url(file.repository, file.filename, revision=pin.revision, endpoint=place)
        head = hub.retrying(lambda: get_hf_file_metadata(url, token=token, timeout=timeout))
        commit, etag, size = head.commit_hash, head.etag, head.size or 0
        if commit is None or etag is None:
            raise HubError(
                f"{hub.without_password(place)}: this is not a Hub's answer: check the address, and for a proxy's login"
            )
        repository = cache.repository_folder(file, folder)
        kept = (repository / "blobs" / etag, repository / "snapshots" / commit / file.filename)
        is_new = not any(path.exists() for path in kept)
        path = hub.retrying(
            lambda: hf_hub_download(
                file.repository, file.filename, revision=commit, cache_dir=folder, endpoint=place, token=token
            )
        )
    except HubError:
        raise
    except Exception as error:  # the client has many, its HTTP library's and its storage's among them
        cause = hub.cause_of(error)
        missing = isinstance(cause, EntryNotFoundError) and not isinstance(cause, LocalEntryNotFoundError)
        reason = hub.explain(error, place, needed=size, folder=folder)
        raise (MissingFileError if missing else HubError)(reason) from error
    if pin.sha256 is None:
        stated = etag if cache.is_sha256(etag) else None
        pin = Pin(revision=commit, sha256=stated, stated_by=hub.without_password(place))
    return LocalFile(path=Path(path), pin=Pin(revision=commit, sha256=pin.sha256, stated_by=pin.stated_by)), is_new


def _remove(path: Path) -> None:
    """Remove a wrong file from the cache: its entry, and the content that the entry points to."""
    content = path.resolve()
    try:
        path.unlink(missing_ok=True)
        content.unlink(missing_ok=True)
    except OSError as error:
        raise HubError(f"{explained(error, path)}: {path} is not the expected file: remove it") from None
