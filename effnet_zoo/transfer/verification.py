"""Compare the ledger with the files on this machine or with the Hub, and write the pins that it lacks."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from effnet_zoo import atomic_io
from effnet_zoo.checkpoints import cache, locate
from effnet_zoo.checkpoints.cache import CachedFile, LocalFile, Pin
from effnet_zoo.errors import EffnetZooError, HubError, LedgerError
from effnet_zoo.transfer.branch import Branch
from effnet_zoo.zoo.ledger import Checkpoint

STATES = {
    "ok": "as declared or recorded",
    "new": "nothing declared yet",
    "absent": "not on this machine",
    "wrong": "another file",
    "failed": "could not be checked",
}

ENTRY = re.compile(r'\[(?P<name>[\w.-]+)\]\nhub_id = "[^"]*"\n')
"""The beginning of an entry of the ledger, which its pins follow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The finding for one checkpoint: a key of `STATES`, an explanation, and the commit and SHA-256 of its file."""

    checkpoint: Checkpoint
    state: str
    detail: str
    pin: Pin | None = None

    @property
    def passed(self) -> bool:
        return self.state in ("ok", "new", "absent")


def verify(checkpoints: Iterable[Checkpoint], *, remote: bool) -> Iterator[Verdict]:
    """Hash the file of each checkpoint on this machine, or ask the Hub for its hash. Download and remove nothing."""
    for checkpoint in checkpoints:
        try:
            yield _on_the_hub(checkpoint) if remote else _in_cache(checkpoint)
        except EffnetZooError as error:
            yield Verdict(checkpoint=checkpoint, state="failed", detail=str(error))


def _in_cache(checkpoint: Checkpoint) -> Verdict:
    source = locate.of_checkpoint(checkpoint)
    file = source if isinstance(source, LocalFile) else CachedFile(source).find()
    if file is None:
        return Verdict(checkpoint=checkpoint, state="absent", detail="fetch it with `effnet-zoo pull`")
    expected, found = file.pin.sha256, Pin(revision=file.pin.revision, sha256=atomic_io.sha256(file.path))
    return _judged(checkpoint, str(file.path), expected, found, is_new=expected is None)


def _on_the_hub(checkpoint: Checkpoint) -> Verdict:
    if checkpoint.shipped:
        return Verdict(checkpoint=checkpoint, state="ok", detail=f"not on the Hub: {checkpoint.origin}")
    assert checkpoint.hub_id is not None
    branch = Branch(checkpoint.hub_id, checkpoint.revision).state()
    if branch.missing and branch.commit:  # the main branch's: the repository is there
        raise HubError(f"{checkpoint.hub_id}: the repository has no such revision: {checkpoint.revision}")
    if branch.missing:
        advice = "check the name, or log in with `hf auth login`"
        raise HubError(f"{checkpoint.hub_id}: no such repository, or a private one: {advice}")
    found = Pin(revision=branch.commit, sha256=branch.hashes.get(locate.WEIGHT_FILE))
    if found.sha256 is None or not cache.is_sha256(found.sha256):
        raise HubError(f"{checkpoint.hub_id} has no {locate.WEIGHT_FILE}, or not as a large file")
    return _judged(
        checkpoint, f"{checkpoint.hub_id}@{branch.commit}", checkpoint.sha256, found, is_new=_needs_pin(checkpoint)
    )


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
    missing: dict[str, str] = {}
    for verdict in verdicts:
        entry, pin = verdict.checkpoint, verdict.pin
        if verdict.passed and pin and pin.revision and not entry.shipped and _needs_pin(entry):
            missing[entry.name] = "" if entry.revision else f'revision = "{pin.revision}"\n'
            missing[entry.name] += "" if entry.sha256 else f'sha256 = "{pin.sha256}"\n'
    written: list[str] = []

    def pinned(match: re.Match[str]) -> str:
        if match["name"] not in missing:
            return match[0]
        written.append(match["name"])
        return match[0] + missing[match["name"]]

    for path in sorted(folder.glob("*.toml")):
        before = atomic_io.read_text(path)
        if (text := ENTRY.sub(pinned, before)) != before:
            atomic_io.write_text(path, text)
    if lost := sorted(missing.keys() - written):
        raise LedgerError(f"{folder}: no entry [{lost[0]}] to pin: expected the ledger that this package reads")
    return written
