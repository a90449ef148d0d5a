"""The cache of fetched files, and what each file in it must be. Nothing here makes a request.

The folders are those of huggingface_hub (``models--OWNER--NAME/refs``, ``blobs`` and ``snapshots/COMMIT``; its guide
"Understand caching"), so that both packages use one cache. They are read here without the client's own functions:
importing its HTTP library takes longer than loading a small model.
"""

import json
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import msgspec
from huggingface_hub import constants

from effnet_zoo import atomic_io
from effnet_zoo.atomic_io import file_errors, read_text, user_path, write_text
from effnet_zoo.documents import from_json
from effnet_zoo.errors import FileError, HubError, first_line, quoted

HOME = "EFFNET_ZOO_HOME"
"""The environment variable that names the folder of this package's cache."""

_REPOSITORY = re.compile(r"(\b[\w.-]+\b/)?\b[\w.-]{1,96}\b", re.ASCII)
"""A repository's name, as huggingface_hub checks it (utils/_validators.py)."""

_SHA256 = "[0-9a-f]{64}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """A file of a repository ``owner/name``.

    Attributes:
        filename: The file's path in the repository.
        revision: Branch, tag or commit; None for the main branch.
        sha256: The SHA-256 that the ledger states, if it states one.
    """

    repository: str
    filename: str
    revision: str | None = None
    sha256: str | None = None

    def __post_init__(self) -> None:
        name = self.repository
        if not _REPOSITORY.fullmatch(name) or "--" in name or ".." in name or name.endswith(".git"):
            raise HubError(f"{quoted(name)} is not a repository's name: expected owner/name")

    def __str__(self) -> str:
        return f"{self.filename} of {self.repository} (revision {self.revision or 'main'})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """The commit of a file and the SHA-256 of its content; None where they are not known.

    Attributes:
        stated_by: The ledger, a lock file, a server or another place that states the SHA-256, in words.
    """

    revision: str | None
    sha256: str | None
    stated_by: str = field(default="the ledger", compare=False)


class _Lock(msgspec.Struct):
    """The content of a lock file."""

    revision: str | None
    sha256: Annotated[str, msgspec.Meta(pattern=f"^{_SHA256}$")]


class WrongFileError(HubError):
    """A file that exists, and is not the expected one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalFile:
    """A file on this machine, and what it must be."""

    path: Path
    pin: Pin

    def verified(self) -> "LocalFile":
        """Return the file with the SHA-256 that it has, after reading all of it. Raise WrongFileError if it is another.

        If no SHA-256 is expected, the file must not be damaged, as far as its format shows that.
        """
        with hub_errors(self.path):
            found = atomic_io.sha256(self.path)
        if self.pin.sha256 is None:
            self._check_structure()
        elif self.pin.sha256 != found:
            wrong = f"{self.path} is not the file that {self.pin.stated_by} names"
            raise WrongFileError(f"{wrong}: expected sha256 {self.pin.sha256}, got {found}")
        return replace(self, pin=replace(self.pin, sha256=found))

    def _check_structure(self) -> None:
        from safetensors import SafetensorError, safe_open

        try:
            if self.path.suffix == ".safetensors":
                safe_open(self.path, framework="pt")  # reads the header, and compares it with the size of the file
            elif self.path.suffix == ".json":
                from_json(read_text(self.path), dict[str, Any], self.path.name, WrongFileError)
        except (SafetensorError, FileError, WrongFileError) as error:
            raise WrongFileError(f"{self.path} is damaged: {first_line(error)}") from None


def cache_folder(cache_dir: str | Path | None = None) -> Path:
    """Return where fetched files are kept: `cache_dir`, ``$EFFNET_ZOO_HOME/hub``, or huggingface_hub's own cache."""
    if cache_dir is not None:
        return Path(cache_dir)
    if home := os.environ.get(HOME):
        return user_path(home, HOME) / "hub"
    return Path(constants.HF_HUB_CACHE)


class CachedFile:
    """A file of a repository and its place in the cache.

    Attributes:
        folder: The folder of its repository.
        lock: Its lock file.
    """

    def __init__(self, file: RemoteFile, cache_dir: str | Path | None = None) -> None:
        self.file = file
        self.folder = cache_folder(cache_dir) / f"models--{file.repository.replace('/', '--')}"
        name = f"{file.revision or 'main'}--{file.filename}.json".replace("/", "--")
        self.lock = self.folder / "effnet-zoo" / name

    def expected(self) -> Pin:
        """Return what the file must be: what the ledger states, or the lock file where the ledger states nothing."""
        file = self.file
        if not os.path.lexists(self.lock):
            return Pin(revision=file.revision, sha256=file.sha256)
        try:
            lock = from_json(read_text(self.lock), _Lock, f"{self.lock} is damaged", HubError)
        except (FileError, HubError) as error:
            advice = f"delete it to record {file} anew, or set {HOME} to another folder"
            raise HubError(f"{error}: expected a commit and a sha256 in JSON; {advice}") from None
        pin = Pin(revision=lock.revision or file.revision, sha256=file.sha256)
        return pin if pin.sha256 else replace(pin, sha256=lock.sha256, stated_by=f"the lock file {self.lock}")

    def record(self, pin: Pin) -> None:
        """Write the lock file: from now on, the file must be what it was when it was first fetched.

        If it cannot be written, as in a cache that is read-only, this warns.
        """
        try:
            write_text(self.lock, json.dumps({"revision": pin.revision, "sha256": pin.sha256}) + "\n")
        except FileError as error:
            warnings.warn(f"{error}: {self.file} is not checked against this content next time", stacklevel=3)

    def find(self) -> LocalFile | None:
        """Return the file and what it must be, or None if it is not in the cache.

        If neither the ledger nor a lock file states its SHA-256, because another program fetched the file, the name of
        its content does: huggingface_hub names the content of a large file by the SHA-256 that the Hub stated.
        """
        pin = self.expected()
        revision = pin.revision or "main"
        with hub_errors(self.folder):
            reference, snapshots = self.folder / "refs" / revision, self.folder / "snapshots"
            commit = reference.read_text(encoding="utf-8").strip() if reference.is_file() else revision
            # Only folders that are there: a revision may be any text, such as "..".
            known = os.listdir(snapshots) if snapshots.is_dir() else []
            path = snapshots / commit / self.file.filename
            if commit not in known or not path.is_file():
                return None
            content = path.resolve().name
        pin = replace(pin, revision=commit)
        if pin.sha256 is None and is_sha256(content):
            pin = Pin(revision=commit, sha256=content, stated_by="the name that the client gave its content")
        return LocalFile(path=path, pin=pin)


def is_sha256(text: str) -> bool:
    """Return whether a text is a SHA-256 in hex."""
    return re.fullmatch(_SHA256, text) is not None


@contextmanager
def hub_errors(path: Path) -> Iterator[None]:
    """Turn an OSError inside the block into a `HubError`. `path` is named if the error names no file."""
    try:
        with file_errors(path):
            yield
    except FileError as error:
        raise HubError(str(error)) from None
