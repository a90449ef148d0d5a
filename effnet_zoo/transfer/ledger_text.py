"""Write the ledger's entry for published weights, ready to paste into ``weights/*.toml``."""

import json
import re
from typing import Any

from effnet_zoo.checkpoints.bundle import Bundle
from effnet_zoo.checkpoints.config_json import variant_of
from effnet_zoo.errors import LedgerError
from effnet_zoo.transfer.card import licence_of
from effnet_zoo.zoo import ledger
from effnet_zoo.zoo.catalogue import Model

NOT_STATED = "not stated"


def ledger_entry(bundle: Bundle, repo_id: str, commit: str, sha256: str) -> str | None:
    """Return the entry for published weights, ready to paste. Return None if the ledger cannot describe the weights.

    The ledger describes RGB classifiers of square images, whose architecture is a variant with its own numerics.
    """
    model, how = variant_of(bundle.arch), bundle.images
    if model is None or how is None or not _is_declared(bundle, model) or how.size[0] != how.size[1]:
        return None
    tag = str(bundle.record.get("tag") or re.sub(r"\W", "_", repo_id.split("/")[-1]))
    data, _, recipe = str(bundle.record.get("description") or NOT_STATED).partition("; ")
    fields: dict[str, Any] = {
        "hub_id": repo_id,
        "revision": commit,
        "sha256": sha256,
        "num_classes": bundle.num_classes,
        "train_size": how.size[0],
        "eval_size": how.size[0],
        "crop_pct": how.crop_pct,
        "crop_mode": how.crop_mode,
        "interpolation": how.interpolation,
        "mean": list(how.mean),
        "std": list(how.std),
        "license": licence_of(bundle),
        "source": bundle.record.get("origin_url") or f"https://huggingface.co/{repo_id}",
        "training_data": data,
        "recipe": recipe or NOT_STATED,
    }
    # JSON of a text, a number or a list of numbers is TOML too.
    lines = (f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in fields.items())
    entry = "\n".join((f"[{model.name}.{tag}]", *lines, ""))
    try:
        ledger.parse(f"{entry}default = true\n", repo_id)
    except LedgerError:
        return None
    return entry


def _is_declared(bundle: Bundle, model: Model) -> bool:
    """Return whether the variant's name alone gives the same network, for RGB images."""
    options, ours, declared = bundle.options, bundle.arch, model.spec
    return (
        (ours.padding, ours.bn_eps, ours.activation) == (declared.padding, declared.bn_eps, declared.activation)
        and options["in_chans"] == 3
        and options.get("global_pool", "avg") == "avg"
        and not options.get("output_stride")
    )
