"""The tree of a model's modules, in 80 columns: name, class and shapes; parameters; part, or state under a config."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from rich.console import Console
from rich.text import Text

from clipft.model.module_tree import Node, OwnTensor
from clipft.report.amounts import grouped

_LEVELS = {True: 2, False: 1}  # shown below a part: of blocks that are alike one stands for all, so more
_CUT = "[+]"
_CONTAINERS = ("ModuleList", "Sequential")  # no level of their own
_SHORT = {"NonDynamicallyQuantizableLinear": "Linear"}  # torch's linear layer, marked for its quantiser
_INDENT = "  "


def print_tree(tree: Node, console: Console, *, full: bool = False) -> None:
    """The modules, cut a little below each part; all of them with `full`."""
    rows = list(_module(tree, 0, full=full))
    _print(rows, console)
    if any(row.left.endswith(_CUT) for row in rows):
        console.print(f"\n {_CUT} has more inside: --block N shows a whole block, --full every module", markup=False)


def print_blocks(number: int, blocks: Mapping[str, Node], console: Console) -> None:
    """Every module and tensor of one block, tower by tower; a tower that has none of that number is named."""
    for tower in ("image", "text"):
        if tower in blocks:
            console.print(Text(f"{tower} block {number}", style="bold"))
            _print(list(_module(blocks[tower], 0, full=True)), console)
        else:
            console.print(f"the {tower} tower has no block {number}")


@dataclass(frozen=True)
class _Row:
    """A line: what stands left, its parameters, its part or state, and the style that repeats the state."""

    left: str
    parameters: str = ""
    last: str = ""
    style: str = ""


def _module(node: Node, depth: int, *, full: bool, style: str = "", levels: int | None = None) -> Iterator[_Row]:
    """A module's line, then its own tensors and its modules, each a step further in.

    Args:
        style: of the module around it, which one without parameters follows.
        levels: how many of them are still shown; None above the modules that name a part.
    """
    levels = _LEVELS[node.count > 1] if levels is None and node.part else levels
    shown = [child for child in node.children if full or not _is_silent(child)]
    cut = not full and levels == 0 and bool(shown)
    kind = _SHORT.get(node.kind, node.kind)
    many = f"{node.count} x " if node.count > 1 else ""
    name = f"{node.name}: " if node.name else ""
    words = [f"{_INDENT * depth}{name}{many}{kind}", "" if node.children else _about(node), _CUT * cut]
    size = f"{many}{grouped(node.parameters)}" if node.parameters else ""
    last, own_style = _standing(node)
    style = own_style if node.parameters else style
    yield _Row(" ".join(filter(None, words)), size, last, style)
    if cut:
        return
    for tensor in node.tensors if node.children or not _is_plain(node) else ():
        yield _tensor(tensor, depth + 1)
    for child in shown:
        step = 0 if child.kind in _CONTAINERS else 1
        left = None if levels is None else levels - step
        yield from _module(child, depth + 1, full=full, style=style, levels=left)


def _tensor(tensor: OwnTensor, depth: int) -> _Row:
    last, style = tensor.part, ""
    if tensor.trains is not None:
        last, style = ("trains", "green") if tensor.trains else ("frozen", "dim")
    return _Row(f"{_INDENT * depth}{tensor.name} {_shape(tensor)}", grouped(prod(tensor.shape)), last, style)


def _is_silent(node: Node) -> bool:
    """Identity and dropout of nothing: they are there to be replaced."""
    return node.kind == "Identity" or (node.kind.startswith("Drop") and node.detail.startswith("p=0.0"))


def _is_plain(node: Node) -> bool:
    """Whether its tensors are a weight and perhaps a bias, which fit on its own line."""
    return {tensor.name for tensor in node.tensors} <= {"weight", "bias"}


def _about(node: Node) -> str:
    """What a module without others in it says on its line: the shape of its weight, else what torch says of it."""
    if not node.tensors:
        return f"({node.detail})" if node.detail else ""
    if not _is_plain(node):
        return ""
    return " + ".join(_shape(t) if t.name == "weight" else t.name for t in node.tensors)


def _shape(tensor: OwnTensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "1"


def _standing(node: Node) -> tuple[str, str]:
    """A module's part; under a plan its state, and the style that goes with it."""
    if node.trainable is None:
        return node.part, ""
    if not node.parameters:
        return "", ""
    if node.trainable == node.parameters:
        return "trains", "green"
    return ("frozen", "dim") if not node.trainable else (f"{grouped(node.trainable)} train", "")


def _print(rows: Sequence[_Row], console: Console) -> None:
    """Three columns; `12 x` before a size may stand in the first, and what is too long for that is cut."""
    size = max(len(row.parameters.rpartition(" ")[2]) for row in rows)
    last = max(len(row.last) for row in rows)
    wanted = max(len(row.left) + max(size, len(row.parameters)) for row in rows)  # a wide terminal is not filled
    for row in rows:
        number = max(size, len(row.parameters))
        room = max(min(console.width - last - 5, wanted) - number, 20)
        line = f" {_fitting(row.left, room):<{room}}  {row.parameters:>{size}}  {row.last}".rstrip()
        console.print(Text(line, style=row.style), soft_wrap=True)


def _fitting(words: str, room: int) -> str:
    if len(words) <= room:
        return words
    end = f"… {_CUT}" if words.endswith(_CUT) else "…"
    return words[: room - len(end)] + end
