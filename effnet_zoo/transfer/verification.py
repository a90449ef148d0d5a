"""The ledger against the cache or against the Hub, and its missing pins filled in."""

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
    "failed": "cannot be told",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What was found of one checkpoint.

    Attributes:
        checkpoint: Of the ledger.
        state: A key of `STATES`.
        detail: In words.
        pin: The commit and the hash that were found, where there are.
    """

    checkpoint: Checkpoint
    state: str
    detail: str
    pin: Pin | None = None

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return self.state in ("ok", "new", "absent")


def against_cache(checkpoints: Iterable[Checkpoint], cache_dir: str | Path | None = None) -> Iterator[Verdict]:
    """Hash each checkpoint's file on this machine; nothing is requested, and nothing removed."""
    for checkpoint in checkpoints:
        try:
            yield _on_this_machine(checkpoint, cache_dir)
        except EffnetZooError as error:
            yield Verdict(checkpoint=checkpoint, state="failed", detail=str(error))


def _on_this_machine(checkpoint: Checkpoint, cache_dir: str | Path | None) -> Verdict:
    if checkpoint.shipped:
        path, pin = locate.of_checkpoint(checkpoint).path, Pin(revision=None, sha256=checkpoint.sha256)
        assert path is not None
    else:
        found = cache.find_cached(locate.remote_file(checkpoint), cache_dir)
        if found is None:
            return Verdict(checkpoint=checkpoint, state="absent", detail="fetch it with `effnet-zoo pull`")
        path, pin = found.path, found.pin
    got = atomic_io.sha256(path)
    found_pin = Pin(revision=pin.revision, sha256=got)
    if pin.sha256 is None:
        return Verdict(checkpoint=checkpoint, state="new", detail=f"sha256 {got}", pin=found_pin)
    if got != pin.sha256:
        detail = f"{path}: expected sha256 {pin.sha256}, got {got}"
        return Verdict(checkpoint=checkpoint, state="wrong", detail=detail, pin=found_pin)
    return Verdict(checkpoint=checkpoint, state="ok", detail=str(path), pin=found_pin)


def against_hub(checkpoints: Iterable[Checkpoint]) -> Iterator[Verdict]:
    """Ask the Hub for each checkpoint's commit and hash; no weights are downloaded."""
    api = HfApi()
    for checkpoint in checkpoints:
        if checkpoint.shipped:
            yield Verdict(checkpoint=checkpoint, state="ok", detail=f"not on the Hub: {checkpoint.origin}")
            continue
        try:
            yield _on_the_hub(api, checkpoint)
        except (HTTPError, OSError) as error:
            yield Verdict(checkpoint=checkpoint, state="failed", detail=hub.explain(error, constants.ENDPOINT))
        except HubError as error:
            yield Verdict(checkpoint=checkpoint, state="failed", detail=str(error))


def _on_the_hub(api: HfApi, checkpoint: Checkpoint) -> Verdict:
    assert checkpoint.hub_id is not None
    hub_id = checkpoint.hub_id
    info = hub.retrying(lambda: api.model_info(hub_id, revision=checkpoint.revision, files_metadata=True, timeout=30))
    file = next((file for file in info.siblings or [] if file.rfilename == locate.FILENAME), None)
    if file is None or file.lfs is None:
        raise HubError(f"{hub_id} has no {locate.FILENAME}, or not as a large file")
    pin = Pin(revision=info.sha, sha256=file.lfs.sha256)
    if checkpoint.sha256 not in (None, pin.sha256):
        detail = f"{hub_id}@{pin.revision}: expected sha256 {checkpoint.sha256}, got {pin.sha256}"
        return Verdict(checkpoint=checkpoint, state="wrong", detail=detail, pin=pin)
    if _needs_pin(checkpoint):
        return Verdict(checkpoint=checkpoint, state="new", detail=f"{pin.revision}, sha256 {pin.sha256}", pin=pin)
    return Verdict(checkpoint=checkpoint, state="ok", detail=f"{pin.revision}", pin=pin)


def write_pins(verdicts: Iterable[Verdict], folder: Path) -> list[str]:
    """Fill the missing ``revision`` and ``sha256`` of ledger entries in; what is there is never changed.

    Args:
        verdicts: Those in state ``new`` or ``ok`` with a pin are written.
        folder: The ledger's.

    Returns:
        The names of the entries that were filled in.

    Raises:
        LedgerError: If an entry is not where it should be.
    """
    pins = {
        verdict.checkpoint.name: verdict
        for verdict in verdicts
        if verdict.passed and verdict.pin and verdict.pin.revision and not verdict.checkpoint.shipped
    }
    written: list[str] = []
    for path in sorted(folder.glob("*.toml")):
        before = text = atomic_io.read_text(path)
        for name, verdict in pins.items():
            if f"[{name}]\n" in text:
                text, changed = _pinned(text, verdict)
                written += [name] if changed else []
        if text != before:
            atomic_io.write_text(path, text)
    if lost := sorted(name for name in pins if name not in written and _needs_pin(pins[name].checkpoint)):
        raise LedgerError(f"{folder}: no entry [{lost[0]}] to pin: expected the ledger that this package reads")
    return written


def _needs_pin(checkpoint: Checkpoint) -> bool:
    return checkpoint.revision is None or checkpoint.sha256 is None


def _pinned(text: str, verdict: Verdict) -> tuple[str, bool]:
    """A ledger file with an entry's missing pins below its hub_id."""
    assert verdict.pin is not None
    checkpoint = verdict.checkpoint
    lines = [
        f'{key} = "{value}"'
        for key, declared, value in (
            ("revision", checkpoint.revision, verdict.pin.revision),
            ("sha256", checkpoint.sha256, verdict.pin.sha256),
        )
        if declared is None
    ]
    entry = re.compile(rf'(\[{re.escape(checkpoint.name)}\]\nhub_id = "[^"]*"\n)')
    new = entry.sub(lambda match: match[1] + "".join(f"{line}\n" for line in lines), text)
    return new, new != text
