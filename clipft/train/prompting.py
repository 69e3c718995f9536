"""Which rows prompt vectors among words can be trained and measured on, and that the class names fit beside them."""

from __future__ import annotations

from collections.abc import Sequence

from clipft.config.additions_schema import TextPromptConfig
from clipft.data.rows import Rows
from clipft.errors import InputError
from clipft.model.tokenizer import Tokenizer

_KEY = "model.text.prompt"


def check_prompt(config: TextPromptConfig | None, rows: Rows, key: str, *, classes: Sequence[str]) -> None:
    """Refuse rows without class names where vectors stand around the name or belong to the class.

    Args:
        config: `model.text.prompt`.
        rows: to train or to measure on.
        key: where they were named.
        classes: those that train.

    Raises:
        InputError: they have captions, a row has no class, or a class has no vectors of its own.
    """
    if config is None or (config.position == "end" and not config.class_specific):
        return
    asks = "class_specific: true" if config.class_specific else f"position: {config.position}"
    instead = "write class_specific: false and position: end, which works in front of any text"
    if rows.captions is not None:
        raise InputError(f"{_KEY}.{asks} needs class names, and {key} ({rows.name}) has captions; {instead}")
    without = 0 if rows.labels is None else int((rows.labels < 0).sum())
    if without:
        raise InputError(f"{_KEY}.{asks} needs a class for each row, and {without} of {key} have none; {instead}")
    strange = [name for name in rows.classes if name not in classes]
    if config.class_specific and strange:
        raise InputError(f"{_KEY}.{asks}: {strange[0]!r} of {key} does not train, so it has no vectors; {instead}")


def know_classes(tokenizer: Tokenizer, rows: Rows, key: str, templates: Sequence[str]) -> None:
    """Tell a tokenizer of the classes of rows, by whose prompts they will be measured or trained.

    Done for all rows before the first step, so that a name too long is refused then (P53).

    Args:
        tokenizer: the run's.
        rows: to train or to measure on.
        key: where they were named.
        templates: prompts for their class names.

    Raises:
        InputError: a prompt is too long beside the vectors, or its name ends inside a token.
    """
    if rows.labels is None:
        return
    try:
        tokenizer.know(rows.classes, templates)
    except InputError as error:
        raise InputError(f"{key}: {error}") from None
