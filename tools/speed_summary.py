"""The README's table of speed: each job beside its peers, the worst measured case beside the best.

It reads ``benchmarks/results.json`` and needs no other part of the package.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.markdown import markdown_table

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results.json"
BASELINE = "timm"

_OURS = "effnet_zoo"
_RUNTIME = " in "  # a peer in another runtime: "timm in OpenVINO"

Measurement = dict[str, Any]
"""A record of ``results.json``: measure, command and date, and in ``data`` the case and each contestant's result."""


@dataclass(frozen=True, kw_only=True)
class _Job:
    """A row of the table.

    Attributes:
        title: What is done.
        measures: The measures that time it, as ``effnet-zoo bench --measure`` calls them.
        ours: Whether a contestant of this name is this package at its fastest; the fastest of these counts.
        peers: Whether a contestant of this name is a peer that does the same.
    """

    title: str
    measures: tuple[str, ...]
    ours: Callable[[str], bool]
    peers: Callable[[str], bool]


_JOBS = (
    _Job(
        title="forward pass of the model as created, peers in PyTorch",
        measures=("latency", "throughput"),
        ours=lambda name: name == _OURS,
        peers=lambda name: _RUNTIME not in name and not name.endswith((" recording", " autocast")),
    ),
    _Job(
        title="forward pass of the fastest engine, all peers",
        measures=("latency", "throughput"),
        ours=lambda name: name.startswith(f"{_OURS} engine "),
        peers=lambda name: not name.endswith(" recording"),
    ),
    _Job(
        title="training step",
        measures=("training",),
        ours=lambda name: name == _OURS,
        peers=lambda name: not name.endswith(" checkpointed"),
    ),
    _Job(
        title="folder of JPEG files to labels, fastest engine",
        measures=("files",),
        ours=lambda name: name.startswith(f"{_OURS} engine "),
        peers=lambda _: True,
    ),
    _Job(title="weights into a model", measures=("loading",), ours=lambda name: name == _OURS, peers=lambda _: True),
    _Job(
        title="new process to its first logits",
        measures=("starting",),
        ours=lambda name: name == _OURS,
        peers=lambda _: True,
    ),
)


def speed_summary() -> str:
    """Return the table, and below it the commands that measured it."""
    everything: list[Measurement] = json.loads(RESULTS.read_text(encoding="utf-8"))
    measurements = [measurement for measurement in everything if measurement["machine"]["device"] == "cpu"]
    rows, commands, machines = [], [], set()
    for job in _JOBS:
        found = [measurement for measurement in measurements if _ratios(measurement, job)]
        ratios = [both for measurement in found if (both := _ratios(measurement, job))]
        if not found:
            continue
        against_timm, against_peers = zip(*ratios, strict=True)
        rows.append((job.title, str(len(found)), _range(against_timm), _range(against_peers)))
        machines |= {_machine(measurement) for measurement in found}
        by = ", ".join(f"`{command}`" for command in dict.fromkeys(measurement["command"] for measurement in found))
        dates = " and ".join(sorted({measurement["date"] for measurement in found}))
        commands.append(f"- {' and '.join(job.measures)} ({dates}): {by}")
    headings = ("times faster, worst case to best case", "cases", "than timm as created", "than the fastest peer")
    table = markdown_table(headings, rows)
    measured = f"Measured on {' and '.join(sorted(machines))}, by these commands:"
    return "\n\n".join([table, measured, "\n".join(dict.fromkeys(commands))])


def _ratios(measurement: Measurement, job: _Job) -> tuple[float, float] | None:
    """Return how many times faster this package is than timm as created, and than the fastest peer.

    Return None if the measurement is not of this job, or lacks one of the three.
    """
    if measurement["measure"] not in job.measures:
        return None
    results = {name: result.get("warm", result) for name, result in measurement["data"]["results"].items()}
    seconds = {name: result["seconds"] for name, result in results.items() if "seconds" in result}
    ours = [seconds[name] for name in seconds if job.ours(name)]
    peers = [seconds[name] for name in seconds if not name.startswith(_OURS) and job.peers(name)]
    if BASELINE not in seconds or not ours or not peers:
        return None
    return seconds[BASELINE] / min(ours), min(peers) / min(ours)


def _range(ratios: Sequence[float]) -> str:
    lowest, highest = f"{min(ratios):.2f}", f"{max(ratios):.2f}"
    return lowest if lowest == highest else f"{lowest} to {highest}"


def _machine(measurement: Measurement) -> str:
    machine = measurement["machine"]
    return f"{machine['processor']}, {machine['threads']} threads, {machine['instructions']}"
