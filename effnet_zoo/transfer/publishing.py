"""Publish weights to a Hub repository or a folder: one commit, checked before and after."""

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

from effnet_zoo import atomic_io
from effnet_zoo import registry as _registers_with_timm  # noqa: F401  # timm loads what is published
from effnet_zoo.checkpoints import config_json, creation, locate
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
    """The result of a push, or of a dry run.

    Attributes:
        repo_id: The repository, or the folder.
        changes: What happens to each file.
        readme: The card's text.
        sha256: SHA-256 of ``model.safetensors``, in hex.
        commit: The commit that has the files. None for a folder and for a dry run.
        pull_request: The address of the pull request, if one was opened.
        ledger: The entry for the ledger. None if the ledger cannot describe the weights.
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

    Weight files of earlier pushes are removed from the folder, unless the weights come from it. All other files stay.
    Each file is replaced whole.

    Args:
        what: See `push`.
        folder: The folder to write to.
        license: See `push`.
        classes: See `push`.
        images: See `push`.
        metrics: See `push`.
        dry_run: Return what would happen, and change nothing.

    Raises:
        ArgumentError: If there is no licence.
        WeightsError: If it is not known how images are prepared, or timm computes other logits.
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
            with ExitStack() as drafts:  # all files are written before the first takes its place
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
    """Publish weights, ``config.json`` and card in one commit, and check what the Hub has afterwards.

    Nothing is committed if the repository already has these files, or if somebody else changes it at the same time.

    Args:
        what: A model of this package with its present weights, or the result of `effnet_zoo.open_package`.
        repo_id: ``owner/name``. A repository that does not exist is created.
        license: The licence of the weights, as an SPDX identifier in lower case. It is required if it is not known.
            The licence, origin, tag and description of a checkpoint are known while its weights are unchanged.
        classes: Class names in the order of the logits. By default, those that came with the weights.
        images: How images are prepared, if that did not come with the weights.
        metrics: Accuracies for the card.
        private: Create the repository as a private one.
        revision: The branch. It is created if it does not exist. By default, the main branch.
        create_pr: Open a pull request instead of changing the branch.
        message: The message of the commit.
        dry_run: Return what would happen, and change nothing.
        token: A token for the Hub. By default, the one that ``hf auth login`` has stored.

    Raises:
        ArgumentError: If there is no licence.
        WeightsError: If it is not known how images are prepared, or timm computes other logits.
        HubError: If the Hub refuses, cannot be reached, or has other files afterwards.
        ConflictError: If somebody else changed the repository at the same time.
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
    """Return what is to be published. Something that is missing is refused here."""
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
    """Yield a folder with the three files. timm has loaded them and computed the same logits."""
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
    """Compare the Hub's hash, and the logits of the checkpoint after it is downloaded into an empty cache.

    Raises:
        HubError: If the Hub has another file.
        WeightsError: If the logits differ.
    """
    if (stated := branch.hash_of(locate.FILENAME, commit)) != sha256:
        raise HubError(f"the Hub has another {locate.FILENAME}: expected sha256 {sha256}, got {stated}")
    with tempfile.TemporaryDirectory(prefix="effnet-zoo-") as cache:
        pulled = branch.download(locate.FILENAME, commit, cache)
        if (got := atomic_io.sha256(pulled)) != sha256:
            raise HubError(
                f"the Hub has {locate.FILENAME} right, but sends another: expected sha256 {sha256}, got {got}"
            )
        branch.download(config_json.FILENAME, commit, cache)
        _compare(bundle, pulled.parent, creation.create_model, "effnet_zoo")
