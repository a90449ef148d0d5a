"""``effnet-zoo pull``"""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from effnet_zoo import atomic_io
from effnet_zoo.cli.output import AsJson, print_json, with_progress
from effnet_zoo.zoo import catalogue


def pull(
    names: Annotated[list[str], typer.Argument(help="Names of checkpoints, with or without a tag.")],
    to: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Copy the files here too, in the layout that EFFNET_ZOO_MIRRORS expects."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Download checkpoints into the cache, and check the hash of each file. Files in the cache are only checked.

    effnet-zoo pull effnet_zoo_b0 effnet_zoo_v2_s.in21k

    effnet-zoo pull effnet_zoo_b5 --to /media/stick   # then, offline: EFFNET_ZOO_MIRRORS=/media/stick
    """
    checkpoints = [catalogue.find(name)[1] for name in names]
    from effnet_zoo.checkpoints import locate

    if to is not None:
        atomic_io.check_destination(to / locate.FILENAME)
    answers: list[dict[str, str]] = []
    for checkpoint in with_progress(checkpoints, len(checkpoints), "pulling", wanted=len(checkpoints) > 1):
        path = locate.obtain(locate.of_checkpoint(checkpoint))
        answer = {"name": checkpoint.name, "path": str(path)}
        if to:
            copy = to / (checkpoint.hub_id or checkpoint.name) / path.name
            with atomic_io.written_whole(copy) as draft:
                shutil.copyfile(path, draft)
            answer["copy"] = str(copy)
        answers.append(answer)
        if not as_json:
            typer.echo(f"{checkpoint.name}  {answer.get('copy', path)}")
    if as_json:
        print_json(answers)
