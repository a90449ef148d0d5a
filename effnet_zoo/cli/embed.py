"""``effnet-zoo embed``"""

import functools
from typing import TYPE_CHECKING, Any

from effnet_zoo.cli import batch
from effnet_zoo.errors import ArgumentError

if TYPE_CHECKING:
    from effnet_zoo.predict.prediction import Embedding, Model


@batch.with_job
def embed(job: batch.Job) -> None:
    """Write the pooled features of photos: what the classifier sees, to search, cluster or train on.

    effnet-zoo embed archive/ --output features.parquet

    effnet-zoo embed --from-list files.txt --model effnet_zoo_b3 --output features.csv --resume
    """
    if job.output is None and not job.as_json:
        raise ArgumentError("embed: expected --output FILE, or --json for standard output")
    job.run(_work, num_classes=0)


def _work(model: "Model") -> "batch.Work[Embedding]":
    from effnet_zoo import predict as predicting
    from effnet_zoo.predict.results import Column

    def cells(embedding: "Embedding") -> dict[str, Any]:
        assert embedding.features is not None
        return {"feature": embedding.features.tolist()}

    return batch.Work(
        doing="embedding",
        results=functools.partial(predicting.embed, model),
        columns=[Column("feature", "reals", model.head_hidden_size)],
        cells=cells,
        answer=cells,
    )
