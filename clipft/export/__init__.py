"""A run's model as files that plain open_clip or transformers loads; `clipft.load` reads them, and runs, back."""

from __future__ import annotations

from clipft.export.load import load
from clipft.export.write import Written, export
from clipft.export.write_adapter_file import export_adapter

__all__ = ["Written", "export", "export_adapter", "load"]
