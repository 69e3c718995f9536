"""Imports in clipft point one way.

cli -> train -> advise, evaluate, embed, export, predict, report -> model, data -> config, errors, words.

Run it from the repository's root: it prints each import that goes against this and exits 1, or says that all is well.
It reads the source with `ast` and imports nothing, so that it needs no torch.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

LAYERS: Mapping[str, int] = {
    "cli": 0,
    "train": 1,
    "advise": 2,
    "evaluate": 2,
    "embed": 2,
    "export": 2,
    "predict": 2,
    "report": 2,
    "model": 3,
    "data": 3,
    "config": 4,
    "errors": 5,
    "words": 5,
}
"""Room (the first name below clipft) to floor; a file may import its own room and rooms on lower floors."""

NEIGHBOURS_MEET = frozenset({2})
"""Floors whose rooms may import each other, as predict does evaluate; no ring may come of it."""

ENTRANCES = frozenset({"clipft", "clipft.__main__"})
"""They open the house from outside and stand on no floor: `clipft.load` is a door to a room, taken when called."""

LIGHT_ROOMS = frozenset({"config", "errors", "words"})
"""Without torch wherever they are used; `cli` is so at its top: a config error must answer in half a second."""

HEAVY = frozenset(
    {"torch", "torchvision", "open_clip", "timm", "transformers", "pyarrow", "pandas", "matplotlib", "sklearn", "umap"}
)


@dataclass(frozen=True)
class Import:
    """One import statement's target, as seen from the file that has it."""

    line: int
    target: str
    at_top: bool  # runs when the file is imported: not inside a function, not under TYPE_CHECKING


def main() -> int:
    """Check the package beside this script's folder; the exit code is 1 where an import goes the wrong way."""
    files = read_package(Path(__file__).resolve().parent.parent / "clipft")
    problems = find_problems(files)
    for problem in problems:
        print(problem)
    print(f"imports: {len(problems)} against the direction, in {len(files)} files", file=sys.stderr)
    return 1 if problems else 0


def read_package(folder: Path) -> dict[str, list[Import]]:
    """Each module of the package in `folder` by its dotted name, with what it imports."""
    sources = {module_name(path, folder): path for path in sorted(folder.rglob("*.py"))}
    return {name: list(_imports(name, path, frozenset(sources))) for name, path in sources.items()}


def module_name(path: Path, folder: Path) -> str:
    """`clipft/config/load.py` is `clipft.config.load`, a folder's `__init__.py` the folder itself."""
    parts = path.relative_to(folder.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def find_problems(files: Mapping[str, list[Import]]) -> list[str]:
    """All that goes against the rules, a sentence each."""
    problems = [problem for name, imports in files.items() for problem in _problems_of(name, imports)]
    edges = {name: {i.target for i in imports if i.target in files} - ENTRANCES for name, imports in files.items()}
    problems += [f"ring of files: {' -> '.join(ring)}" for ring in find_rings(edges)]
    rooms: dict[str, set[str]] = {}
    for name in files.keys() - ENTRANCES:
        rooms.setdefault(room_of(name), set()).update(room_of(target) for target in edges[name])
    problems += [f"ring of rooms: {' -> '.join(ring)}" for ring in find_rings(rooms)]
    return problems


def room_of(module: str) -> str:
    """The first name below the package: `train` of `clipft.train.loop`."""
    return module.split(".")[1]


def find_rings(edges: Mapping[str, set[str]]) -> list[tuple[str, ...]]:
    """Rings among names, each once, starting and ending at its first name; an edge to itself is none."""
    rings: dict[frozenset[str], tuple[str, ...]] = {}
    done: set[str] = set()

    def walk(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            ring = path[path.index(name) :]
            if len(ring) > 1:
                start = ring.index(min(ring))
                rings.setdefault(frozenset(ring), (*ring[start:], *ring[:start], ring[start]))
            return
        if name in done:
            return
        for target in sorted(edges.get(name, ())):
            walk(target, (*path, name))
        done.add(name)

    for name in sorted(edges):
        walk(name, ())
    return sorted(rings.values())


def _problems_of(name: str, imports: list[Import]) -> Iterator[str]:
    if name in ENTRANCES:
        return
    room = room_of(name)
    if room not in LAYERS:
        yield f"{name}: room {room!r} stands on no floor; add it to LAYERS in scripts/check_imports.py"
        return
    for found in imports:
        place = f"{name}:{found.line}"
        top = found.target.split(".")[0]
        if top in HEAVY and (room in LIGHT_ROOMS or (room == "cli" and found.at_top)):
            yield f"{place}: imports {top}; {room} must answer without it" + (
                " (import it inside the command)" if room == "cli" else ""
            )
        if top != "clipft" or found.target in ENTRANCES:
            continue
        target = room_of(found.target)
        if target in LAYERS and not _may_import(room, target):
            yield f"{place}: {room} imports {found.target}; imports point from {_direction()}"


def _may_import(room: str, target: str) -> bool:
    here, there = LAYERS[room], LAYERS[target]
    return room == target or here < there or (here == there and here in NEIGHBOURS_MEET)


def _direction() -> str:
    floors = [", ".join(room for room in LAYERS if LAYERS[room] == floor) for floor in sorted(set(LAYERS.values()))]
    return " -> ".join(floors)


def _imports(name: str, path: Path, modules: frozenset[str]) -> Iterator[Import]:
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node, at_top in _statements(tree, at_top=True):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(node.lineno, alias.name, at_top)
        elif isinstance(node, ast.ImportFrom):
            origin = _origin(node, package)
            for alias in node.names:
                # `from clipft.config import schema` names a module, `from clipft.errors import InputError` does not
                whole = f"{origin}.{alias.name}"
                yield Import(node.lineno, whole if whole in modules else origin, at_top)


def _origin(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    base = package.split(".")[: len(package.split(".")) - (node.level - 1)]
    return ".".join([*base, *([node.module] if node.module else [])])


def _statements(tree: ast.AST, *, at_top: bool) -> Iterator[tuple[ast.AST, bool]]:
    for node in ast.iter_child_nodes(tree):
        yield node, at_top
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            yield from ((inner, False) for part in node.body for inner in ast.walk(part))
            for part in node.orelse:
                yield part, at_top
                yield from _statements(part, at_top=at_top)
        else:
            later = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _statements(node, at_top=at_top and not later)


if __name__ == "__main__":
    sys.exit(main())
