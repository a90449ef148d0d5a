"""``effnet-zoo embed``"""

from effnet_zoo.cli import batch
from effnet_zoo.cli.options import bundled
from effnet_zoo.cli.output import print_json_list
from effnet_zoo.errors import ArgumentError


@bundled
def embed(options: batch.FileOptions) -> None:
    """Write the pooled features of photos: what the classifier sees, to search, cluster or train on.

    effnet-zoo embed archive/ --output features.parquet

    effnet-zoo embed --from-list files.txt --model effnet_zoo_b3 --output features.csv --resume
    """
    if options.output is None and not options.as_json:
        raise ArgumentError("embed: expected --output FILE, or --json for standard output")
    with batch.opened(options) as files:
        if options.output:
            files.write()
        else:
            print_json_list(map(files.as_json, files.results()))
