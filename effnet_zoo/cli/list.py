"""``effnet-zoo list``"""

from typing import Annotated, Any

import typer

from effnet_zoo.cli.output import AsJson, counted, print_json, print_rows
from effnet_zoo.errors import UnknownNameError, did_you_mean, quoted
from effnet_zoo.zoo import catalogue
from effnet_zoo.zoo.catalogue import Model
from effnet_zoo.zoo.ledger import REPORTED_SOURCE, Checkpoint


def list_(
    pattern: Annotated[str, typer.Argument(help="Part of a name or tag, or a shell pattern: 'b5', '*.ns_jft*'.")] = "*",
    as_json: AsJson = False,
) -> None:
    """List variants and their checkpoints: size, cost, input, reported accuracy and licence.

    effnet-zoo list

    effnet-zoo list 'effnet_zoo_v2_*.in21k' --json
    """
    found = [as_row(model, checkpoint) for model, checkpoint in catalogue.checkpoints(pattern)]
    if not found:
        names = [*catalogue.models(), *(model.hub_name for model in catalogue.models().values())]
        raise UnknownNameError(
            f"no checkpoint matches {quoted(pattern)}: expected part of a name, or a pattern."
            f"{did_you_mean(pattern, names)}"
        )
    if as_json:
        print_json(found)
        return
    print_rows(
        ["variant", "tag", "params", "MACs", "input", "top-1", "licence"],
        [
            [
                row["variant"],
                row["tag"] + (" *" if row["default"] else ""),
                counted(row["parameters"]),
                counted(row["macs"]),
                str(row["eval_size"]),
                "–" if row["reported_top1"] is None else f"{row['reported_top1']:.1f}",
                row["license"],
            ]
            for row in found
        ],
        left=["variant", "tag", "licence"],
    )
    typer.echo(
        "\n* marks the checkpoint that the variant's name alone stands for. top-1 in percent, as reported, not "
        f"measured here: {REPORTED_SOURCE}."
    )


def as_row(model: Model, checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what is listed of a checkpoint, in JSON's types."""
    how, reported = checkpoint.preprocessing, checkpoint.reported_at_eval_size
    return {
        "name": checkpoint.name,
        "variant": model.name,
        "tag": checkpoint.tag,
        "default": checkpoint.default,
        "hub_name": model.hub_name,
        "parameters": model.spec.parameters(num_classes=checkpoint.num_classes),
        "macs": model.spec.macs(size=how.size[0], num_classes=checkpoint.num_classes),
        "num_classes": checkpoint.num_classes,
        "train_size": checkpoint.train_size,
        "eval_size": how.size[0],
        "reported_top1": reported.top1 if reported else None,
        "reported_top5": reported.top5 if reported else None,
        "license": checkpoint.license,
        "training_data": checkpoint.training_data,
        "source": checkpoint.source,
    }
