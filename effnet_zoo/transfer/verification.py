"""Compare the ledger with the files on this machine or with the Hub, and write the pins that it lacks."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HTTPError

from effnet_zoo import atomic_io
from effnet_zoo.checkpoints import cache, hub, locate
from effnet_zoo.checkpoints.cache import Pin
from effnet_zoo.errors import EffnetZooError, HubError, LedgerError
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


def verify(checkpoints: Iterable[Checkpoint], *, remote: bool) -> Iterator[Verdict]:
    """Hash the file of each checkpoint on this machine, or ask the Hub for its hash. Download and remove nothing."""
    for checkpoint in checkpoints:
        try:
            yield _on_the_hub(checkpoint) if remote else _in_cache(checkpoint)
        except EffnetZooError as error:
            yield Verdict(checkpoint=checkpoint, state="failed", detail=str(error))


def _in_cache(checkpoint: Checkpoint) -> Verdict:
    if checkpoint.shipped:
        path, pin = locate.of_checkpoint(checkpoint).path, Pin(revision=None, sha256=checkpoint.sha256)
        assert path is not None
    else:
        cached = cache.find_cached(locate.remote_file(checkpoint))
        if cached is None:
            return Verdict(checkpoint=checkpoint, state="absent", detail="fetch it with `effnet-zoo pull`")
        path, pin = cached.path, cached.pin
    found = Pin(revision=pin.revision, sha256=atomic_io.sha256(path))
    return _judged(checkpoint, str(path), pin.sha256, found, is_new=pin.sha256 is None)


def _on_the_hub(checkpoint: Checkpoint) -> Verdict:
    if checkpoint.shipped:
        return Verdict(checkpoint=checkpoint, state="ok", detail=f"not on the Hub: {checkpoint.origin}")
    assert checkpoint.hub_id is not None
    hub_id, revision = checkpoint.hub_id, checkpoint.revision
    try:
        info = hub.retrying(lambda: HfApi().model_info(hub_id, revision=revision, files_metadata=True, timeout=30))
    except (HTTPError, OSError) as error:
        raise HubError(hub.explain(error, constants.ENDPOINT)) from error
    file = next((file for file in info.siblings or [] if file.rfilename == locate.FILENAME), None)
    if file is None or file.lfs is None:
        raise HubError(f"{hub_id} has no {locate.FILENAME}, or not as a large file")
    found = Pin(revision=info.sha, sha256=file.lfs.sha256)
    return _judged(checkpoint, f"{hub_id}@{info.sha}", checkpoint.sha256, found, is_new=_needs_pin(checkpoint))


def _judged(checkpoint: Checkpoint, place: str, expected: str | None, found: Pin, *, is_new: bool) -> Verdict:
    if expected not in (None, found.sha256):
        state, detail = "wrong", f"{place}: expected sha256 {expected}, got {found.sha256}"
    elif is_new:
        state, detail = "new", f"{place}: sha256 {found.sha256}"
    else:
        state, detail = "ok", place
    return Verdict(checkpoint=checkpoint, state=state, detail=detail, pin=found)


def _needs_pin(checkpoint: Checkpoint) -> bool:
    return checkpoint.revision is None or checkpoint.sha256 is None


def write_pins(verdicts: Iterable[Verdict], folder: Path) -> list[str]:
    """Write missing revisions and SHA-256 hashes into the ledger's folder. Return the names of the changed entries."""
    pinned = {
        verdict.checkpoint.name: verdict
        for verdict in verdicts
        if verdict.passed and verdict.pin and verdict.pin.revision and not verdict.checkpoint.shipped
    }
    written: list[str] = []
    for path in sorted(folder.glob("*.toml")):
        before = text = atomic_io.read_text(path)
        for name, verdict in pinned.items():
            new = _with_pin(text, verdict)
            written += [name] if new != text else []
            text = new
        if text != before:
            atomic_io.write_text(path, text)
    if lost := sorted(name for name in pinned if name not in written and _needs_pin(pinned[name].checkpoint)):
        raise LedgerError(f"{folder}: no entry [{lost[0]}] to pin: expected the ledger that this package reads")
    return written


def _with_pin(text: str, verdict: Verdict) -> str:
    """Return a ledger's text with the missing pins of an entry, below its hub_id."""
    checkpoint, pin = verdict.checkpoint, verdict.pin
    assert pin is not None
    lines = "" if checkpoint.revision else f'revision = "{pin.revision}"\n'
    lines += "" if checkpoint.sha256 else f'sha256 = "{pin.sha256}"\n'
    entry = re.compile(rf'(\[{re.escape(checkpoint.name)}\]\nhub_id = "[^"]*"\n)')
    return entry.sub(lambda match: match[1] + lines, text)
