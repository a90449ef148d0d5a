"""``effnet-zoo list``, ``info``, ``pull`` and ``verify``: the checkpoints of the ledger."""

import collections
import dataclasses
import math
import shutil
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Exit, Option, echo

from effnet_zoo import atomic_io
from effnet_zoo.cli.options import refuse_if
from effnet_zoo.cli.output import AsJson, counted, print_facts, print_json, print_rows, with_progress
from effnet_zoo.errors import UnknownNameError, did_you_mean, quoted
from effnet_zoo.zoo import catalogue, ledger
from effnet_zoo.zoo.catalogue import Model
from effnet_zoo.zoo.ledger import REPORTED_SOURCE, Checkpoint

OPERATORS = {"mbconv": "MBConv", "separable": "MBConv", "fused": "Fused-MBConv", "conv": "Conv"}
STAGE_COLUMNS = ("stage", "operator", "kernel", "stride", "filters", "blocks", "SE", "output")

NO_PIN = {"revision": None, "sha256": None}


def list_(
    pattern: Annotated[str, Argument(help="Part of a name or tag, or a shell pattern: 'b5', '*.ns_jft*'.")] = "*",
    as_json: AsJson = False,
) -> None:
    """List variants and their checkpoints: size, cost, input, reported accuracy and licence.

    effnet-zoo list

    effnet-zoo list 'effnet_zoo_v2_*.in21k' --json
    """
    found = [_as_row(model, checkpoint) for model, checkpoint in catalogue.checkpoints(pattern)]
    if not found:
        names = [*catalogue.models(), *(model.hub_name for model in catalogue.models().values())]
        raise UnknownNameError(
            f"no checkpoint matches {quoted(pattern)}: expected part of a name, or a pattern."
            f"{did_you_mean(pattern, names)}"
        )
    if as_json:
        print_json(found)
        return
    rows = [
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
    ]
    headings = ["variant", "tag", "params", "MACs", "input", "top-1", "licence"]
    print_rows(headings, rows, left=["variant", "tag", "licence"])
    echo(
        "\n* marks the checkpoint that the variant's name alone stands for. top-1 in percent, as reported, not "
        f"measured here: {REPORTED_SOURCE}."
    )


def info(
    name: Annotated[str, Argument(help="A model, with or without a tag: effnet_zoo_b0.aa_in1k, efficientnet-b0.")],
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
        print_json({**_as_row(model, checkpoint), "stages": stages, "preprocessing": how, "facts": facts})
        return
    echo(f"{checkpoint.name}  {model.family.title}, torch.hub name {model.hub_name}\n")
    print_rows(STAGE_COLUMNS, [list(map(str, stage.values())) for stage in stages], left=["operator"])
    echo()
    print_facts(facts)


def pull(
    names: Annotated[list[str], Argument(help="Names of checkpoints, with or without a tag.")],
    to: Annotated[
        Path | None,
        Option(metavar="DIR", help="Copy the files to this folder too, as a mirror for EFFNET_ZOO_MIRRORS."),
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
        atomic_io.check_destination(to / locate.WEIGHT_FILE)
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
            echo(f"{checkpoint.name}  {answer.get('copy', path)}")
    if as_json:
        print_json(answers)


def verify(
    names: Annotated[list[str] | None, Argument(help="Names of checkpoints, or parts of names.")] = None,
    everything: Annotated[bool, Option("--all", help="Verify all checkpoints of the ledger.")] = False,
    remote: Annotated[bool, Option("--remote", help="Compare with the Hub instead. Nothing is downloaded.")] = False,
    write_pins: Annotated[
        bool, Option("--write-pins", help="Write the revision and SHA-256 that were found into the ledger.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Compare the ledger's hashes with the files on this machine, or with the Hub.

    effnet-zoo verify --all

    effnet-zoo verify effnet_zoo_b0 --remote --write-pins
    """
    refuse_if(bool(names) == everything, "expected the names of checkpoints, or --all")
    from effnet_zoo.transfer import verification

    checkpoints = {
        checkpoint.name: checkpoint
        for name in names or ["*"]
        for _, checkpoint in list(catalogue.checkpoints(name)) or [catalogue.find(name)]
    }.values()
    found = verification.verify(checkpoints, remote=remote)
    verdicts = list(with_progress(found, len(checkpoints), "verifying"))
    pinned = verification.write_pins(verdicts, ledger.FOLDER) if write_pins else []
    if as_json:
        answers: list[dict[str, Any]] = []
        for each in verdicts:
            name = each.checkpoint.name
            pin = {"revision": each.pin.revision, "sha256": each.pin.sha256} if each.pin else NO_PIN
            answers.append(
                {"name": name, "state": each.state, "detail": each.detail, **pin, "pinned_now": name in pinned}
            )
        print_json(answers)
    else:
        columns = ["checkpoint", "state", "detail"]
        print_rows(columns, [[each.checkpoint.name, each.state, each.detail] for each in verdicts], left=columns)
        counts = collections.Counter(verdict.state for verdict in verdicts)
        echo("; ".join(f"{count} {state} ({verification.STATES[state]})" for state, count in counts.items()))
        if write_pins:
            echo(f"pinned {len(pinned)} in {ledger.FOLDER}")
    if not all(verdict.passed for verdict in verdicts):
        raise Exit(1)


def _as_row(model: Model, checkpoint: Checkpoint) -> dict[str, Any]:
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
    return [dict(zip(STAGE_COLUMNS, row, strict=True)) for row in rows]


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
