"""Publish weights to a folder or to a repository on the Hub, and check that what arrived is what was meant."""

import dataclasses
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm

from effnet_zoo import atomic_io
from effnet_zoo import registry as _registers_with_timm  # noqa: F401  # timm loads what is published
from effnet_zoo.checkpoints import config_json, creation, locate
from effnet_zoo.checkpoints.bundle import Bundle, of_model
from effnet_zoo.errors import FileError, HubError, WeightsError
from effnet_zoo.layouts.layout import run_in_float64
from effnet_zoo.network.model import EfficientNet
from effnet_zoo.network.options import check_path
from effnet_zoo.transfer import card
from effnet_zoo.transfer.branch import STALE, Branch, Change, changes_between
from effnet_zoo.transfer.card import Metric
from effnet_zoo.transfer.conversion import Images, with_overrides, write_folder
from effnet_zoo.transfer.proof import compare, random_image
from effnet_zoo.zoo.class_names import checked_labels

STALE_IN_FOLDER = re.compile(r"(pytorch_|tf_|flax_|open_clip_(pytorch_)?)?model([-.].*)?" + STALE.pattern[2:])
"""`STALE` in a folder, where a deleted file is lost: only names that loaders look for."""

LOADERS_TOLERANCE = 1e-10
"""Largest relative error between the logits of two loaders, which compute in float64 with the same weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Push:
    """The outcome of `push` or `save`, or of their dry run.

    Attributes:
        repo_id: The repository, or the folder.
        changes: One for each file.
        readme: The text of the card.
        sha256: The hash of ``model.safetensors``.
        commit: The commit with the files. None for a folder and a dry run.
        pull_request: The address of the pull request, if one was opened.
        ledger: The ledger's entry for the weights. None if the ledger cannot describe them.
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
        """Whether any file is added, updated or deleted."""
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

    Each file is replaced whole. Other files in the folder stay, except weight files that a loader could take instead.
    If the weights come from this folder, no file is deleted.

    Args:
        what: As for `push`, like all other arguments but `folder`.
        folder: The folder to write.
        license: See `push`.
        classes: See `push`.
        images: See `push`.
        metrics: See `push`.
        dry_run: See `push`.

    Raises:
        ArgumentError: If the licence is not known.
        WeightsError: If the preprocessing is not known, or timm computes other logits.
        InputError: If `folder` is a file, or cannot be written to.
    """
    check_path("folder", folder)
    folder = Path(folder)
    if not dry_run:
        atomic_io.check_destination(folder)
    with atomic_io.file_errors(folder):
        if folder.exists() and not folder.is_dir():
            raise FileError(f"{folder} is a file: expected a folder")
    bundle = _bundle_of(what, license, classes, images)
    address = f"local-dir:{folder if folder.name.strip('.') else folder.resolve()}"
    with atomic_io.file_errors(folder):
        there = {path.name: path for path in folder.glob("*") if path.is_file()}
        readme = there.get(card.CARD_FILE)
        existing = card.read_card(readme, str(readme)) if readme else ""
        with _prepared(bundle, address, metrics, existing) as (new, text):
            hashes = {name: atomic_io.sha256(path) if (new / name).exists() else "" for name, path in there.items()}
            own = Path(bundle.source).resolve() in (folder.resolve(), *(path.resolve() for path in there.values()))
            done = _outcome(str(folder), changes_between(new, hashes, None if own else STALE_IN_FOLDER), text)
            if dry_run:
                return done
            with ExitStack() as drafts:  # the first file is replaced when all new files are complete
                for change in done.changes:
                    if change.what in ("add", "update"):
                        draft = drafts.enter_context(atomic_io.written_whole(folder / change.path))
                        shutil.copyfile(new / change.path, draft)
            for change in done.changes:
                if change.what == "delete":
                    there[change.path].unlink()
    return done


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
    """Publish weights, ``config.json`` and card in one commit, then download them and compare hash and logits.

    No commit is made if the repository has the same files already, or if somebody else changes it meanwhile.

    Args:
        what: A model of this package with its present weights, or what `effnet_zoo.open_package` returns.
        repo_id: ``owner/name``. The repository is created if it does not exist.
        license: Licence of the weights, as an SPDX identifier in lower case. It is required unless it is known. The
            licence, origin, tag and description of a checkpoint are known as long as its weights are unchanged.
        classes: Class names in the order of the logits. By default, those that came with the weights.
        images: How images are prepared, if that did not come with the weights.
        metrics: Figures for the card.
        private: Whether a new repository is private.
        revision: The branch, which is created if it does not exist. By default, the main branch.
        create_pr: Whether to open a pull request instead of changing the branch.
        message: The message of the commit.
        dry_run: Whether to change nothing, and only return what would happen.
        token: The Hub's token. By default, the one that ``hf auth login`` has stored.

    Raises:
        ArgumentError: If the licence is not known.
        WeightsError: If the preprocessing is not known, or timm computes other logits.
        HubError: If the Hub refuses or cannot be reached, or has other files afterwards.
        ConflictError: If somebody else changed the repository meanwhile.
    """
    bundle = _bundle_of(what, license, classes, images)
    branch = Branch(repo_id, revision, token)
    before, existing = branch.state(), ""
    if card.CARD_FILE in before.hashes:
        with tempfile.TemporaryDirectory() as folder:
            path = branch.download(card.CARD_FILE, str(before.commit), folder)
            existing = card.read_card(path, f"{repo_id}/{card.CARD_FILE}")
    with _prepared(bundle, f"hf-hub:{repo_id}", metrics, existing) as (new, readme):
        done = _outcome(repo_id, changes_between(new, before.hashes, STALE), readme)
        if dry_run:
            return done
        if before.missing:
            branch.create(private=private)
            before = branch.state()
        commit, request = str(before.commit), None
        if done.changed:
            message = message or f"Upload {bundle.variant} with effnet-zoo"
            commit, request = branch.commit(new, done.changes, before, message, create_pr=create_pr)
        try:
            _verify(branch, commit, done.sha256, bundle)
        except WeightsError as error:
            raise HubError(
                f"{repo_id}@{commit} is committed, but the check afterwards fails: {error}; push again to check again"
            ) from error
    entry = card.ledger_entry(bundle, repo_id, commit, done.sha256)
    return dataclasses.replace(done, commit=commit, pull_request=request, ledger=entry)


def _bundle_of(
    what: EfficientNet | Bundle, licence: str | None, classes: Sequence[str] | None, images: Images | None
) -> Bundle:
    bundle = what if isinstance(what, Bundle) else of_model(what)
    labels = None if classes is None else checked_labels(classes, "classes")
    bundle = with_overrides(bundle, images, labels=labels, licence=licence)
    card.licence_of(bundle)  # refused now if it is not known
    return bundle


@contextmanager
def _prepared(bundle: Bundle, address: str, metrics: Sequence[Metric], existing: str) -> Iterator[tuple[Path, str]]:
    """Yield a folder with the files to publish, from which timm has computed the same logits, and the card."""
    readme = card.card_text(bundle, address, metrics, existing)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_folder(bundle, folder)
        (folder / card.CARD_FILE).write_text(readme, encoding="utf-8")
        _check_loads(bundle, folder, timm.create_model, "timm")
        yield folder, readme


def _outcome(repo_id: str, changes: tuple[Change, ...], readme: str) -> Push:
    sha256 = next(change.sha256 for change in changes if change.path == locate.WEIGHT_FILE)
    return Push(repo_id=repo_id, changes=changes, readme=readme, sha256=sha256)


def _check_loads(bundle: Bundle, folder: Path, create_model: Callable[..., Any], who: str) -> None:
    """Check that a loader computes the same logits with the files in a folder."""
    image = random_image(bundle.options["in_chans"])
    theirs = run_in_float64(create_model(f"local-dir:{folder}", pretrained=True), image)
    compare(bundle, bundle.model(), theirs, image, who, LOADERS_TOLERANCE)


def _verify(branch: Branch, commit: str, sha256: str, bundle: Bundle) -> None:
    """Compare the hash that the Hub states, and the hash and the logits of what it sends."""
    if (stated := branch.state(commit).hashes.get(locate.WEIGHT_FILE)) != sha256:
        raise HubError(f"the Hub has another {locate.WEIGHT_FILE}: expected sha256 {sha256}, got {stated}")
    with tempfile.TemporaryDirectory() as cache:
        weights = branch.download(locate.WEIGHT_FILE, commit, cache)
        if (sent := atomic_io.sha256(weights)) != sha256:
            raise HubError(
                f"the Hub has the right {locate.WEIGHT_FILE}, but sends another: expected sha256 {sha256}, got {sent}"
            )
        branch.download(config_json.CONFIG_FILE, commit, cache)
        _check_loads(bundle, weights.parent, creation.create_model, "effnet_zoo")
