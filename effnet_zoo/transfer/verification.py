"""Compare the ledger with the files on this machine, or with the Hub."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HTTPError

from effnet_zoo import atomic_io
from effnet_zoo.checkpoints import hub, locate
from effnet_zoo.checkpoints.cache import CachedFile, LocalFile, Pin
from effnet_zoo.errors import EffnetZooError, HubError
from effnet_zoo.zoo.ledger import Checkpoint

STATES = {
    "ok": "as declared or recorded",
    "new": "nothing declared yet",
    "absent": "not on this machine",
    "wrong": "another file",
    "failed": "could not be checked",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What was found for one checkpoint.

    Attributes:
        checkpoint: The ledger's entry.
        state: A key of `STATES`.
        detail: An explanation for people.
        pin: The commit and the SHA-256 that were found.
    """

    checkpoint: Checkpoint
    state: str
    detail: str
    pin: Pin | None = None

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return self.state in ("ok", "new", "absent")


def needs_pin(checkpoint: Checkpoint) -> bool:
    """Return whether the ledger does not yet state the checkpoint's commit and SHA-256."""
    return checkpoint.revision is None or checkpoint.sha256 is None


def against_cache(checkpoints: Iterable[Checkpoint], cache_dir: str | Path | None = None) -> Iterator[Verdict]:
    """Hash the file of each checkpoint on this machine. Nothing is downloaded or removed."""
    return _verdicts(checkpoints, lambda checkpoint: _in_cache(checkpoint, cache_dir))


def against_hub(checkpoints: Iterable[Checkpoint]) -> Iterator[Verdict]:
    """Ask the Hub for the commit and the hash of each checkpoint. No weights are downloaded."""
    api = HfApi()
    return _verdicts(checkpoints, lambda checkpoint: _on_the_hub(api, checkpoint))


def _verdicts(checkpoints: Iterable[Checkpoint], judge: Callable[[Checkpoint], Verdict]) -> Iterator[Verdict]:
    for checkpoint in checkpoints:
        try:
            yield judge(checkpoint)
        except EffnetZooError as error:
            yield Verdict(checkpoint=checkpoint, state="failed", detail=str(error))


def _in_cache(checkpoint: Checkpoint, cache_dir: str | Path | None) -> Verdict:
    source = locate.of_checkpoint(checkpoint)
    file = source if isinstance(source, LocalFile) else CachedFile(source, cache_dir).find()
    if file is None:
        return Verdict(checkpoint=checkpoint, state="absent", detail="fetch it with `effnet-zoo pull`")
    path, pin = file.path, file.pin
    found = Pin(revision=pin.revision, sha256=atomic_io.sha256(path))
    if pin.sha256 is None:
        return Verdict(checkpoint=checkpoint, state="new", detail=f"sha256 {found.sha256}", pin=found)
    if found.sha256 != pin.sha256:
        return _wrong(checkpoint, str(path), pin.sha256, found)
    return Verdict(checkpoint=checkpoint, state="ok", detail=str(path), pin=found)


def _on_the_hub(api: HfApi, checkpoint: Checkpoint) -> Verdict:
    if checkpoint.shipped:
        return Verdict(checkpoint=checkpoint, state="ok", detail=f"not on the Hub: {checkpoint.origin}")
    assert checkpoint.hub_id is not None
    hub_id, revision = checkpoint.hub_id, checkpoint.revision
    try:
        info = hub.retrying(lambda: api.model_info(hub_id, revision=revision, files_metadata=True, timeout=30))
    except (HTTPError, OSError) as error:
        raise HubError(hub.explain(error, constants.ENDPOINT)) from error
    file = next((file for file in info.siblings or [] if file.rfilename == locate.FILENAME), None)
    if file is None or file.lfs is None:
        raise HubError(f"{hub_id} has no {locate.FILENAME}, or not as a large file")
    found = Pin(revision=info.sha, sha256=file.lfs.sha256)
    if checkpoint.sha256 not in (None, found.sha256):
        return _wrong(checkpoint, f"{hub_id}@{found.revision}", checkpoint.sha256, found)
    if needs_pin(checkpoint):
        return Verdict(checkpoint=checkpoint, state="new", detail=f"{found.revision}, sha256 {found.sha256}", pin=found)
    return Verdict(checkpoint=checkpoint, state="ok", detail=f"{found.revision}", pin=found)


def _wrong(checkpoint: Checkpoint, place: str, expected: str | None, found: Pin) -> Verdict:
    detail = f"{place}: expected sha256 {expected}, got {found.sha256}"
    return Verdict(checkpoint=checkpoint, state="wrong", detail=detail, pin=found)
