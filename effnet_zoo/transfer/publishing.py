"""Weights to a Hub repository or a folder: one commit, verified before and after, and nothing lost on the way."""

import dataclasses
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch

from effnet_zoo import atomic_io, registry
from effnet_zoo.checkpoints import config_json, locate
from effnet_zoo.checkpoints.bundle import Bundle, of_model
from effnet_zoo.errors import HubError, InputError, WeightsError
from effnet_zoo.network.model import EfficientNet
from effnet_zoo.network.options import check_path
from effnet_zoo.numerics import relative_error
from effnet_zoo.transfer import card
from effnet_zoo.transfer.branch import STALE, Branch, BranchState, Change, changes_between
from effnet_zoo.transfer.card import Metric
from effnet_zoo.transfer.conversion import Images, with_overrides
from effnet_zoo.transfer.ledger_text import ledger_entry
from effnet_zoo.transfer.proof import random_image
from effnet_zoo.transfer.writing import with_proof_noted
from effnet_zoo.zoo.class_names import checked_labels

STALE_HERE = re.compile(r"(pytorch_|tf_|flax_|open_clip_(pytorch_)?)?model([-.].*)?" + STALE.pattern.removeprefix(".+"))
"""Weight files of earlier pushes to a folder. A file that is removed there is lost: only those that a loader looks for
by their name."""

