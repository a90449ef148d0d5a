"""``effnet-zoo pull``"""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from effnet_zoo.cli.output import AsJson, print_json, with_progress
from effnet_zoo.zoo import catalogue

if TYPE_CHECKING:
    from effnet_zoo.checkpoints.locate import Source


def pull(
    names: Annotated[
        list[str], typer.Argument(metavar="NAME...", help="Checkpoints, with or without a tag.", show_default=False)
    ],
    to: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Copy them here too, as EFFNET_ZOO_MIRRORS reads them.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fetch checkpoints into the cache, and check their whole hash. What is there already is only checked.

    effnet-zoo pull effnet_zoo_b0 effnet_zoo_v2_s.in21k

    effnet-zoo pull effnet_zoo_b5 --to /media/stick   # then, offline: EFFNET_ZOO_MIRRORS=/media/stick
    """
    checkpoints = [catalogue.find(name)[1] for name in names]
    from effnet_zoo import atomic_io
    from effnet_zoo.checkpoints import locate

    if to is not None:
        atomic_io.check_destination(to / locate.FILENAME)
    answers: list[dict[str, Any]] = []
    for checkpoint in with_progress(checkpoints, len(checkpoints), "pulling", wanted=len(checkpoints) > 1):
        source = locate.of_checkpoint(checkpoint)
        path = locate.obtain(source)
        copy = _copy(path, to / _place(source, checkpoint.name)) if to else None
        answers.append({"name": checkpoint.name, "path": str(path), **({"copy": str(copy)} if copy else {})})
        if not as_json:
            typer.echo(f"{checkpoint.name}  {copy or path}")
    if as_json:
        print_json(answers)


def _place(source: "Source", name: str) -> Path:
    """Where a mirror has it; what no Hub has lies under the checkpoint's name."""
    if source.remote:
        return Path(source.remote.repository, source.remote.filename)
    assert source.path is not None
    return Path(name, source.path.name)


def _copy(path: Path, target: Path) -> Path:
    from effnet_zoo import atomic_io

    with atomic_io.written_whole(target) as draft:
        shutil.copyfile(path, draft)
    return target
