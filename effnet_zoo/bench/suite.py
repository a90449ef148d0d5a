"""What every measure runs, and how a measurement is made of it."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import torch

from effnet_zoo import documents
from effnet_zoo.bench import machine
from effnet_zoo.bench.agreement import agreement_cases
from effnet_zoo.bench.deployment import deployment_cases
from effnet_zoo.bench.files import file_cases
from effnet_zoo.bench.forward import forward_cases
from effnet_zoo.bench.imports import import_cases
from effnet_zoo.bench.loading import loading_cases
from effnet_zoo.bench.profile import profile_cases
from effnet_zoo.bench.results import Measurement
from effnet_zoo.bench.settings import Cases, Settings
from effnet_zoo.bench.starting import starting_cases
from effnet_zoo.bench.training import training_cases
from effnet_zoo.errors import EffnetZooError, EngineError, first_line

CASES: dict[str, Callable[[Settings], Cases]] = {
    "ceiling": machine.ceiling_cases,
    "training": training_cases,
    "files": file_cases,
    "loading": loading_cases,
    "starting": starting_cases,
    "imports": import_cases,
    "agreement": agreement_cases,
    "deployment": deployment_cases,
    "profile": profile_cases,
    **{
        measure: partial(forward_cases, measure=measure)
        for measure in ("latency", "throughput", "batch-curve", "size-curve", "variant-curve")
    },
}
"""By a key of `settings.MEASURES`, what yields its cases: each in words, and what measures it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A measurement that is still to be made: its measure, its subject, and what makes it."""

    measure: str
    subject: str
    run: Callable[[], dict[str, Any]]


def steps(settings: Settings) -> list[Step]:
    """Return every measurement that settings ask for, in order."""
    return [
        Step(measure=name, subject=subject, run=run)
        for name in settings.measures
        for subject, run in CASES[name](settings)
    ]


def make_measurement(step: Step, settings: Settings) -> Measurement:
    """Make a measurement.

    Raises:
        EngineError: If it fails, whatever was raised, as a measurement must not end the others; if a figure is not
            finite; or if nobody could be measured.
    """
    torch.compiler.reset()  # of one forward, which all variants share, it compiles only so many versions
    try:
        data = step.run()
    except EffnetZooError:
        raise
    except Exception as error:  # whatever a library raises
        raise EngineError(f"{type(error).__name__}: {first_line(error)}") from error
    documents.check_finite(data, "data", EngineError)
    if not data["results"]:
        why = [f"{who}: {reason}" for key in ("refused", "absent") for who, reason in data.get(key, {}).items()]
        raise EngineError(f"nobody could be measured: {'; '.join(why)}")
    return Measurement(
        measure=step.measure,
        subject=step.subject,
        command=settings.command,
        date=datetime.now(UTC).date().isoformat(),
        machine=machine.describe(settings.device),
        versions=machine.versions(),
        data=data,
    )
