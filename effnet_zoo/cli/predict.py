"""``effnet-zoo predict``"""

import dataclasses
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from effnet_zoo.cli import batch
from effnet_zoo.cli.output import print_table
from effnet_zoo.errors import ArgumentError, printable
from effnet_zoo.images.paths import path_text

if TYPE_CHECKING:
    from effnet_zoo.predict.pictures import Pictures
    from effnet_zoo.predict.prediction import Model, Prediction


@batch.with_job
def predict(
    job: batch.Job,
    topk: Annotated[int, typer.Option(min=1, help="How many classes; all of a model that has fewer.")] = 5,
    out: Annotated[Path | None, typer.Option(help="Folder for a picture of each result.", show_default=False)] = None,
) -> None:
    """Classify photos with pretrained weights and the preprocessing that belongs to them.

    effnet-zoo predict photo.jpg --out pictures

    effnet-zoo predict holiday/ '*.png' --model effnet_zoo_b3 --topk 3 --json

    effnet-zoo predict archive/ --output labels.parquet --resume   # millions; the same again after an interruption

    effnet-zoo predict bird.jpg --model local-dir:mine   # what convert and push --to write

    effnet-zoo predict bird.jpg --model mine.onnx   # what export and quantize write
    """
    if out is not None and job.output:
        raise ArgumentError("--out draws pictures of a few files, --output lists many: expected one of them")
    pictures = None
    if out is not None:
        from effnet_zoo.predict.pictures import Pictures

        pictures = Pictures(out, job.name, orientation=job.orientation)
    job.run(lambda model: _work(model, topk, job.name, pictures))


def _work(model: "Model", topk: int, name: str, pictures: "Pictures | None") -> "batch.Work[Prediction]":
    from effnet_zoo import predict as predicting
    from effnet_zoo.predict.results import Column

    topk = min(topk, model.num_classes or topk)
    places = range(1, topk + 1)
    columns = []
    for place in places:
        columns += [
            Column(f"index_{place}", "whole"),
            Column(f"label_{place}", "text"),
            Column(f"probability_{place}", "real"),
        ]

    def cells(prediction: "Prediction") -> dict[str, Any]:
        pairs = zip(places, map(dataclasses.asdict, prediction.guesses), strict=True)
        return {f"{key}_{place}": value for place, guess in pairs for key, value in guess.items()}

    def answer(prediction: "Prediction") -> dict[str, Any]:
        picture = {"picture": path_text(pictures.save(prediction))} if pictures else {}
        return {**picture, "classes": [dataclasses.asdict(guess) for guess in prediction.guesses]}

    def show(prediction: "Prediction") -> None:
        _show(prediction, name, pictures.save(prediction) if pictures else None)

    return batch.Work(
        doing="predicting",
        results=functools.partial(predicting.predict, model, topk=topk),
        columns=columns,
        cells=cells,
        answer=answer,
        show=show,
        topk=topk,
    )


def _show(prediction: "Prediction", name: str, picture: Path | None) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("probability", justify="right", no_wrap=True)
    table.add_column("class", justify="right", no_wrap=True)
    table.add_column("name")
    for guess in prediction.guesses:
        table.add_row(f"{guess.probability:.1%}", str(guess.index), Text(printable(guess.label)))
    typer.echo(printable(f"{prediction.path}  ({name})"))
    print_table(table)
    typer.echo(printable(f"picture: {picture}") + "\n" if picture else "")
