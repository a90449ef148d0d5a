"""What ``predict`` and ``embed`` share: their options, and the way from many files to rows."""

import dataclasses
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, Protocol, TypeVar

import typer

from effnet_zoo import catalog
from effnet_zoo.cli.output import print_json_list, with_rate
from effnet_zoo.errors import ArgumentError

if TYPE_CHECKING:
    from effnet_zoo.predict import Model as AnyModel
    from effnet_zoo.predict import Run
    from effnet_zoo.rows import Column

DEFAULT_MODEL = "effnet_zoo_lite0.pypi_in1k"
ENGINES = ("auto", "eager", "inductor", "onnxruntime", "openvino")
DTYPES = ("float32", "bfloat16", "float16")
EXPORTED = (".onnx", ".xml")
MANY = 256
"""Files from which on it pays to measure which engine is fastest."""

Paths = Annotated[
    list[str] | None, typer.Argument(metavar="[PATH...]", help="Images, folders or globs.", show_default=False)
]
Model = Annotated[
    str,
    typer.Option(
        help="A model, with or without a tag, local-dir:FOLDER, hf-hub:owner/name, or an exported .onnx or .xml file."
    ),
]
FromList = Annotated[
    str | None, typer.Option(help="A text file with a path a line, or - for standard input.", show_default=False)
]
Output = Annotated[
    Path | None,
    typer.Option(help="A .csv, .jsonl or .parquet file to write as it goes, a row a file.", show_default=False),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Continue the output of a run that was interrupted: rows there are not redone.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace the output if it is there.")]
EngineOption = Annotated[
    str | None,
    typer.Option(
        help=f"{', '.join(ENGINES)}; by default auto for {MANY} files and more, and none for fewer.", show_default=False
    ),
]
Dtype = Annotated[str, typer.Option(help="What the engine computes in: float32, bfloat16 or float16.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images a run, at most.")]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Threads that read; one for each of torch's by default.", show_default=False)
]


class Result(Protocol):
    """What is found of a file."""

    @property
    def path(self) -> Path: ...
    @property
    def error(self) -> str | None: ...


Found = TypeVar("Found", bound=Result)


