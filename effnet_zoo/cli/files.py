"""``effnet-zoo predict`` and ``embed``: files through a model, onto the screen or into a result file."""

import functools
import itertools
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Argument, Exit, Option, echo

from effnet_zoo.cli.options import Force, one_of, refuse_if
from effnet_zoo.cli.output import AsJson, print_json_list, print_rows, with_progress
from effnet_zoo.errors import printable
from effnet_zoo.zoo import catalogue
from effnet_zoo.zoo.preprocessing import preprocessing_of

if TYPE_CHECKING:
    from effnet_zoo.images.finding import Skipped
    from effnet_zoo.predict.pictures import Pictures
    from effnet_zoo.predict.prediction import Runnable
    from effnet_zoo.predict.results import Output

MODEL = "effnet_zoo_lite0.pypi_in1k"
ENGINE_CHOICES = ("auto", "eager", "inductor", "onnxruntime", "openvino")
DTYPES = ("float32", "bfloat16", "float16")
MANY = 256
"""With this many files it pays to measure which engine is fastest, and to import torch for resizing."""

ENGINE_HELP = f"{', '.join(ENGINE_CHOICES)}. By default, auto for {MANY} files and more, plain PyTorch below."


@dataclass(frozen=True, kw_only=True)
class FileOptions:
    """The options of both commands. ArgumentError is raised if two of them contradict each other."""

    paths: Annotated[list[str] | None, Argument(metavar="PATH", help="Images, folders or globs.")] = None
    model: Annotated[str, Option(help="A name, local-dir:FOLDER, hf-hub:owner/name, or an .onnx or .xml file.")] = MODEL
    as_json: AsJson = False
    from_list: Annotated[str | None, Option(help="A text file with one path a line, or - for standard input.")] = None
    output: Annotated[
        Path | None, Option(help="A .csv, .jsonl or .parquet file to write, with one row for each image.")
    ] = None
    resume: Annotated[bool, Option("--resume", help="Keep the rows of an interrupted run, and continue it.")] = False
    force: Force = False
    orientation: Annotated[
        bool, Option(help="Turn photos as their EXIF orientation says. Published figures are measured without it.")
    ] = True
    device: Annotated[str | None, Option(help="cpu, cuda, cuda:1, mps or xpu. By default, cpu.")] = None
    engine: Annotated[str | None, Option(help=ENGINE_HELP, callback=one_of(*ENGINE_CHOICES))] = None
    dtype: Annotated[
        str, Option(help=f"Compute in {', '.join(DTYPES[:-1])} or {DTYPES[-1]}.", callback=one_of(*DTYPES))
    ] = "float32"
    batch_size: Annotated[int, Option(min=1, help="Largest number of images computed at once.")] = 32
    workers: Annotated[
        int | None, Option(min=1, help="Threads that decode images. By default, as many as torch has.")
    ] = None

    def __post_init__(self) -> None:
        refuse_if(not self.paths and self.from_list is None, "expected images, folders or globs, or --from-list FILE")
        for name, given in (("resume", self.resume), ("force", self.force)):
            refuse_if(given and self.output is None, f"--{name}: expected --output FILE with it")
        refuse_if(self.resume and self.force, "--resume keeps the output and --force replaces it: expected one of them")
        same = self.output and self.from_list and os.path.realpath(self.output) == os.path.realpath(self.from_list)
        refuse_if(same, f"--output {self.output}: this is the list of --from-list: expected another name")
        refuse_if(
            self.exported and (self.engine or self.device or self.dtype != "float32"),
            f"--engine, --device and --dtype: {self.model} is run by its own runtime on the processor: leave them out",
        )
        refuse_if(self.output and self.as_json, "--json prints and --output writes: FILE.jsonl has lines of JSON")

    @property
    def exported(self) -> bool:
        """Whether the model is a file that export wrote."""
        return self.model.endswith((".onnx", ".xml"))

    @property
    def source(self) -> str:
        """The model's name in full, or where it is."""
        return self.model if self.exported or ":" in self.model else catalogue.find(self.model)[1].name

    def images(self, skipped: "Skipped | None" = None) -> Iterator[Path]:
        """Return the files that are named: see `find_images`."""
        from effnet_zoo.images.finding import find_images

        return find_images(self.paths or [], self.from_list, skipped=skipped)

    def load(self, *, classes: bool, many: bool) -> "Runnable":
        """Return the model, run by the engine that is wanted, or that is fastest for many files."""
        if self.exported:
            from effnet_zoo.runtime.exported import Exported

            return Exported(Path(self.model), resize="torch" if many else "pillow")
        import torch

        from effnet_zoo.checkpoints.creation import create_classifier
        from effnet_zoo.network.options import BuildOptions
        from effnet_zoo.predict.torch_model import TorchModel

        options = BuildOptions(device=torch.device(self.device or "cpu"))
        if not classes:
            options["num_classes"] = 0
        model = create_classifier(self.source, pretrained=True, **options)
        if self.engine is None and self.dtype == "float32" and not many:
            return TorchModel(model, None)  # an engine would take longer to make than to run
        from effnet_zoo.runtime.engine import engine

        backend, size = self.engine or ("auto" if many else "eager"), preprocessing_of(model.pretrained_cfg).size
        return TorchModel(model, engine(model, backend=backend, dtype=self.dtype, batch=self.batch_size, size=size))


