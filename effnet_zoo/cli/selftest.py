"""``effnet-zoo selftest``"""

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from effnet_zoo.cli.output import AsJson, print_json, print_table, with_progress

if TYPE_CHECKING:
    from effnet_zoo.selftest import CaseResult


def selftest(
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps or xpu; all present by default.")] = None,
    compiled: Annotated[bool, typer.Option(help="Also run compiled, which needs a C++ compiler and minutes.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check that this machine computes what the definition says, in every dtype, memory format and way of running.

    effnet-zoo selftest

    effnet-zoo selftest --device cuda --compiled --json
    """
    from effnet_zoo import selftest as testing
    from effnet_zoo.network.devices import devices

    modes = tuple(mode for mode in testing.MODES if compiled or mode != "compiled")
    wanted = [device] if device else devices()
    selected = [case for name in wanted for case in testing.cases_on(name, modes=modes)]
    results = list(with_progress(testing.run_cases(selected), len(selected), "testing"))
    if as_json:
        print_json([_as_json(result) for result in results])
    else:
        table = Table(box=None, header_style="bold", pad_edge=False)
        for heading in ("case", "relative error", "allowed", ""):
            table.add_column(heading, no_wrap=heading != "relative error")
        for result in results:
            error = result.failure if result.error is None else f"{result.error:.1e}"
            verdict = "ok" if result.passed else "[bold red]FAILED"
            table.add_row(str(result.case), error, f"{result.case.error_limit:.0e}", verdict)
        print_table(table)
    failed = sum(not result.passed for result in results)
    typer.echo(f"{len(results) - failed} of {len(results)} passed on {', '.join(wanted)}", err=True)
    if failed:
        raise typer.Exit(1)


def _as_json(result: "CaseResult") -> dict[str, Any]:
    return {
        "case": str(result.case),
        "error": result.error,
        "failure": result.failure,
        "tolerance": result.case.error_limit,
        "passed": result.passed,
    }
