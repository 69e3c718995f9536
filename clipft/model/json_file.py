"""A JSON file that a user or another program may have changed: an object, or a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from clipft.errors import InputError


def read_object(path: Path) -> dict[str, Any]:
    """The file's JSON object.

    Raises:
        InputError: it cannot be read, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content
