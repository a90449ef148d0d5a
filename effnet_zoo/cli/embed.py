"""``effnet-zoo embed``"""

from typing import TYPE_CHECKING, Any

from effnet_zoo.cli import batch
from effnet_zoo.cli.output import AsJson
from effnet_zoo.errors import ArgumentError

if TYPE_CHECKING:
    from effnet_zoo.predict import Embedding


def embed(
    paths: batch.Paths = None,
    model: batch.Model = batch.DEFAULT_MODEL,
    as_json: AsJson = False,
    from_list: batch.FromList = None,
    output: batch.Output = None,
    resume: batch.Resume = False,
    force: batch.Force = False,
    engine: batch.EngineOption = None,
    dtype: batch.Dtype = "float32",
    batch_size: batch.BatchSize = 32,
    workers: batch.Workers = None,
) -> None:
    """Write the pooled features of photos: what the classifier sees, to search, cluster or train on.

    effnet-zoo embed archive/ --output features.parquet

    effnet-zoo embed --from-list files.txt --model effnet_zoo_b3 --output features.csv --resume
    """
    job = batch.Job(
        paths=paths,
        from_list=from_list,
        model=model,
        output=output,
        resume=resume,
        force=force,
        engine=engine,
        dtype=dtype,
        batch_size=batch_size,
        workers=workers,
        as_json=as_json,
    )
    if output is None and not as_json:
        raise ArgumentError("embed: expected --output FILE, or --json for standard output")
    name = job.name
    from effnet_zoo import predict as predicting
    from effnet_zoo.images import shown
    from effnet_zoo.rows import Column

    images = job.find()
    pooled = job.load(num_classes=0)

    def values(embedding: "Embedding") -> list[float] | None:
        return None if embedding.features is None else embedding.features.tolist()

    def as_row(embedding: "Embedding") -> dict[str, Any]:
        return {"path": shown(embedding.path), "error": embedding.error, "feature": values(embedding)}

    def as_object(embedding: "Embedding") -> dict[str, Any]:
        answer = {"path": shown(embedding.path), "model": name}
        if embedding.error is not None:
            return {**answer, "error": embedding.error}
        return {**answer, "feature": values(embedding)}

    job.run(
        pooled,
        images,
        lambda some, run: predicting.embed(pooled, some, run=run, **job.how()),
        doing="embedding",
        facts={},
        columns=[Column("path", "text"), Column("error", "text"), Column("feature", "reals", pooled.head_hidden_size)],
        as_row=as_row,
        as_object=as_object,
    )
