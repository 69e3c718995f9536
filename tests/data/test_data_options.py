"""`--data` on the command line is a source in one word."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipft.config.source_schema import FolderSource, HandsSource, SidecarSource, Source, TableSource
from clipft.data.sources import may_overlap, parse_data_option
from clipft.errors import InputError


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("folder:my/test", FolderSource(folder="my/test")),
        ("folder:C:/odd, name", FolderSource(folder="C:/odd, name")),
        ("sidecar:DIR", SidecarSource(sidecar="DIR")),
        ("builtin:hands", HandsSource(builtin="hands")),
        (
            "builtin:hands,count=5,size=32,label=side,seed=2",
            HandsSource(builtin="hands", count=5, size=32, label="side", seed=2),
        ),
        ("builtin:hands,label=", HandsSource(builtin="hands", label=None)),
        (
            "table:a.csv,image=filepath,caption=title,split=test",
            TableSource(table="a.csv", image="filepath", caption="title", split="split=test"),
        ),
        (
            "table:a.csv,caption=a {kind}, old,split=fold=3,label=kind",
            TableSource(table="a.csv", caption="a {kind}, old", split="fold=3", label="kind"),
        ),
    ],
)
def test_a_word_is_a_source(text: str, source: Source) -> None:
    assert parse_data_option(text) == source


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("my/test", "expected folder:DIR, table:FILE"),
        ("folder:", "expected folder:DIR"),
        ("zip:a.zip", "found 'zip:a.zip'"),
        ("table:a.csv", "caption: name "),
        ("table:a.csv,captoin=x", "table has no 'captoin'; did you mean caption?"),
        ("folder:a,label=x", "folder has no 'label'"),
        ("builtin:feet", "builtin: Input should be 'hands'"),
        ("builtin:hands,count=many", "count: Input should be a valid integer"),
        ("builtin:hands,count=0", "count: "),
    ],
)
def test_a_mistake_is_a_sentence(text: str, words: str) -> None:
    with pytest.raises(InputError, match="--data: ") as caught:
        parse_data_option(text)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        ("folder:a/b", "folder:a/c/../b/", True),
        ("folder:a/b", "folder:a/c", False),
        ("folder:a", "sidecar:a", True),
        ("table:a.csv,label=x", "table:./a.csv,caption=y", True),
        ("table:a.csv,label=x,split=test", "table:a.csv,label=x,split=train", False),
        ("table:a.csv,label=x,split=test", "table:a.csv,label=x", True),
        ("table:a.csv,label=x,split=test", "table:a.csv,label=x,split=fold=3", True),
        ("builtin:hands,count=9", "builtin:hands,size=32", True),
        ("builtin:hands", "builtin:hands,seed=1", False),
    ],
)
def test_sources_of_one_place_may_share_rows(one: str, other: str, overlap: bool) -> None:
    """P56: whatever the path is written like, and whatever is read from there."""
    assert may_overlap(parse_data_option(one), parse_data_option(other)) is overlap
    assert may_overlap(parse_data_option(other), parse_data_option(one)) is overlap


def test_a_bare_folder_is_told_its_form(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"; write folder:{tmp_path}"):
        parse_data_option(str(tmp_path))
