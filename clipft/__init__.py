"""Fine-tune any CLIP model from one YAML file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "load"]

if TYPE_CHECKING:
    from clipft.export import load


def __getattr__(name: str) -> Any:
    # `clipft.load` brings torch; `clipft --help` must not.
    if name == "load":
        from clipft.export import load

        return load
    raise AttributeError(f"module 'clipft' has no attribute {name!r}")
