"""The strategies that a user may name, each with its options: one class a strategy, one sentence an option.

What each trains is in `strategy_shares.py`, the keys that say so in `strategies.py`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    GetJsonSchemaHandler,
    NonNegativeInt,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue

from clipft.config.hints import nearest
from clipft.config.values import PositiveFloat, Section

TowerName = Literal["image", "text"]
TowerNames = Annotated[tuple[TowerName, ...], Field(strict=False, min_length=1)]


class BlocksOfEach(Section):
    """How many of the last blocks train in each tower; a tower that is not named stands still."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"image": 2, "text": 1}]})

    image: NonNegativeInt | None = None
    """In the image tower."""
    text: NonNegativeInt | None = None
    """In the text tower."""

    @model_validator(mode="after")
    def _one_of_them(self) -> BlocksOfEach:
        if self.image is None and self.text is None:
            raise ValueError("names no tower; write such as {image: 2}")
        return self


class Full(Section):
    """Trains everything."""

    name: Literal["full"]
    """The strategy."""


class FreezeImage(Section):
    """Trains the text tower, its projection and logit_scale."""

    name: Literal["freeze_image"]
    """The strategy."""


class FreezeText(Section):
    """Trains the image tower, its projection and logit_scale."""

    name: Literal["freeze_text"]
    """The strategy."""


class Heads(Section):
    """Trains both projections and logit_scale."""

    name: Literal["heads"]
    """The strategy."""
    pull: PositiveFloat | None = None
    """Weight of a pull to the projections' start (train.regularize: l2sp; ProLIP: 1 / shots); null has none."""


class LastLayers(Section):
    """Trains the last blocks of each tower, norm and pooling, projections and logit_scale."""

    name: Literal["last_layers"]
    """The strategy."""
    n: NonNegativeInt | BlocksOfEach = 2
    """How many blocks, of both towers or of each; the head never counts."""
    norm: bool = True
    """Whether norm and pooling train."""
    projections: bool = True
    """Whether the projections of these towers train."""
    logit_scale: bool = True
    """Whether logit_scale trains."""


class Prompt(Section):
    """Trains prompt vectors."""

    name: Literal["prompt"]
    """The strategy."""
    towers: TowerNames = ("text",)
    """In which towers."""


class Lora(Section):
    """Trains LoRA matrices."""

    name: Literal["lora"]
    """The strategy."""
    towers: TowerNames = ("image", "text")
    """In which towers."""


class Adapter(Section):
    """Trains adapters."""

    name: Literal["adapter"]
    """The strategy."""
    towers: TowerNames = ("image", "text")
    """In which towers."""


class DifferentialLr(Section):
    """Trains as the freeze keys say, each part at a rate of its own."""

    name: Literal["differential_lr"]
    """The strategy."""


class LogitScale(Section):
    """Trains logit_scale, and logit_bias under a sigmoid loss; alone, by an exact line search."""

    name: Literal["logit_scale"]
    """The strategy."""


class LinearProbe(Section):
    """Trains a classifier on the image tower's features."""

    name: Literal["linear_probe"]
    """The strategy."""
    features: Literal["projected", "pooled"] = "projected"
    """What the classifier sees."""


Strategy = (
    Full
    | FreezeImage
    | FreezeText
    | Heads
    | LastLayers
    | Prompt
    | Lora
    | Adapter
    | DifferentialLr
    | LogitScale
    | LinearProbe
)
STRATEGIES: dict[str, type[Section]] = {
    kind.model_fields["name"].annotation.__args__[0]: kind  # a Literal of one word
    for kind in Strategy.__args__
}


class NoOptionError(ValueError):
    """A strategy is given an option that it does not have."""

    def __init__(self, strategy: str, option: object, sentence: str) -> None:
        super().__init__(sentence)
        self.strategy = strategy
        self.option = str(option)


def _as_list(value: Any) -> Any:
    """Each strategy as a section with its name, whether one or several were written, as words or with options."""
    items = value if isinstance(value, (list, tuple)) else [] if value is None else [value]
    return tuple(map(_as_section, items))


def _as_section(item: Any) -> Any:
    if isinstance(item, Section):
        return item
    if not isinstance(item, dict):
        item = {"name": item}
    name = item.get("name")
    if not isinstance(name, str) or name not in STRATEGIES:
        close = nearest(str(name), STRATEGIES) if name is not None else []
        hint = f"; did you mean {close[0]}?" if close else f"; expected {', '.join(STRATEGIES)}"
        what = "has no name" if name is None else f"there is no strategy {str(name)[:60]!r}"
        raise ValueError(f"{what}{hint}")
    known = STRATEGIES[name].model_fields
    if odd := next((key for key in item if key not in known), None):
        options = ", ".join(key for key in known if key != "name") or "none"
        raise NoOptionError(name, odd, f"{name} has no option {odd!r}; its options: {options}")
    return item


class _AsWritten:
    """The JSON schema of all three forms: a word, a section, a list of these."""

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        section = handler(core)["items"]
        word = {"type": "string", "enum": list(STRATEGIES)}
        return {"anyOf": [word, section, {"type": "array", "items": {"anyOf": [word, section]}}]}


Strategies = Annotated[tuple[Annotated[Strategy, Discriminator("name")], ...], BeforeValidator(_as_list), _AsWritten]
"""`lora`, `{name: last_layers, n: 2}`, or a list of these."""
