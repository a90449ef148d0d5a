"""``effnet-zoo predict``"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.table import Table
from rich.text import Text

from effnet_zoo.cli import batch
from effnet_zoo.cli.options import bundled
from effnet_zoo.cli.output import print_json_list, print_table
from effnet_zoo.errors import ArgumentError, printable

if TYPE_CHECKING:
    from effnet_zoo.predict.prediction import Prediction


@bundled
def predict(
    options: batch.FileOptions,
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
    if out is not None and options.output:
        raise ArgumentError("--out draws pictures of a few files, --output lists many: expected one of them")
    from effnet_zoo.images.finding import path_text

    pictures = None
    if out is not None:
        from effnet_zoo.predict.pictures import Pictures

        pictures = Pictures(out, options.model_name, orientation=options.orientation)
    with batch.opened(options, topk=topk) as files:
        if options.output:
            files.write()
            return
        predictions = cast("Iterator[Prediction]", files.results())
        drawn = ((found, pictures.save(found) if pictures and found.error is None else None) for found in predictions)
        if options.as_json:
            print_json_list(
                files.as_json(found, **({"picture": path_text(picture)} if picture else {})) for found, picture in drawn
            )
        else:
            for found, picture in drawn:
                if found.error is None:
                    _show(found, options.model_name, picture)


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
