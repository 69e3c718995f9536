"""What a key may hold, where a plain type says too little: rates, patterns, fractions; and the base of all sections."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema


class Section(BaseModel):
    """A part of the config: frozen, unknown keys refused, no value guessed from another type."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


_FACTOR = r"x(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?"


def _check_rate(value: Any) -> Any:
    if value is None:
        return value
    number: Any = value
    if isinstance(value, str) and re.fullmatch(_FACTOR, value):
        number = float(value[1:])
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0 < number < float("inf"):
        raise ValueError("expected a number above 0 or a factor such as x0.5")
    return value if isinstance(value, str) else float(value)


def _check_pattern(value: str | None) -> str | None:
    if value is None:
        return value
    if not value:
        raise ValueError("an empty pattern matches everything; write all to freeze the backbone, null for none")
    try:
        with warnings.catch_warnings():
            # such as '[[a]': a set whose meaning may change in a later Python
            warnings.simplefilter("error", FutureWarning)
            re.compile(value)
    except (re.error, FutureWarning, RecursionError, OverflowError) as error:
        raise ValueError(f"{value!r} is not a regular expression: {error}") from None
    return value


def refuse(mistakes: Iterable[str]) -> None:
    """Raise all that is wrong in a section at once; a sentence may begin with the key it is about."""
    if lines := list(mistakes):
        raise ValueError("\n".join(lines))


_FROM_DEPTH = r"depth( *- *(\d{1,6}))?"


def _check_layers(value: Any) -> Any:
    if isinstance(value, str):
        if not re.fullmatch(_FROM_DEPTH, value):
            raise ValueError("expected a whole number, depth, or such as depth - 2")
    elif value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise ValueError("expected a whole number, depth, or such as depth - 2")
    return value


Layers = Annotated[
    int | str,
    BeforeValidator(_check_layers),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer"},
                {"type": "string", "pattern": f"^{_FROM_DEPTH}$", "examples": ["depth - 2"]},
            ]
        }
    ),
]
"""How many blocks: a number, or one that hangs on the tower's depth."""


def resolve_layers(layers: int | str, depth: int) -> int:
    """The number that `layers` stands for in a tower of this depth; it may be out of range."""
    if isinstance(layers, int):
        return layers
    found = re.fullmatch(_FROM_DEPTH, layers)
    assert found is not None
    return depth - int(found[2] or 0)


Rate = Annotated[
    float | str,
    BeforeValidator(_check_rate),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "exclusiveMinimum": 0},
                {"type": "string", "pattern": f"^{_FACTOR}$", "examples": ["x0.5"]},
            ]
        }
    ),
]
"""A learning rate: a number above 0, or a factor of `optim.lr` such as `x0.5`."""


def resolve_rate(rate: float | str | None, base: float) -> float:
    """The learning rate that `rate` stands for beside `base`; None is `base` itself."""
    if rate is None:
        return base
    return base * float(rate[1:]) if isinstance(rate, str) else rate


Pattern = Annotated[str, AfterValidator(_check_pattern)]
"""A regular expression over parameter names."""

PositiveFloat = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Strings = Annotated[tuple[str, ...], Field(strict=False)]
Kinds = Annotated[tuple[Literal["norms", "biases"], ...], Field(strict=False, min_length=1)]


def _check_templates(value: tuple[str, ...]) -> tuple[str, ...]:
    if not value:
        raise ValueError('expected at least one template such as "a photo of a {}."')
    for template in value:
        if template.count("{}") != 1:
            raise ValueError(f"expected one {{}} for the class name in each template, found {template!r}")
    return value


Templates = Annotated[tuple[str, ...], Field(strict=False), AfterValidator(_check_templates)]
"""Prompts with a place for a class name."""
