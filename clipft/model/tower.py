"""A tower: its parts by name, its sizes, and its way from inputs to features, which can be cut at any block.

Which family a tower is of, `towers.py` and `families/` know. In the comments on shapes B is rows, L tokens, W the
tower's width and D the shared width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from clipft.errors import InputError
from clipft.model.facts import TowerFacts
from clipft.model.tower_parts import Added, Branch, Hidden, Layout, Matrix, PromptVectors

FIXED, NOT_IN_LOSS = "fixed by the model", "not in the loss"  # rules that no key asks for
DECODER = "text_decoder"  # where CoCa keeps what captions images


class Tower(ABC):
    """One tower of a model: its parts by name, its sizes, and its way from inputs to features.

    Args:
        name: image or text.
        model: the whole model; the tower's dropout is registered in it, so that `train()` and `eval()` reach it.
        layout: where the parts are.
        facts: the sizes.
        dropout: share of the pooled feature that is dropped in training, before the projection.
        untrained: parameters that the family's loss cannot reach, each with the rule that says why. Those that
            open_clip built without gradient (CLIPA's positions) are found here.

    `projection_is_new` says that the base has no such projection, so that it trains whatever the keys say.
    """

    word_table: str | None = None
    """Path of the table in which a text's token numbers are looked up; None in an image tower."""
    prefix_tokens: int | None = None
    """How many tokens stand in front of an image's row of patches; None where no plain row of patches is."""

    def __init__(
        self,
        name: str,
        model: nn.Module,
        layout: Layout,
        facts: TowerFacts,
        *,
        dropout: float,
        untrained: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.name = name
        self.family = facts.family
        self.backbone_prefix = layout.prefix
        self.block_paths = layout.blocks
        parameters = dict(model.named_parameters())
        self.parts = layout.parts(parameters)
        self.depth = facts.depth
        self.pooled_width = facts.pooled_width
        self.embed_dim = facts.embed_dim
        fixed = {n: FIXED for part in self.parts for n in part.names if not parameters[n].requires_grad}
        self.untrained = {**fixed, **untrained}
        self.prompt: PromptVectors | None = None
        self.feature_adapter: nn.Module | None = None
        self.projection_is_new = False
        self.added: dict[str, Added] = {}
        self._facts = facts
        self._groups = {name: part.group for part in self.parts for name in part.names}
        self._backbone = tuple(n for n in parameters if self._groups.get(n, "projection") != "projection")
        self.tables = frozenset(n for n in self._backbone if _is_table(model, n))
        self.dropout = nn.Dropout(dropout).train(model.training)
        model.add_module(dropout_name(name), self.dropout)

    def backbone_names(self) -> tuple[str, ...]:
        """Full names of the backbone's parameters, in the model's order."""
        return self._backbone

    def names(self) -> tuple[str, ...]:
        """Full names of all the tower's parameters, part by part, new ones last."""
        return (*self._groups, *self.added)

    def add(self, names: Iterable[str], group: str, place: int) -> None:
        """Take in new parameters, by their full names; see `Added`."""
        self.added |= dict.fromkeys(names, Added(group, place))

    def forget(self, group: str) -> None:
        """Leave out new parameters of a group that are in the model no more."""
        self.added = {name: new for name, new in self.added.items() if new.group != group}

    def new_groups(self) -> tuple[str, ...]:
        """Of lora, adapter and prompt those that this tower has."""
        return tuple(dict.fromkeys(new.group for new in self.added.values()))

    def behind_names(self) -> tuple[str, ...]:
        """The new parameters behind the projection, which a pooled feature does not hang on."""
        return tuple(name for name, new in self.added.items() if new.place == self.depth)

    def body_names(self) -> frozenset[str]:
        """All that a pooled feature hangs on: the backbone's parameters and new ones among them."""
        return frozenset((*self._backbone, *(name for name, new in self.added.items() if new.place < self.depth)))

    def inner(self, name: str) -> str:
        """A backbone parameter's name as a freeze_pattern sees it: below the backbone."""
        return name.removeprefix(self.backbone_prefix)

    def group_of(self, name: str) -> str:
        """The part that a parameter of this tower belongs to; of a new one lora, adapter or prompt."""
        return self.added[name].group if name in self.added else self._groups[name]

    @property
    def has_projection(self) -> bool:
        """Whether anything with parameters maps the pooled feature into the shared space."""
        return self.parts[-1].group == "projection"

    def part_of(self, name: str) -> str:
        """Where in the tower a parameter is: its part, or the part that a new one was put into."""
        if name not in self.added:
            return self._groups[name]
        place = self.added[name].place
        return f"block {place}" if place < self.depth else "projection"

    def describe(self) -> TowerFacts:
        """The tower's sizes."""
        return self._facts

    def embed(self, inputs: Tensor) -> Hidden:
        """Images (B, 3, H, W) or token numbers (B, L) to what block 0 takes."""
        hidden = self._embed(inputs)
        return hidden if self.prompt is None else self.prompt.join(hidden)

    def through(self, hidden: Hidden, start: int, stop: int) -> Hidden:
        """Blocks `start` to `stop` - 1."""
        mask = self._mask(hidden)
        for number in range(start, stop):
            entering = hidden if self.prompt is None else self.prompt.enter(hidden, number)
            hidden = self._block(entering, number, mask)
        return hidden

    def finish(self, hidden: Hidden) -> Tensor:
        """What the last block gives to one feature a row (B, W): norm and pooling."""
        return self._finish(hidden if self.prompt is None else self.prompt.leave(hidden))

    @abstractmethod
    def _embed(self, inputs: Tensor) -> Hidden:
        """`embed` of the family itself."""

    @abstractmethod
    def _block(self, hidden: Hidden, number: int, mask: Any) -> Hidden:
        """One block; `mask` is what `_mask` gave."""

    def _mask(self, hidden: Hidden) -> Any:
        """What every block's attention is told of who sees whom; None where all see all."""
        return None

    @abstractmethod
    def _finish(self, hidden: Hidden) -> Tensor:
        """`finish` of the family itself."""

    @abstractmethod
    def project(self, pooled: Tensor) -> Tensor:
        """Pooled features (B, W) into the shared space (B, D), not normalised."""

    @abstractmethod
    def resize(self, size: int | tuple[int, int]) -> str:
        """Give the model positions for another image size in pixels, or another number of tokens; a tower made
        before does not know, so make it anew. Returns what to say, if anything.

        Raises:
            InputError: the family has no way to, or not to this size.
        """

    @abstractmethod
    def new_projection(self, width: int) -> None:
        """Put a projection to that width in the place of the model's own, drawn as open_clip draws it; a tower made
        before does not know, so make it anew.

        Raises:
            InputError: the tower can have no other width.
        """

    def matrices(self, block: int) -> Sequence[Matrix]:
        """The matrices of a block that LoRA may join; none in a block of convolutions."""
        return ()

    def branches(self, block: int) -> Sequence[Branch]:
        """The branches of a block that an adapter may end; none in a block that is no transformer's."""
        return ()

    @property
    def drawn(self) -> frozenset[str]:
        """What of it begins with numbers that no base has: projection, prompt, feature_adapter."""
        parts = {
            "projection": self.projection_is_new,
            "prompt": self.prompt is not None,
            "feature_adapter": self.feature_adapter is not None,
        }
        return frozenset(name for name, there in parts.items() if there)

    def shared(self, pooled: Tensor) -> Tensor:
        """Pooled features (B, W) into the shared space (B, D), through the feature adapter where there is one."""
        projected = self.project(pooled)
        if self.feature_adapter is None:
            return projected
        adapted: Tensor = self.feature_adapter(projected)
        return adapted

    def prefix(self, inputs: Tensor, cut: int) -> Hidden:
        """Inputs to what block `cut` takes: embeddings and the first `cut` blocks, 0 to depth."""
        return self.through(self.embed(inputs), 0, cut)

    def suffix(self, hidden: Hidden, cut: int) -> Tensor:
        """The rest of the tower: what block `cut` takes to features (B, D), not normalised."""
        return self.shared(self.drop(self.finish(self.through(hidden, cut, self.depth))))

    def pool(self, inputs: Tensor) -> Tensor:
        """Images (B, 3, H, W) or token numbers (B, L) to one feature a row (B, W)."""
        return self.finish(self.prefix(inputs, self.depth))

    def drop(self, pooled: Tensor) -> Tensor:
        """The tower's dropout on pooled features, in training only, whether the parts around it are frozen or not."""
        dropped: Tensor = self.dropout(pooled)
        return dropped

    def encode(self, inputs: Tensor) -> Tensor:
        """Features in the shared space (B, D), not normalised: open_clip's own in evaluation mode.

        Equal to the bit, but where open_clip pools and projects in one call (RN50): there to float precision.
        """
        return self.shared(self.drop(self.pool(inputs)))


def owners(model: nn.Module, image: Tower, text: Tower) -> dict[str, tuple[str, str]]:
    """For each parameter of the model, in its order, the one tower and group it belongs to.

    A tower is image, text, heads (`logit_scale`, `logit_bias`, a classifier) or decoder (CoCa's).

    Raises:
        InputError: a parameter belongs to none.
    """
    of_towers = {name: (tower.name, tower.group_of(name)) for tower in (image, text) for name in tower.names()}
    found, without = {}, []
    for name, _ in model.named_parameters():
        head = name.split(".")[0]
        if name in of_towers:
            found[name] = of_towers[name]
        elif head in ("logit_scale", "logit_bias", "classifier"):
            found[name] = ("heads", head)
        elif head == DECODER:
            found[name] = ("decoder", "decoder")
        else:
            without.append(name)
    if without:
        raise InputError(
            f"model: {len(without)} parameters belong to no known part of a {image.family} and {text.family} model, "
            f"the first is {without[0]}; this variant is not supported yet"
        )
    return found


def dropout_name(tower: str) -> str:
    """Under which name a tower's dropout is registered in its model."""
    return f"{tower}_dropout"


def _is_table(model: nn.Module, name: str) -> bool:
    """Whether a backbone's parameter is looked up, added or multiplied as it stands, not a matrix that maps.

    Token, position and class embeddings, relative position tables, a pool's query, layer scales.
    """
    owner = model.get_submodule(name.rpartition(".")[0])
    return isinstance(owner, nn.Embedding) or not name.endswith("weight")
