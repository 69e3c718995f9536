"""One batch again and again, with a tiny real model on real pictures."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from clipft.config.load import Loaded, load_config
from clipft.errors import InputError
from clipft.report.train_view import TrainView
from clipft.train.overfit import Overfit, one_batch, overfit
from clipft.train.prepare import prepare


def load(path: Path, model: str, data: dict[str, object], **sections: dict[str, object]) -> Loaded:
    config = {
        "model": {"name": model},
        "data": {"train": data, "workers": 0},
        "optim": {"lr": 1e-3},
        "train": {"batch_size": 8, "precision": "fp32", "device": "cpu"},
        **sections,
    }
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return load_config(path)


def go(loaded: Loaded, steps: int = 100) -> tuple[Overfit, str]:
    out = io.StringIO()
    found = overfit(loaded, TrainView(Console(file=out, width=200)), steps=steps)
    return found, out.getvalue()


def test_a_batch_is_learnt_and_nothing_is_written(
    tiny_model: Callable[..., str], colour_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P18: whether the loss can leave ln(batch) at all is one command away."""
    data = {"folder": str(colour_folder())}
    loaded = load(tmp_path / "x.yaml", tiny_model(), data)
    monkeypatch.chdir(tmp_path)  # a run without run.dir would write here
    before = sorted(tmp_path.rglob("*"))
    found, told = go(loaded)
    assert found.learns
    assert found.losses[-1] <= min(found.losses[0], found.chance) / 2
    assert found.rows == 4  # a row a class: others would be positives of each other
    assert "this model learns these rows" in told
    assert sorted(tmp_path.rglob("*")) == before


def test_a_rate_that_learns_nothing_is_told(
    tiny_model: Callable[..., str], colour_folder: Callable[..., Path], tmp_path: Path
) -> None:
    """P18: the other verdict, with what to change."""
    loaded = load(tmp_path / "x.yaml", tiny_model(), {"folder": str(colour_folder())}, optim={"lr": 1e-9})
    found, told = go(loaded, steps=6)
    assert not found.learns
    assert len(found.losses) == 6
    assert "raise optim.lr" in told


def test_a_classifier_takes_rows_of_any_class(
    tiny_model: Callable[..., str], colour_folder: Callable[..., Path], tmp_path: Path
) -> None:
    loss = {"type": "classifier", "label_smoothing": 0.5}
    found, _ = go(load(tmp_path / "x.yaml", tiny_model(), {"folder": str(colour_folder())}, loss=loss))
    assert found.rows == 8
    assert found.learns  # smoothing is off: with it the loss could not come so low


def test_no_two_rows_of_a_contrastive_batch_say_or_show_the_same(
    tiny_model: Callable[..., str], colour_folder: Callable[..., Path], tmp_path: Path
) -> None:
    images = sorted(colour_folder().rglob("*.png"))
    rows = [(str(image), f"caption {number // 2}") for number, image in enumerate(images)]
    rows += [(str(image), f"again {number}") for number, image in enumerate(images)]
    table = tmp_path / "table.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "caption"), *rows])
    loaded = load(tmp_path / "x.yaml", tiny_model(), {"table": str(table), "caption": "caption"})
    prepared = prepare(loaded.config.model_copy(update={"data": loaded.config.data.model_copy(update={"val": None})}))
    train = prepared.splits.train
    chosen = one_batch(prepared)
    assert train.captions is not None
    assert len(chosen) == len({train.captions[int(i)] for i in chosen}) == len(set(train.identities[chosen])) == 8


def test_one_readable_row_is_nothing_to_tell_apart(
    tiny_model: Callable[..., str], colour_folder: Callable[..., Path], tmp_path: Path
) -> None:
    """P18, P19: a batch of one would have a loss of 0 and seem learnt."""
    folder = colour_folder(each=3)
    for colour in ("green", "blue", "white"):
        for image in (folder / colour).iterdir():
            image.write_bytes(image.read_bytes()[:50])  # its header is sound
    loaded = load(tmp_path / "x.yaml", tiny_model(), {"folder": str(folder)})
    with pytest.raises(InputError, match="no two readable rows"):
        go(loaded)
