"""``effnet-zoo selftest``"""

from typing import Annotated

import typer
from rich.text import Text

from effnet_zoo.cli.output import AsJson, print_json, print_rows, with_progress


def selftest(
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, mps or xpu. By default, all that this machine has.")
    ] = None,
    compiled: Annotated[
        bool, typer.Option(help="Also test compiled models. This takes minutes and a C++ compiler.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check that models compute the right numbers on this machine, in every dtype, memory format and mode.

    effnet-zoo selftest

    effnet-zoo selftest --device cuda --compiled --json
    """
    from effnet_zoo import selftest as testing
    from effnet_zoo.network.devices import devices

    modes = [mode for mode in testing.MODES if compiled or mode != "compiled"]
    wanted = [device] if device else devices()
    cases = [case for name in wanted for case in testing.cases_on(name, modes=modes)]
    results = list(with_progress(testing.run_cases(cases), len(cases), "testing"))
    if as_json:
        print_json(
            [
                {
                    "case": str(result.case),
                    "error": result.error,
                    "failure": result.failure,
                    "tolerance": result.case.error_limit,
                    "passed": result.passed,
                }
                for result in results
            ]
        )
    else:
        headings = ["case", "relative error", "allowed", ""]
        rows = [
            [
                str(result.case),
                result.failure or f"{result.error:.1e}",
                f"{result.case.error_limit:.0e}",
                "ok" if result.passed else Text("FAILED", style="bold red"),
            ]
            for result in results
        ]
        print_rows(headings, rows, left=headings)
    failed = sum(not result.passed for result in results)
    typer.echo(f"{len(results) - failed} of {len(results)} passed on {', '.join(wanted)}", err=True)
    if failed:
        raise typer.Exit(1)
