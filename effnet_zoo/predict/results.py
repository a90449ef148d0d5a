"""Result files with a row an image, written as they come and continued after an interruption.

Beside a file, ``NAME.run.json`` keeps what its rows depend on, so that rows of two models never meet in one file. One
process at a time holds an output, from `reserved` to its end. A process that is killed at any moment leaves rows that
the next one continues.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from effnet_zoo import documents
from effnet_zoo.atomic_io import check_destination, exclusive, open_regular, read_text
from effnet_zoo.errors import InputError, MissingExtraError, quoted
from effnet_zoo.predict.formats import FORMATS, OutputFiles, Rows
from effnet_zoo.predict.tables import Facts


@contextmanager
def reserved(path: Path, *, resume: bool = False, force: bool = False) -> Iterator["Output"]:
    """Hold a result file for this process until the block ends. Enter the block before the work begins.

    Args:
        path: The file to write. Its suffix says the format.
        resume: Keep the rows that are there.
        force: Replace the rows that are there, as soon as there are new ones.

    Raises:
        InputError: If no format has the suffix, the file is there already and neither resume nor force is wanted,
            another process holds it, or the system refuses to write there.
        MissingExtraError: If the format needs a package that is not installed.
    """
    if path.suffix not in FORMATS:
        raise InputError(f"{path}: expected a file that ends in {', '.join(FORMATS)}")
    if path.suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError:
            raise MissingExtraError(
                f"{path}: Parquet needs pyarrow, which is not installed: pip install 'effnet-zoo[parquet]'"
            ) from None
    output = Output(OutputFiles(check_destination(path)), resume=resume, force=force)
    if output.path.is_dir():
        raise InputError(f"{path}: expected a file to write, found a folder")
    if output.path.exists():
        open_regular(output.path).close()
    check_destination(output.files.run_json)  # the longest of the names beside it
    with exclusive(output.path):
        if output.files.exist() and not (resume or force):
            raise InputError(f"{path}: there already: continue it with --resume, or replace it with --force")
        yield output


class Output:
    """A result file that this process holds: see `reserved`.

    Attributes:
        path: Where it is, without symbolic links.
        files: The file and what lies beside it.
    """

    def __init__(self, files: OutputFiles, *, resume: bool, force: bool) -> None:
        self.path, self.files = files.path, files
        self._resume, self._force = resume, force

    @contextmanager
    def rows(self, facts: Facts) -> Iterator["Rows"]:
        """Yield the rows, open for more. They are closed when the block ends, and joined unless it raises.

        Raises:
            InputError: If the rows that are kept depend on other facts, or cannot be read.
        """
        rows = FORMATS[self.path.suffix](self.files, facts, replace=self._force)
        if self._resume and self.files.exist():
            self._check_facts(facts)
            rows.recall()
        try:
            yield rows
        except BaseException:
            rows.close(whole=False)
            raise
        rows.close(whole=True)

    def _check_facts(self, facts: Facts) -> None:
        run_json = self.files.run_json
        if not run_json.exists():
            raise InputError(f"{self.path}: {run_json.name} is missing, which says how it was made: use --force")
        try:
            stored = documents.from_json(read_text(run_json), Facts, str(run_json), InputError)
        except InputError as error:
            raise InputError(f"{error}: choose another name or --force") from None
        old, new = _flat(stored), _flat(facts)
        if changed := [name for name in new | old if old.get(name) != new.get(name)]:
            differences = (f"{name} was {quoted(old.get(name))} and is {quoted(new.get(name))}" for name in changed)
            raise InputError(
                f"{self.path}: made with other settings, so it is not continued: {'; '.join(differences)}: choose "
                "another name or --force"
            )


def _flat(facts: Facts) -> dict[str, Any]:
    values = msgspec.to_builtins(facts)
    return values | values.pop("preprocessing")