LOADERS_TOLERANCE = 1e-10
"""Largest relative error between two loaders of one file. Both have the same numbers, and compute in float64."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Push:
    """What a push did, or would do.

    Attributes:
        repo_id: The repository, or the folder.
        changes: File by file.
        readme: The card's text.
        sha256: Of ``model.safetensors``.
        commit: The commit that has it; None for a folder and a dry run.
        pull_request: Its address, if one was opened.
        ledger: The ledger's entry for it; None where there is none.
    """

    repo_id: str
    changes: tuple[Change, ...]
    readme: str
    sha256: str
    commit: str | None = None
    pull_request: str | None = None
    ledger: str | None = None

    @property
    def changed(self) -> bool:
        """Whether anything is new."""
        return any(change.what != "keep" for change in self.changes)


def save(
    what: EfficientNet | Bundle,
    folder: str | Path,
    *,
    license: str | None = None,  # noqa: A002  # what the Hub calls it
    classes: Sequence[str] | None = None,
    images: Images | None = None,
    metrics: Sequence[Metric] = (),
    dry_run: bool = False,
) -> Push:
    """Write weights, ``config.json`` and card to a folder that timm loads with ``local-dir:``.

    What the folder holds besides stays, but for weight files of earlier pushes; each file is replaced whole. Nothing is
    removed from the folder that the weights come from.

    Args:
        what: See `push`.
        folder: Where to.
        license: See `push`.
        classes: See `push`.
        images: See `push`.
        metrics: See `push`.
        dry_run: Only say what would happen.

    Raises:
        ArgumentError: If there is no licence.
        WeightsError: If nobody said how images are prepared, or timm computes something else.
        InputError: If `folder` is a file, or cannot be written to.
    """
    check_path("folder", folder)
    folder = Path(folder)
    with atomic_io.file_errors(folder):
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder}: expected a folder, but this is a file")
    if not dry_run:
        atomic_io.check_destination(folder)
    bundle = _bundle_of(what, license, classes, images)
    with atomic_io.file_errors(folder):
        return _save(bundle, folder, metrics, dry_run=dry_run)


def _save(bundle: Bundle, folder: Path, metrics: Sequence[Metric], *, dry_run: bool) -> Push:
    there = {path.name: path for path in folder.glob("*") if path.is_file()}
    readme = there.get(card.FILENAME)
    existing = card.decode(atomic_io.read_bytes(readme), str(readme)) if readme else None
    address = f"local-dir:{folder if folder.name.strip('.') else folder.resolve()}"
    with _prepared(bundle, address, metrics, existing) as prepared:
        hashes = {name: atomic_io.sha256(path) if (prepared / name).exists() else "" for name, path in there.items()}
        is_source = Path(bundle.source).resolve() in (folder.resolve(), *(path.resolve() for path in there.values()))
        changes = changes_between(prepared, hashes, None if is_source else STALE_HERE)
        if not dry_run:
            with ExitStack() as drafts:  # all are there before the first takes its place
                for change in changes:
                    if change.what in ("add", "update"):
                        draft = drafts.enter_context(atomic_io.written_whole(folder / change.path))
                        shutil.copyfile(prepared / change.path, draft)
            for change in changes:
                if change.what == "delete":
                    there[change.path].unlink()
        return Push(
            repo_id=str(folder),
            changes=changes,
            readme=(prepared / card.FILENAME).read_text(encoding="utf-8"),
            sha256=atomic_io.sha256(prepared / locate.FILENAME),
        )


def push(
    what: EfficientNet | Bundle,
    repo_id: str,
    *,
    license: str | None = None,  # noqa: A002
    classes: Sequence[str] | None = None,
    images: Images | None = None,
    metrics: Sequence[Metric] = (),
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    message: str | None = None,
    dry_run: bool = False,
    token: str | None = None,
) -> Push:
    """Publish weights, ``config.json`` and card in one commit, and check that what the Hub has is what was meant.

    Nothing is committed if the repository has it all already, or if somebody else changed it meanwhile.

    Args:
        what: A model of this bundle's as it is now, or what `effnet_zoo.open_package` has read.
        repo_id: ``owner/name``; created if there is none.
        license: Of the weights, as an SPDX identifier in lower case; required unless it is known. What came with a
            checkpoint, its licence, origin, tag and description, is known as long as its weights are unchanged.
        classes: Class names in the order of the logits; by default those that came with the weights.
        images: How images are prepared, where that did not come with the weights.
        metrics: Figures for the card.
        private: Whether a repository that is created is private.
        revision: The branch, created if there is none; by default the main one.
        create_pr: Open a pull request instead of changing the branch.
        message: Of the commit.
        dry_run: Only say what would happen.
        token: Instead of the one that ``hf auth login`` has stored.

    Raises:
        ArgumentError: If there is no licence.
        WeightsError: If nobody said how images are prepared, or timm computes something else.
        HubError: If the Hub refuses or cannot be reached, or has something else afterwards.
        ConflictError: If somebody else changed the repository meanwhile.
    """
    bundle = _bundle_of(what, license, classes, images)
    branch = Branch(repo_id, revision, token)
    before = branch.state()
    existing = _card_of(branch, before)
    with _prepared(bundle, f"hf-hub:{repo_id}", metrics, existing) as folder:
        done = Push(
            repo_id=repo_id,
            changes=changes_between(folder, before.hashes, STALE),
            readme=(folder / card.FILENAME).read_text(encoding="utf-8"),
            sha256=atomic_io.sha256(folder / locate.FILENAME),
        )
        if dry_run:
            return done
        request = None
        if before.missing:
            branch.create(private=private)
            before = branch.state()
        if done.changed:
            message = message or f"Upload {bundle.variant} with effnet-zoo"
            commit, request = branch.commit(folder, done.changes, before, message, create_pr=create_pr)
        else:
            commit = str(before.commit)
        try:
            _verify(branch, commit, done.sha256, bundle)
        except WeightsError as error:
            raise HubError(
                f"{repo_id}@{commit} is committed, but the check afterwards fails: {error}; push again to check again"
            ) from error
    return dataclasses.replace(
        done, commit=commit, pull_request=request, ledger=ledger_entry(bundle, repo_id, commit, done.sha256)
    )


def _bundle_of(
    what: EfficientNet | Bundle, licence: str | None, classes: Sequence[str] | None, images: Images | None
) -> Bundle:
    """What is to be published, refused now if something is missing."""
    bundle = what if isinstance(what, Bundle) else of_model(what)
    labels = None if classes is None else checked_labels(classes, "classes")
    bundle = with_overrides(bundle, images, labels=labels, licence=licence)
    card.licence_of(bundle)
    return bundle


def _card_of(branch: Branch, state: BranchState) -> str | None:
    if card.FILENAME not in state.hashes:
        return None
    with tempfile.TemporaryDirectory(prefix="effnet-zoo-") as folder:
        path = branch.download(card.FILENAME, str(state.commit), folder)
        return card.decode(atomic_io.read_bytes(path), f"{branch.repo_id}/{card.FILENAME}")


@contextmanager
def _prepared(bundle: Bundle, address: str, metrics: Sequence[Metric], existing: str | None) -> Iterator[Path]:
    """A folder with the three files, which timm alone has loaded and computed the same logits with."""
    bundle = with_proof_noted(bundle)
    text = card.write(bundle, address, metrics, existing)
    with tempfile.TemporaryDirectory(prefix="effnet-zoo-") as name:
        folder = Path(name)
        bundle.write_weights(folder)
        (folder / config_json.FILENAME).write_text(bundle.config_json(), encoding="utf-8")
        (folder / card.FILENAME).write_text(text, encoding="utf-8")
        _compare(bundle, folder, timm.create_model, "timm")
        yield folder


def _compare(bundle: Bundle, folder: Path, create: Any, who: str) -> None:
    loaded = create(f"local-dir:{folder}", pretrained=True).eval().double()
    image = random_image(bundle.options["in_chans"])
    with torch.inference_mode():
        error = relative_error(loaded(image), bundle.model().double()(image))
    if not error <= LOADERS_TOLERANCE:
        raise WeightsError(f"{who} computes other logits from what was to be published (relative {error:.1e})")


def _verify(branch: Branch, commit: str, sha256: str, bundle: Bundle) -> None:
    """The Hub's hash, and the checkpoint pulled again into an empty cache with its logits.

    Raises:
        HubError: If the Hub has something else.
        WeightsError: If the logits are others.
    """
    if (told := branch.hash_of(locate.FILENAME, commit)) != sha256:
        raise HubError(f"the Hub has another {locate.FILENAME}: expected sha256 {sha256}, got {told}")
    with tempfile.TemporaryDirectory(prefix="effnet-zoo-") as cache:
        pulled = branch.download(locate.FILENAME, commit, cache)
        if (got := atomic_io.sha256(pulled)) != sha256:
            raise HubError(
                f"the Hub has {locate.FILENAME} right, but sends another: expected sha256 {sha256}, got {got}"
            )
        branch.download(config_json.FILENAME, commit, cache)
        _compare(bundle, pulled.parent, registry.create_model, "effnet_zoo")
