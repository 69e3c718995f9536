"""A model's modules as a tree: what lies where, how big it is, to which part it belongs, and whether it trains."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import Any

from torch import nn

from clipft.errors import InputError
from clipft.model.plan import Plan, block_number
from clipft.model.tower import Tower, dropout_name, owners

_DROP_PATHS = ("DropPath", "Identity")  # one in place of the other in block 0, and a rate that rises with the block


@dataclass(frozen=True)
class OwnTensor:
    """A parameter that lies directly in a module.

    Args:
        name: in that module.
        part: the part of the model that it belongs to; empty where its module says it already.
        trains: None where no plan was asked.
    """

    name: str
    shape: tuple[int, ...]
    part: str = ""
    trains: bool | None = None


@dataclass(frozen=True)
class Node:
    """A module, or several equal ones in a row.

    Args:
        name: below its parent; of a row the first and last number, `(0-11)`.
        kind: its class.
        count: how many equal modules this stands for.
        detail: what it says of itself, such as `p=0.1`.
        part: the part of the model that all its parameters belong to, such as `image block 3`; empty where they
            belong to several, where it has none, and where its parent says it already.
        parameters: how many numbers one of them holds.
        trainable: how many of these train; None where no plan was asked.
        tensors: the parameters directly in it.
        children: the modules in it.
    """

    name: str
    kind: str
    count: int
    detail: str
    part: str
    parameters: int
    trainable: int | None
    tensors: tuple[OwnTensor, ...]
    children: tuple[Node, ...]

    @cached_property
    def signature(self) -> object:
        """Equal for modules that a row may fold into one: alike in all but name, part and rate of DropPath."""
        if self.kind in _DROP_PATHS:
            return _DROP_PATHS
        inside = tuple((child.name, child.count, child.signature) for child in self.children)
        return self.kind, self.detail, self.parameters, self.trainable, self.tensors, inside

    def to_json(self) -> dict[str, Any]:
        """What `inspect --tree --json` prints."""
        return asdict(self)


def module_tree(model: nn.Module, image: Tower, text: Tower, *, plan: Plan | None = None, fold: bool = True) -> Node:
    """The modules of a model, from its root.

    Args:
        plan: says what trains.
        fold: whether equal modules in a row become one node; those that a plan treats differently are not equal.
    """
    ours = {dropout_name(tower.name) for tower in (image, text) if tower.dropout.p == 0}  # no part of open_clip's model
    return _gardener(model, image, text, plan, fold=fold, skipped=ours).grow(model)


def block_trees(
    model: nn.Module, image: Tower, text: Tower, number: int, *, plan: Plan | None = None
) -> dict[str, Node]:
    """Block `number` of each tower that has so many, by the tower's name; nothing is folded, its name is its path.

    Raises:
        InputError: neither tower has it.
    """
    paths = {tower.name: tower.block_paths[number] for tower in (image, text) if 0 <= number < tower.depth}
    if not paths:
        has = f"the image tower has blocks 0 to {image.depth - 1}, the text tower 0 to {text.depth - 1}"
        raise InputError(f"--block: there is no block {number}; {has}")
    gardener = _gardener(model, image, text, plan, fold=False)
    return {
        tower: replace(gardener.grow(model.get_submodule(path), path, said=True), name=path)
        for tower, path in paths.items()
    }


@dataclass(frozen=True)
class _Gardener:
    """What every module of a tree is asked against.

    Args:
        sizes: parameter to how many numbers it holds; one that two modules share stands here under its first name.
        places: parameter to its part, in words: `image block 3`, `logit_scale`.
        trains: parameter to whether it trains; None without a plan.
        skipped: modules at the root that are not shown.
    """

    sizes: Mapping[str, int]
    places: Mapping[str, str]
    trains: Mapping[str, bool] | None
    fold: bool
    skipped: frozenset[str]

    def grow(self, module: nn.Module, path: str = "", *, said: bool = False) -> Node:
        """The node of a module and of all below it; `said`: a module around it has named the part."""
        start = f"{path}." if path else ""
        names = [f"{start}{name}" for name, _ in module.named_parameters() if f"{start}{name}" in self.sizes]
        parts = {self.places[name] for name in names}
        part = parts.pop() if len(parts) == 1 and not said else ""
        children = [
            self.grow(child, f"{start}{name}", said=said or bool(part))
            for name, child in module.named_children()
            if path or name not in self.skipped
        ]
        return Node(
            name=path.rpartition(".")[2],
            kind=type(module).__name__,
            count=1,
            detail=" ".join(module.extra_repr().split()),
            part=part,
            parameters=sum(self.sizes[name] for name in names),
            trainable=None if self.trains is None else sum(self.sizes[n] for n in names if self.trains.get(n)),
            tensors=tuple(
                OwnTensor(
                    name,
                    tuple(tensor.shape),
                    "" if said or part else self.places.get(f"{start}{name}", ""),
                    None if self.trains is None else self.trains.get(f"{start}{name}"),
                )
                for name, tensor in module.named_parameters(recurse=False)
            ),
            children=tuple(_folded(children) if self.fold else children),
        )


def _gardener(
    model: nn.Module, image: Tower, text: Tower, plan: Plan | None, *, fold: bool, skipped: Iterable[str] = ()
) -> _Gardener:
    places = {
        name: f"{owner} {group}" if owner in ("image", "text") else group
        for name, (owner, group) in owners(model, image, text).items()
    }
    for tower in (image, text):  # new parameters belong to the part they were put into, so that equal blocks fold
        places |= {name: f"{tower.name} {tower.part_of(name)}" for name in tower.added}
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    trains = None if plan is None else {p.name: p.trainable for p in plan.parameters}
    return _Gardener(sizes, places, trains, fold, frozenset(skipped))


def _folded(children: Iterable[Node]) -> Iterator[Node]:
    """Equal modules in a row as one, whose names are numbers; their parts must be equal, or blocks."""
    for (numbered, _, _), run in groupby(children, key=lambda n: (n.name.isdigit(), _kind_of_part(n), n.signature)):
        row = list(run)
        first, last = row[0], row[-1]
        if len(row) == 1 or not numbered:
            yield from row
        else:
            part = _parts(first.part, last.part)
            yield replace(_without_rates(last), name=f"({first.name}-{last.name})", count=len(row), part=part)


def _without_rates(node: Node) -> Node:
    """What stands for a row has no rate of DropPath: each in the row has its own."""
    if node.kind == "DropPath":
        return replace(node, detail="")
    return replace(node, children=tuple(map(_without_rates, node.children)))


def _kind_of_part(node: Node) -> str:
    tower, _, group = node.part.partition(" ")
    return f"{tower} block" if block_number(group) is not None else node.part


def _parts(first: str, last: str) -> str:
    """`image block 0` and `image block 11` as `image blocks 0-11`."""
    if first == last:
        return first
    tower, _, group = first.partition(" ")
    return f"{tower} blocks {block_number(group)}-{last.rpartition(' ')[2]}"
