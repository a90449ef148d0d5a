"""No two public things of the package share a name, so that a name says which thing is meant."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import effnet_zoo

ROOT = Path(effnet_zoo.__file__).parent
ONE_A_FILE = {"TABLE", "LAYOUT", "main"}
"""Names that stand for the same thing in each file that has them: a library's key table and layout, an entry point."""


def public_names(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.AnnAssign(target=ast.Name(id=name)):
                yield name
            case ast.Assign(targets=targets):
                yield from (target.id for target in targets if isinstance(target, ast.Name))


def test_no_two_public_things_share_a_name() -> None:
    places = defaultdict(set)
    for path in ROOT.rglob("*.py"):
        if path.parent.name != "cli":  # a command has the name of the function that it calls
            for name in public_names(ast.parse(path.read_text(encoding="utf-8"))):
                places[name].add(str(path.relative_to(ROOT)))
    shared = {name: found for name, found in places.items() if len(found) > 1 and name not in ONE_A_FILE}
    assert {name: found for name, found in shared.items() if not name.startswith("_")} == {}
    assert places.keys() >= ONE_A_FILE
