"""The referee of every comparison: who takes part, whether all compute the same, and how long each takes, in turn.

A contestant is prepared once, and its output is compared before anything is timed. Rounds are interleaved, so that a
slow minute of the machine meets all contestants alike.
"""

import gc
import math
import random
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from effnet_zoo.bench.results import BASELINE, OURS, library_of
from effnet_zoo.errors import EngineError, UnknownNameError, first_line
from effnet_zoo.numerics import relative_error

Call = Callable[[], Any]

Sample = Mapping[str, float]
"""Figures of one call: ``seconds``, or ``cold`` and ``warm`` seconds, and others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A contestant that is ready to be timed.

    Attributes:
        call: What is timed.
        output: What is compared; None if it computes nothing.
        figures: Further figures, which are reported beside the times.
    """

    call: Call
    output: Any = None
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """One way to do what is measured.

    Attributes:
        name: The name in results, whose first word is the library.
        prepare: Builds it. An ImportError or an UnknownNameError says that it is absent; whatever else it raises, that
            it is refused.
        note: What a reader of its figures has to know.
    """

    name: str
    prepare: Callable[[], Prepared]
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """The work of a contestant in its turn.

    Attributes:
        rest: Seconds before it: threads of ONNX Runtime and OpenVINO spin for a while after a call.
        warm: Whether the first call does not count.
        calls: Calls that count, one at least.
        longest: Seconds after which no further call begins.
    """

    rest: float = 0.05
    warm: bool = True
    calls: int = 3
    longest: float = 2.0


IN_PROCESS, ONE_CALL = Pace(), Pace(warm=False, calls=1)


def clocked(call: Call, device: str = "cpu") -> tuple[Sample, None]:
    """Return how long one call takes; on CUDA between two events on the stream."""
    if device == "cuda":
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        call()
        end.record()
        end.synchronize()
        return {"seconds": begin.elapsed_time(end) / 1e3}, None
    start = time.perf_counter()
    call()
    return {"seconds": time.perf_counter() - start}, None


def timing(seconds: Sequence[float]) -> dict[str, Any]:
    """Return seconds of several calls as their median, 10th and 90th percentile, and number."""
    p10, median, p90 = (float(value) for value in np.quantile(seconds, (0.1, 0.5, 0.9)))
    return {"seconds": median, "p10": p10, "p90": p90, "calls": len(seconds)}