@dataclass(kw_only=True)
class Batch:
    """Files on their way through a model, to the screen or into a result file. It counts them, and those with an error.

    With `topk` classes are predicted; without, features are computed.
    """

    options: FileOptions
    model: "Runnable"
    images: Iterable[Path]
    topk: int | None
    pictures: "Pictures | None"
    total: int = 0
    failed: int = 0

    @property
    def doing(self) -> Literal["predicting", "embedding"]:
        return "embedding" if self.topk is None else "predicting"

    def results(self) -> Iterator[Any]:
        """Yield the `Prediction` or `Embedding` of each file. If there is an error instead, print it too."""
        from effnet_zoo.predict.prediction import embed, predict

        options = self.options
        how = {"batch_size": options.batch_size, "workers": options.workers, "orientation": options.orientation}
        run: Any = embed if self.topk is None else functools.partial(predict, topk=self.topk)
        computed = run(self.model, self.images, **how)
        count = None if options.from_list == "-" else lambda: sum(1 for _ in options.images())
        between_tables = options.output is None and not options.as_json and sys.stdout.isatty()
        for result in with_progress(computed, count, self.doing, done=self.total, wanted=not between_tables):
            self.total += 1
            if result.error is not None:
                self.failed += 1
                echo(f"effnet-zoo: {result.error}", err=True)
            yield result

    def picture(self, result: Any) -> Path | None:
        return self.pictures.save(result) if self.pictures and result.error is None else None

    def as_json(self, result: Any) -> dict[str, Any]:
        """Return a result as a JSON object, with the model's name and the path of its picture."""
        from effnet_zoo.images.finding import path_text
        from effnet_zoo.predict.results import as_json

        picture = self.picture(result)
        drawn = {"picture": path_text(picture)} if picture else {}
        return as_json(result, model=printable(self.options.source), orientation=self.options.orientation, **drawn)

    def show(self) -> None:
        """Print a table of the classes of each file."""
        for result in self.results():
            if result.error is None:
                picture = self.picture(result)
                rows = [[f"{each.probability:.1%}", str(each.index), printable(each.label)] for each in result.guesses]
                echo(printable(f"{result.path}  ({self.options.source})"))
                print_rows(["probability", "class", "name"], rows, left=["name"])
                echo(printable(f"picture: {picture}") + "\n" if picture else "")

    def write(self, output: "Output") -> None:
        """Write the results of the files that have no row yet to the output, and say how many rows it has."""
        from effnet_zoo.images.finding import digest, path_text
        from effnet_zoo.predict.results import Facts, as_row, columns

        facts = Facts(
            effnet_zoo=self.doing,
            model=printable(self.options.source),
            weights=self.model.fingerprint,
            preprocessing=self.model.preprocessing,
            orientation=self.options.orientation,
            dtype=self.options.dtype,
            topk=self.topk,
            columns=columns(self.topk, self.model.head_hidden_size),
        )
        to_row = self.as_json if output.path.suffix == ".jsonl" else as_row
        with output.opened(facts):
            done, self.failed = output.done, output.failed
            self.total = len(done)
            self.images = (path for path in self.images if digest(path_text(path)) not in done)
            results = self.results()
            while batch := list(itertools.islice(results, self.options.batch_size)):
                output.write(list(map(to_row, batch)))
        echo(printable(f"wrote {self.options.output}: {self.total} rows"))


def predict(
    options: FileOptions,
    topk: Annotated[int, Option(min=1, help="Number of classes to show for each image, at most.")] = 5,
    out: Annotated[Path | None, Option(help="Folder for a picture of each result.")] = None,
) -> None:
    """Classify photos with pretrained weights and the preprocessing that belongs to them.

    effnet-zoo predict photo.jpg --out pictures

    effnet-zoo predict holiday/ '*.png' --model effnet_zoo_b3 --topk 3 --json

    effnet-zoo predict archive/ --output labels.parquet --resume   # millions; the same again after an interruption

    effnet-zoo predict bird.jpg --model local-dir:mine   # what convert and push --to write

    effnet-zoo predict bird.jpg --model mine.onnx   # what export and quantize write
    """
    refuse_if(out and options.output, "--out draws pictures of a few files, --output lists many: expected one of them")
    pictures = None
    if out is not None:
        from effnet_zoo.predict.pictures import Pictures

        pictures = Pictures(out, options.source, orientation=options.orientation)
    _run(options, topk, pictures)


def embed(options: FileOptions) -> None:
    """Write the pooled features of photos: what the classifier sees, to search, cluster or train on.

    effnet-zoo embed archive/ --output features.parquet

    effnet-zoo embed --from-list files.txt --model effnet_zoo_b3 --output features.csv --resume
    """
    nowhere = options.output is None and not options.as_json
    refuse_if(nowhere, "embed: expected --output FILE, or --json for standard output")
    _run(options)


def _run(options: FileOptions, topk: int | None = None, pictures: "Pictures | None" = None) -> None:
    """Send the files through the model, and say at the end how many failed.

    Input that cannot be read, and output that cannot be written, are refused before weights are fetched.
    """
    from effnet_zoo.images.finding import Skipped
    from effnet_zoo.predict.results import reserved

    if options.device is not None:
        from effnet_zoo.network.devices import find_device

        find_device(options.device)
    skipped = Skipped()
    images = options.images(skipped)
    held = reserved(options.output, resume=options.resume, force=options.force) if options.output else nullcontext()
    with held as output:
        first = list(itertools.islice(images, MANY))
        model = options.load(classes=topk is not None, many=len(first) == MANY)
        topk = topk and min(topk, model.num_classes or topk)
        images = itertools.chain(first, images)
        batch = Batch(options=options, model=model, images=images, topk=topk, pictures=pictures)
        if output:
            batch.write(output)
        elif options.as_json:
            print_json_list(map(batch.as_json, batch.results()))
        else:
            batch.show()
    if skipped:
        echo(f"effnet-zoo: {skipped}", err=True)
    if batch.failed:
        echo(f"effnet-zoo: {batch.failed} of {batch.total} files have an error and no result", err=True)
        raise Exit(1)
