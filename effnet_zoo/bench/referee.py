"""The referee of every comparison: who takes part, whether all compute the same, and how long each takes, in turn.

A contestant is prepared once, and its output is compared before anything is timed. Rounds are interleaved: a slow
minute of the machine meets all contestants alike.
"""

import functools
import gc
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from effnet_zoo.bench.results import BASELINE, OURS, Data, library_of
from effnet_zoo.errors import EngineError, UnknownNameError, first_line
from effnet_zoo.numerics import relative_error

Call = Callable[[], Any]

Sample = tuple[Mapping[str, float], Any]
"""Figures of one call (``seconds``, or ``cold`` and ``warm`` seconds, and others), and an output to compare or None."""

Compare = Callable[[Any, Any], Mapping[str, Any]]
"""From an output and the expected one to figures, such as an error. It raises to refuse a contestant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A contestant that is ready to be timed."""

    call: Call  # what is timed
    output: Any = None  # what is compared; None if there is nothing to compare
    figures: Mapping[str, Any] = field(default_factory=dict)  # reported beside the times
    note: str = ""  # what a reader of its figures has to know


Contestants = Mapping[str, Callable[[], Prepared]]
"""What prepares each contestant, by its name.

An ImportError or an UnknownNameError says that the contestant is absent, any other error that it is refused.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """The work of a contestant in its turn."""

    rest: float = 0.05  # seconds before it: threads of ONNX Runtime and OpenVINO spin for a while after a call
    warm: bool = True  # whether the first call does not count
    calls: int = 3  # calls that count, one at least
    longest: float = 2.0  # seconds after which no further call begins


IN_PROCESS, ONE_CALL = Pace(), Pace(warm=False, calls=1)


def clocked(call: Call, device: str = "cpu") -> Sample:
    """Return the ``seconds`` that one call takes; on CUDA between two events on the stream."""
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


def hold_contest(
    case: Mapping[str, Any],
    contestants: Contestants,
    compare: Compare,
    *,
    rounds: int,
    reference: Callable[[str], Any] | None = None,
    pace: Pace = IN_PROCESS,
    sample: Callable[[Call], Sample] = clocked,
) -> Data:
    """Prepare contestants, compare their outputs, time those that compute what they should, and return all but ratios.

    What one contestant raises does not stop the others. The reference gives the output that is expected of a name; by
    default it is the first output. The order is drawn anew for each round, with a fixed seed. Without rounds, outputs
    are compared only.
    """
    data = Data(case=dict(case), rounds=rounds, results={}, absent={}, refused={}, notes={})
    ready: dict[str, tuple[Prepared, Any]] = {}
    figures: dict[str, dict[str, Any]] = {}
    expected: Any = None
    for name, prepare in contestants.items():
        try:
            prepared = prepare()
            if reference:
                expected = reference(name)
            elif not ready:
                expected = prepared.output
            compared = {} if prepared.output is None else compare(prepared.output, expected)
        except (ImportError, UnknownNameError) as error:
            data["absent"][name] = first_line(error)
        except Exception as error:  # whatever a library raises
            data["refused"][name] = first_line(error)
        else:
            ready[name] = prepared, expected
            figures[name] = {**compared, **prepared.figures}
            if prepared.note:
                data["notes"][name] = prepared.note
    taken: dict[str, list[Mapping[str, float]]] = {name: [] for name in ready}
    draw = random.Random(0)
    for _ in range(rounds):
        order = [name for name in ready if name not in data["refused"]]
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
                data["refused"][name] = first_line(error)
    data["results"] = {name: {**summary(taken[name]), **figures[name]} for name in ready if name not in data["refused"]}
    return data


def _turn(call: Call, pace: Pace, sample: Callable[[Call], Sample]) -> Iterator[Sample]:
    time.sleep(pace.rest)
    start = time.perf_counter()
    if pace.warm:
        sample(call)
    for number in range(pace.calls):
        if number and time.perf_counter() - start > pace.longest:
            break
        yield sample(call)


def hold_process_contest(
    case: Mapping[str, Any], calls: Mapping[str, Callable[[], Sample]], compare: Compare, *, rounds: int
) -> Data:
    """Hold a contest of calls that start processes and measure themselves, and return it with ratios to timm.

    The first call of each fills the operating system's cache, and only its output counts. All outputs are compared.
    """

    def prepare(call: Callable[[], Sample]) -> Prepared:
        return Prepared(call=call, output=call()[1])

    contestants = {name: functools.partial(prepare, call) for name, call in calls.items()}
    data = hold_contest(case, contestants, compare, rounds=rounds, pace=ONE_CALL, sample=lambda call: call())
    return with_ratios(data, {BASELINE: BASELINE})


def summary(samples: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Return a contestant's figures: median, 10th and 90th percentile of seconds, cold and warm, and other medians."""
    result: dict[str, Any] = {}
    for key in samples[0] if samples else ():
        values = [sample[key] for sample in samples]
        if key not in ("seconds", "cold", "warm"):
            result[key] = statistics.median(values)
            continue
        p10, median, p90 = (float(value) for value in np.quantile(values, (0.1, 0.5, 0.9)))
        timing = {"seconds": median, "p10": p10, "p90": p90, "calls": len(values)}
        result |= timing if key == "seconds" else {key: timing}
    return result


def check_error(what: str, tolerance: float, output: Tensor, expected: Tensor) -> dict[str, float]:
    """Return the relative ``error`` of an output, or refuse it if that is above the tolerance, or the shapes differ."""
    error = relative_error(output, expected) if output.shape == expected.shape else math.inf
    if error > tolerance:
        raise EngineError(f"{what} off by a relative {error:.1e}, more than {tolerance:.0e}: not timed")
    return {"error": error}


def check_equal(what: str, output: Any, expected: Any) -> dict[str, float]:
    """Return no figures of an output, or refuse it if it is not the expected one."""
    if output != expected:
        raise EngineError(f"{what}: not timed")
    return {}


def rivals(data: Data) -> dict[str, str]:
    """Return by label whom everyone is compared with: timm, and the fastest of all that are not this package's."""
    peers = [name for name in data["results"] if library_of(name) != OURS]
    best = min(peers, key=lambda name: data["results"][name]["seconds"], default=None)
    return {BASELINE: BASELINE} | ({f"best peer ({best})": best} if best else {})


def with_ratios(data: Data, rivals: Mapping[str, str]) -> Data:
    """Add how many times faster each contestant's median is than a rival's, by the rival's label; cold and warm apart.

    Rivals that were not timed are left out.
    """
    medians: dict[str, dict[str, float]] = {}
    for name, result in data["results"].items():
        for part, timing in (("", result), (", cold", result.get("cold")), (", warm", result.get("warm"))):
            if timing and "seconds" in timing:
                medians.setdefault(part, {})[name] = timing["seconds"]
    ratios = {
        f"{label}{part}": {name: seconds[rival] / own for name, own in seconds.items()}
        for label, rival in rivals.items()
        for part, seconds in medians.items()
        if rival in seconds
    }
    return {**data, "ratios": ratios}


def with_rates(data: Data, images: int) -> Data:
    """Add to results what a call of that many images gives: images a second, and ratios to timm and the best peer."""
    for result in data["results"].values():
        result["images_per_second"] = images / result["seconds"]
    return with_ratios(data, rivals(data))
