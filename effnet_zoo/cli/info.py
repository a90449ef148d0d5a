"""``effnet-zoo info``"""

import dataclasses
import math
from typing import Annotated, Any

import typer

from effnet_zoo.cli.list import as_row
from effnet_zoo.cli.output import AsJson, counted, print_facts, print_json, print_rows
from effnet_zoo.zoo import catalogue
from effnet_zoo.zoo.catalogue import Model
from effnet_zoo.zoo.ledger import REPORTED_SOURCE, Checkpoint

OPERATORS = {"mbconv": "MBConv", "separable": "MBConv", "fused": "Fused-MBConv", "conv": "Conv"}
COLUMNS = ("stage", "operator", "kernel", "stride", "filters", "blocks", "SE", "output")


def info(
    name: Annotated[
        str, typer.Argument(help="A model, with or without a tag: effnet_zoo_b0.aa_in1k, efficientnet-b0.")
    ],
    as_json: AsJson = False,
) -> None:
    """Show the stages of a model, and the preprocessing and origin of its checkpoint.

    effnet-zoo info effnet_zoo_b0

    effnet-zoo info efficientnetv2_s --json
    """
    model, checkpoint = catalogue.find(name)
    stages, facts = _stages(model, checkpoint), _facts(model, checkpoint)
    if as_json:
        how = dataclasses.asdict(checkpoint.preprocessing)
        print_json({**as_row(model, checkpoint), "stages": stages, "preprocessing": how, "facts": facts})
        return
    typer.echo(f"{checkpoint.name}  {model.family.title}, torch.hub name {model.hub_name}\n")
    print_rows(COLUMNS, [list(map(str, stage.values())) for stage in stages], left=["operator"])
    typer.echo()
    print_facts(facts)


def _stages(model: Model, checkpoint: Checkpoint) -> list[dict[str, Any]]:
    spec, side = model.spec, math.ceil(checkpoint.preprocessing.size[0] / 2)
    rows: list[tuple[Any, ...]] = [(0, "Conv (stem)", 3, 2, spec.stem_filters, 1, "", f"{side}x{side}")]
    for number, (stage, blocks) in enumerate(zip(spec.stages, spec.blocks(), strict=True), start=1):
        side = math.ceil(side / stage.stride)
        operator = OPERATORS[blocks[0].kind] + ("" if blocks[0].kind == "conv" else str(stage.expand))
        squeeze = f"{stage.se_ratio:g}" if stage.se_ratio else ""
        shape = stage.kernel, stage.stride, stage.out_filters, stage.repeats
        rows.append((number, operator, *shape, squeeze, f"{side}x{side}"))
    rows.append((len(rows), "Conv (head), pool", 1, 1, spec.head_filters, 1, "", "1x1"))
    rows.append((len(rows), "Dropout, classifier", "", "", checkpoint.num_classes, 1, "", ""))
    return [dict(zip(COLUMNS, row, strict=True)) for row in rows]


def _facts(model: Model, checkpoint: Checkpoint) -> dict[str, str]:
    spec, how = model.spec, checkpoint.preprocessing
    reported = [f"top-1 {r.top1}, top-5 {r.top5} at {r.size} px" for r in checkpoint.reported]
    mean, std = (" ".join(f"{value:g}" for value in values) for values in (how.mean, how.std))
    return {
        "parameters": counted(spec.parameters(num_classes=checkpoint.num_classes)),
        "MACs": f"{counted(spec.macs(size=how.size[0], num_classes=checkpoint.num_classes))} at {how.size[0]} px",
        "numerics": f"{spec.activation}, {spec.padding} padding, batch norm eps {spec.bn_eps:g} "
        f"and momentum {spec.bn_momentum:g}",
        "training": f"dropout {spec.drop_rate:g}, stochastic depth {spec.drop_path_rate:g}",
        "paper": f"arXiv:{model.family.paper}" if model.family.paper[0].isdigit() else model.family.paper,
        "preprocessing": f"{how.interpolation}, {how.crop_mode} crop {how.crop_pct:g} to {how.size[0]} px, "
        f"mean {mean}, std {std}",
        "trained at": f"{checkpoint.train_size} px",
        "weights": checkpoint.origin,
        "sha256": checkpoint.sha256 or "not pinned yet",
        "licence": checkpoint.license,
        "training data": checkpoint.training_data,
        "recipe": checkpoint.recipe,
        "source": checkpoint.source,
        "reported": f"{'; '.join(reported)} ({REPORTED_SOURCE})" if reported else "nothing",
        "other tags": ", ".join(tag for tag in model.checkpoints if tag != checkpoint.tag) or "none",
    }
