"""The sources of rows that a user may name: one class a kind, one sentence a field."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from clipft.config.values import Section


class FolderSource(Section):
    """A folder a class; the folder's name is the class."""

    folder: str
    """A folder with one folder of images a class."""


class TableSource(Section):
    """One row an image, with its caption, its label or both."""

    table: str
    """A CSV, TSV, JSONL or Parquet file; the separator is detected."""
    image: str = "image"
    """Column with the image's path."""
    caption: str | None = None
    """Column with the caption, or a template over columns such as "a {material} {kind}"."""
    label: str | None = None
    """Column with the class name."""
    root: str | None = None
    """Folder that image paths are relative to; null is the table's own folder."""
    split: str | None = None
    """Rows to take, as column=value (split=train); null takes all."""
    group: str | None = None
    """Column whose equal values stay together when data.val is a fraction; null groups by image."""

    @field_validator("split")
    @classmethod
    def _is_equation(cls, value: str | None) -> str | None:
        if value is not None and ("=" not in value or not value.split("=", 1)[0].strip()):
            raise ValueError("expected column=value such as split=train")
        return value

    @model_validator(mode="after")
    def _caption_or_label(self) -> TableSource:
        if self.caption is None and self.label is None:
            raise ValueError("caption: name the column with the caption, or in label the one with the class")
        return self


class SidecarSource(Section):
    """Images with a text file beside each."""

    sidecar: str
    """A folder of images, each beside a .txt file of the same stem with its caption."""


class HandsSource(Section):
    """Drawn hands, made while they are read."""

    builtin: Literal["hands"]
    """Drawn hands: needs no files."""
    count: Annotated[int, Field(ge=1, le=10_000_000)] = 2000
    """How many hands."""
    size: Annotated[int, Field(ge=16, le=2048)] = 64
    """Width and height of a drawing in pixels."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Another seed draws other hands."""
    label: Literal["fingers", "side", "view", "skin", "nails"] | None = "fingers"
    """What the class is; null gives captions only."""


SOURCES: dict[str, type[Section]] = {
    "folder": FolderSource,
    "table": TableSource,
    "sidecar": SidecarSource,
    "builtin": HandsSource,
}

SOURCE_PLACES = (("data", "train"), ("data", "val"), ("evaluate", "keep"))
"""Where in a config a source may stand."""


def source_kind(value: Any) -> str | None:
    """Which kind of source a raw value or a parsed section is: a key of SOURCES, fraction, or None."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return "fraction"
    for kind, section in SOURCES.items():
        if isinstance(value, section) or (isinstance(value, dict) and kind in value):
            return kind
    return None


Source = Annotated[
    Annotated[FolderSource, Tag("folder")]
    | Annotated[TableSource, Tag("table")]
    | Annotated[SidecarSource, Tag("sidecar")]
    | Annotated[HandsSource, Tag("builtin")],
    Discriminator(source_kind),
]
"""Where rows come from: {folder: ...}, {table: ...}, {sidecar: ...} or {builtin: hands}."""

SourceOrFraction = Annotated[
    Annotated[FolderSource, Tag("folder")]
    | Annotated[TableSource, Tag("table")]
    | Annotated[SidecarSource, Tag("sidecar")]
    | Annotated[HandsSource, Tag("builtin")]
    | Annotated[float, Field(gt=0, lt=1), Tag("fraction")],
    Discriminator(source_kind),
]
