"""Latency and throughput of the forward pass, and how much of the machine's ceiling each contestant reaches."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from effnet_zoo.bench.contestants import Contestant, Run, Task, contestants, prepare, weights
from effnet_zoo.bench.machine import ceiling
from effnet_zoo.bench.timing import Call, interleaved, ratios
from effnet_zoo.zoo import catalogue


def measure(
    name: str,
    *,
    size: int,
    batch: int,
    rounds: int,
    dtype: str = "float32",
    device: str = "cpu",
    compiled: bool = False,
    only: Sequence[str] | None = None,
    everyone: Sequence[Contestant] | None = None,
) -> dict[str, Any]:
    """Every contestant's time for one batch.

    Args:
        name: The variant.
        size: Height and width of the images.
        batch: Images.
        rounds: How often everyone has a turn.
        dtype: ``float32``, ``bfloat16`` or, on CUDA, ``float16``.
        device: ``cpu`` or ``cuda``.
        compiled: Whether those that torch.compile builds take part.
        only: Names of those who take part; all by default.
        everyone: Other contestants than this package's list.

    Returns:
        ``case``, ``rounds``, ``results`` by name, ``ratios``, ``absent``, ``refused``, ``notes`` and the ``ceiling``.
        A result's ``of_ceiling`` counts two operations for each multiplication of the spec.
    """
    model = catalogue.find_variant(name)
    task = Task(model=model, state=weights(model.name), size=size, batch=batch, dtype=dtype, device=device)
    listed = contestants(device, dtype, compiled=compiled) if everyone is None else everyone
    chosen = [one for one in listed if only is None or one.name in only]
    ready = prepare(chosen, task)
    images = task.images()
    with torch.inference_mode():
        timings, failures = interleaved(
            {name: _call(run, images) for name, run in ready.runs.items()}, rounds=rounds, device=device
        )
    limit = ceiling(device)
    macs = model.spec.macs(size=size)
    results = {
        name: {
            **dataclasses.asdict(timing),
            "images_per_second": batch / timing.seconds,
            "of_ceiling": 2 * macs * batch / timing.seconds / limit[dtype],
            "error": ready.errors[name],
            **({"peak_bytes": ready.peaks[name]} if name in ready.peaks else {}),
        }
        for name, timing in timings.items()
    }
    return {
        "case": {"variant": model.name, "size": size, "batch": batch, "dtype": dtype, "device": device, "macs": macs},
        "rounds": rounds,
        "results": results,
        "ratios": ratios(timings, [one.name for one in chosen if one.ours]),
        "absent": ready.absent,
        "refused": {**ready.refused, **failures},
        "notes": ready.notes,
        "ceiling": limit,
    }


def _call(run: Run, images: torch.Tensor) -> Call:
    return lambda: run(images)
