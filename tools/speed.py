"""What the README shows of ``benchmarks/results.json``: tables, each with the command that measured it and the date."""

from collections.abc import Sequence
from pathlib import Path

from effnet_zoo.bench import report
from effnet_zoo.bench.results import Measurement, read_results
from tools.markdown import markdown_table

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results.json"
NOTHING = "Nothing has been measured yet: `effnet-zoo bench --measure {} --out benchmarks/results.json`."


def performance() -> str:
    """Everything but loading and deployment, a machine after the other."""
    measured = [one for one in read_results(RESULTS) if one.measure not in ("loading", "deployment")]
    return _by_machine(measured) or NOTHING.format("all")


def loading() -> str:
    """How long weights take into a model."""
    return _by_machine(_of("loading")) or NOTHING.format("loading")


def deployment() -> str:
    """How exported and quantized files compare."""
    return _by_machine(_of("deployment")) or NOTHING.format("deployment")


def profile() -> str:
    """Where a forward pass spends its time."""
    measured = _of("profile")
    if not measured:
        return NOTHING.format("profile")
    table = report.profile_table(measured)
    machine = f"{report.machine_of(measured[0])}; {report.versions_of(measured)}"
    return f"{markdown_table(table.headings, table.rows)}\n\n{report.commands_of(measured)}. Measured on: {machine}."


def _of(measure: str) -> list[Measurement]:
    return [one for one in read_results(RESULTS) if one.measure == measure]


def _by_machine(measurements: Sequence[Measurement]) -> str:
    """The tables of each machine, each with what is to be known below."""
    parts = []
    for group in report.by_machine(measurements):
        tables = [
            f"{markdown_table(table.headings, table.rows)}\n\n{' '.join([*table.below, report.commands_of(some)])}."
            for some, table in report.sections(group)
        ]
        if tables:
            parts += [*tables, f"Measured on: {report.machine_of(group[0])}; {report.versions_of(group)}."]
    return "\n\n".join(parts)