def summary(samples: Sequence[Sample]) -> dict[str, Any]:
    """Return a contestant's samples as one result: timings of seconds, cold and warm, and medians of all else."""
    result: dict[str, Any] = {}
    for key in samples[0] if samples else ():
        values = [sample[key] for sample in samples]
        if key == "seconds":
            result |= timing(values)
        else:
            result[key] = timing(values) if key in ("cold", "warm") else statistics.median(values)
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The result of a contest.

    Attributes:
        rounds: How many turns each contestant had.
        results: Figures by contestant.
        absent: Contestants that are not installed or do not have the variant, and why.
        refused: Contestants that failed, or that compute something else, and why.
        notes: What a reader has to know of those with results.
    """

    rounds: int
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def rivals(self) -> dict[str, str]:
        """Return whom everyone is compared with: timm, and the fastest of all that are not this package's."""
        peers = [name for name in self.results if library_of(name) != OURS]
        best = min(peers, key=lambda name: self.results[name]["seconds"], default=None)
        return {BASELINE: BASELINE} | ({f"best peer ({best})": best} if best else {})

    def ratios(self, rivals: Mapping[str, str], part: str | None = None) -> dict[str, dict[str, float]]:
        """Return how many times faster each contestant's median is than a rival's.

        Args:
            rivals: Rivals by label; those that were not timed are left out.
            part: ``cold`` or ``warm``, where there are both.
        """
        seconds = {name: (result[part] if part else result)["seconds"] for name, result in self.results.items()}
        return {
            label: {name: seconds[rival] / own for name, own in seconds.items()}
            for label, rival in rivals.items()
            if rival in seconds
        }

    def as_data(self, case: Mapping[str, Any], ratios: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        """Return the data of a measurement, see `results.Data`."""
        found = asdict(self)
        return {"case": dict(case), **found, **({} if ratios is None else {"ratios": dict(ratios)}), **more}


def check_error(what: str, output: Tensor, expected: Tensor, tolerance: float) -> float:
    """Return the relative error of an output.

    Raises:
        EngineError: If it is larger than the tolerance, or the shapes differ.
    """
    error = relative_error(output, expected) if output.shape == expected.shape else math.inf
    if error > tolerance:
        raise EngineError(f"{what} off by a relative {error:.1e}, more than {tolerance:.0e}: not timed")
    return error


def check_equal(what: str, output: Any, expected: Any) -> dict[str, Any]:
    """Return no figures of an output that equals the expected one.

    Raises:
        EngineError: If it does not.
    """
    if output != expected:
        raise EngineError(f"{what}: not timed")
    return {}


def hold_contest(
    contestants: Iterable[Contestant],
    compare: Callable[[Any, Any], Mapping[str, Any]],
    *,
    rounds: int,
    reference: Callable[[str], Any] | None = None,
    pace: Pace = IN_PROCESS,
    sample: Callable[[Call], tuple[Sample, Any]] = clocked,
) -> Outcome:
    """Prepare contestants, compare their outputs, and time those that compute what they should.

    Args:
        contestants: Everyone who may take part. What one of them raises does not stop the others.
        compare: From an output and the expected one to figures, such as an error. It raises to refuse a contestant.
        rounds: How many turns each has, in an order that is drawn anew for each round, with a fixed seed; 0 to compare
            only.
        reference: From a contestant's name to the output that is expected; by default the first output there is.
        pace: What a turn is.
        sample: From a contestant's call to figures of one call, and an output to compare again, or None.
    """
    outcome = Outcome(rounds=rounds)
    ready: dict[str, tuple[Prepared, Any]] = {}
    first: list[Any] = []
    figures: dict[str, dict[str, Any]] = {}
    for one in contestants:
        try:
            prepared = one.prepare()
            first = first or [prepared.output]
            expected = reference(one.name) if reference else first[0]
            errors = {} if prepared.output is None else compare(prepared.output, expected)
            figures[one.name] = {**errors, **prepared.figures}
            ready[one.name] = prepared, expected
        except (ImportError, UnknownNameError) as error:
            outcome.absent[one.name] = first_line(error)
        except Exception as error:  # whatever a library raises
            outcome.refused[one.name] = first_line(error)
        if one.name in ready and one.note:
            outcome.notes[one.name] = one.note
    taken: dict[str, list[Sample]] = {name: [] for name in ready}
    draw = random.Random(0)
    for _ in range(rounds):
        order = [name for name in ready if name not in outcome.refused]
        draw.shuffle(order)
        gc.collect()  # so that few turns pay for the garbage of others
        for name in order:
            prepared, expected = ready[name]
            try:
                for found, output in _turn(prepared.call, pace, sample):
                    if output is not None:
                        compare(output, expected)
                    taken[name].append(found)
            except Exception as error:  # whatever a library raises
                outcome.refused[name] = first_line(error)
    outcome.results.update(
        {name: {**summary(taken[name]), **figures[name]} for name in ready if name not in outcome.refused}
    )
    return outcome


def _turn(call: Call, pace: Pace, sample: Callable[[Call], tuple[Sample, Any]]) -> Iterator[tuple[Sample, Any]]:
    time.sleep(pace.rest)
    start = time.perf_counter()
    if pace.warm:
        sample(call)
    for number in range(pace.calls):
        if number and time.perf_counter() - start > pace.longest:
            break
        yield sample(call)


def hold_process_contest(
    calls: Mapping[str, Callable[[], tuple[Sample, Any]]],
    compare: Callable[[Any, Any], Mapping[str, Any]],
    *,
    rounds: int,
) -> Outcome:
    """Hold a contest of fresh processes: each call starts some, and returns its own figures and an output.

    The first call of each fills the operating system's cache, and only its output counts. All outputs are compared.
    """

    def contestant(name: str) -> Contestant:
        return Contestant(name=name, prepare=lambda: Prepared(call=calls[name], output=calls[name]()[1]))

    return hold_contest(map(contestant, calls), compare, rounds=rounds, pace=ONE_CALL, sample=lambda call: call())
