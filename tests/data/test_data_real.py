"""The shared data sets, where a copy lies beside the repository."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clipft.config.data_schema import DataConfig
from clipft.data.captions import repeats
from clipft.data.sources import Splits, read_splits

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data beside the repository")


def splits(**keys: object) -> Splits:
    return read_splits(DataConfig.model_validate(keys), 0)


def test_signdigits() -> None:
    both = splits(
        train={"folder": str(SHARED / "signdigits" / "train")},
        val={"folder": str(SHARED / "signdigits" / "val")},
        class_names={"0": "zero"},
    )
    assert both.val is not None
    assert (len(both.train), len(both.val)) == (1643, 419)
    assert both.train.classes == ("zero", *"123456789")
    assert both.notes == ()


def test_clothing() -> None:
    both = splits(
        train={"folder": str(SHARED / "clothing" / "train")}, val={"folder": str(SHARED / "clothing" / "test")}
    )
    assert both.train.class_counts().tolist() == [100] * 10
    assert len(both.val or ()) == 245


def test_openstax_by_module() -> None:
    table = {"table": str(SHARED / "openstax" / "captions.csv"), "caption": "caption"}
    both = splits(train={**table, "split": "split=train"}, val={**table, "split": "split=val"})
    assert both.val is not None
    assert (len(both.train), len(both.val)) == (1607, 222)
    assert repeats(both.train).distinct == 1607
    held = splits(train={**table, "split": "split=train", "group": "module"}, val=0.1)
    assert held.val is not None
    assert 150 < len(held.val) < 172
    assert not set(held.train.groups) & set(held.val.groups)
    assert held.train.images.read(0).mode == "RGB"


def test_emoji_from_parquet_and_json_lines() -> None:
    pytest.importorskip("pyarrow")
    ours, theirs = (
        splits(
            train={"table": str(SHARED / "emoji" / name), "caption": "an icon of {caption}", "label": "group"},
            val=None,
        )
        for name in ("emoji.parquet", "emoji.jsonl")
    )
    assert list(ours.train.captions or ()) == list(theirs.train.captions or ())
    assert len(ours.train) == 1558
    assert len(np.unique(ours.train.identities)) == 1558 - 5  # 9 byte-identical files in 4 groups
    for i in range(0, 1558, 50):  # palette, grey and colour, all with transparency
        assert ours.train.images.read(i).mode == "RGB"