@dataclass(frozen=True, kw_only=True)
class Job:
    """The options as they were given.

    Raises:
        ArgumentError: If two of them contradict each other, or one has no such value.
        InputError: If there is no such input, or the output cannot be written.
    """

    paths: list[str] | None
    from_list: str | None
    model: str
    output: Path | None
    resume: bool
    force: bool
    engine: str | None
    dtype: str
    batch_size: int
    workers: int | None
    as_json: bool

    def __post_init__(self) -> None:
        if not self.paths and self.from_list is None:
            raise ArgumentError("expected images, folders or globs, or --from-list FILE")
        for option, value, known in (("--engine", self.engine, ENGINES), ("--dtype", self.dtype, DTYPES)):
            if value is not None and value not in known:
                raise ArgumentError(f"{option} {value}: expected {' or '.join(known)}")
        if self.output is None and (self.resume or self.force):
            raise ArgumentError(f"--{'resume' if self.resume else 'force'}: expected --output FILE with it")
        if self.resume and self.force:
            raise ArgumentError("--resume keeps the output and --force replaces it: expected at most one of them")
        if self.exported and (self.engine is not None or self.dtype != "float32"):
            raise ArgumentError(f"--engine and --dtype: {self.model} is run by its own runtime: leave them out")
        if self.output is not None and self.as_json:
            raise ArgumentError("--json prints and --output writes: expected one of them; FILE.jsonl has JSON lines")

    @property
    def exported(self) -> bool:
        """Whether the model is a file that export wrote."""
        return self.model.endswith(EXPORTED)

    @property
    def name(self) -> str:
        """The model's name in full."""
        return self.model if self.exported or ":" in self.model else catalog.find(self.model)[1].name

    def load(self, **options: Any) -> "AnyModel":
        """The model with its weights."""
        if self.exported:
            from effnet_zoo.export.exported import Exported

            return Exported(Path(self.model))
        from effnet_zoo.registry import create_classifier

        return create_classifier(self.name, pretrained=True, **options)

    def how(self) -> dict[str, Any]:
        """Keywords of `predict.predict` and `predict.embed`."""
        return {"batch_size": self.batch_size, "workers": self.workers}

    def find(self) -> Iterator[Path]:
        """The files, found as they are drawn; what cannot be read or written is refused at once."""
        from effnet_zoo.images import find_images
        from effnet_zoo.rows import check_output

        if self.output is not None:
            check_output(self.output, resume=self.resume, force=self.force)
        return find_images(self.paths or [], self.from_list)

    def run(
        self,
        model: "AnyModel",
        images: Iterator[Path],
        results: "Callable[[Iterable[Path], Run | None], Iterator[Found]]",
        *,
        doing: str,
        facts: dict[str, Any],
        columns: "Sequence[Column]",
        as_row: Callable[[Found], dict[str, Any]],
        as_object: Callable[[Found], dict[str, Any]],
        show: Callable[[Found], None] | None = None,
    ) -> None:
        """Take files through a model: to the output, as JSON, or shown.

        Args:
            model: The model.
            images: What `find` gave.
            results: Files, and what runs the model, to what is found of each. It checks its arguments when called.
            doing: What this is, for the progress bar.
            facts: What the rows depend on besides what every job has.
            columns: Those of a row.
            as_row: A result as a row of a table.
            as_object: A result as JSON has it.
            show: Prints a result for people.

        Raises:
            typer.Exit: With status 1, if files could not be read.
        """
        from effnet_zoo.images import digest
        from effnet_zoo.preprocess import preprocessing_of
        from effnet_zoo.rows import open_rows

        results((), None)  # so that nothing is replaced for a run that cannot start
        how = preprocessing_of(model.pretrained_cfg)
        first = list(itertools.islice(images, MANY))
        images = itertools.chain(first, images)
        run = self._engine(model, how.size, many=len(first) == MANY)
        if self.output is None:
            tables_show_progress = sys.stdout.isatty() and not self.as_json
            tally = _Tally(with_rate(results(images, run), self._count, doing, wanted=not tables_show_progress))
            if self.as_json:
                print_json_list(map(as_object, tally))
            else:
                for found in tally:
                    if show and found.error is None:
                        show(found)
            tally.conclude()
            return
        facts = {
            "effnet_zoo": doing,
            "model": self.name,
            "weights": _weights(model),
            "preprocessing": dataclasses.asdict(how),
            "dtype": self.dtype,
            **facts,
        }
        to_row = as_object if self.output.suffix == ".jsonl" else as_row
        with open_rows(self.output, columns, facts, resume=self.resume) as rows:
            left = (path for path in images if digest(path) not in rows.done)
            tally = _Tally(
                with_rate(results(left, run), self._count, doing, done=len(rows.done)),
                total=len(rows.done),
                failed=rows.failed,
            )
            found_all = iter(tally)
            while batch := list(itertools.islice(found_all, self.batch_size)):
                rows.write(list(map(to_row, batch)))
        typer.echo(f"wrote {self.output}: {tally.total} rows")
        tally.conclude()

    def _engine(self, model: "AnyModel", size: tuple[int, int], *, many: bool) -> "Run | None":
        from effnet_zoo.model import EfficientNet

        if not isinstance(model, EfficientNet):
            return None
        if self.engine is None and self.dtype == "float32" and not many:
            return None  # the model itself: an engine would take longer to make than to run
        backend = self.engine or ("auto" if many else "eager")
        from effnet_zoo.engines import engine

        return engine(model, backend=backend, dtype=self.dtype, batch=self.batch_size, size=size)

    @property
    def _count(self) -> Callable[[], int] | None:
        from effnet_zoo.images import find_images

        if self.from_list == "-":
            return None
        return lambda: sum(1 for _ in find_images(self.paths or [], self.from_list))


def _weights(model: "AnyModel") -> str:
    """What stands for the weights, and for how a file computes with them."""
    from effnet_zoo.model import EfficientNet
    from effnet_zoo.statefile import fingerprint

    return fingerprint(model.state_dict()) if isinstance(model, EfficientNet) else model.fingerprint


class _Tally(Generic[Found]):
    """Counts what is drawn through it, and says what could not be read."""

    def __init__(self, results: Iterable[Found], total: int = 0, failed: int = 0) -> None:
        self.results, self.total, self.failed = results, total, failed

    def __iter__(self) -> Iterator[Found]:
        for found in self.results:
            self.total += 1
            if found.error is not None:
                self.failed += 1
                typer.echo(f"effnet-zoo: {found.error}", err=True)
            yield found

    def conclude(self) -> None:
        if self.failed:
            typer.echo(f"effnet-zoo: {self.failed} of {self.total} files could not be read", err=True)
            raise typer.Exit(1)
