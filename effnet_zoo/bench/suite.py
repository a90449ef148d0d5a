"""What settings ask for as steps, and how a measurement is made of a step."""

import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import torch

from effnet_zoo import documents
from effnet_zoo.bench import machine
from effnet_zoo.bench.results import Data, Measurement
from effnet_zoo.bench.settings import MEASURES, Settings
from effnet_zoo.errors import EffnetZooError, EngineError, first_line


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A measurement that is still to be made: its measure, its subject, and what makes it."""

    measure: str
    subject: str
    run: Callable[[], Data]


def steps(settings: Settings) -> list[Step]:
    """Return every measurement that settings ask for, in order."""
    return [
        Step(measure=name, subject=subject, run=run)
        for name in settings.measures
        for subject, run in pkgutil.resolve_name(f"{__package__}.{MEASURES[name].cases}")(settings)
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
        left_out = {**data.get("refused", {}), **data.get("absent", {})}
        why = "; ".join(f"{who}: {reason}" for who, reason in left_out.items())
        raise EngineError(f"nobody could be measured: {why}")
    return Measurement(
        measure=step.measure,
        subject=step.subject,
        command=settings.command,
        date=datetime.now(UTC).date().isoformat(),
        machine=machine.describe(settings.device),
        versions=machine.versions(),
        data=dict(data),
    )
