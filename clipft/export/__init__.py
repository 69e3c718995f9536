"""A run's model as files that plain open_clip or transformers loads; `clipft.load` reads them, and runs, back."""

from __future__ import annotations

from clipft.export.write import Written, export, load

__all__ = ["Written", "export", "load"]
