"""`--set a.b=c` over the file: values, sections, what is cleared, and what cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipft.config.load import Loaded, load_config
from clipft.config.source_schema import FolderSource, HandsSource, TableSource
from clipft.errors import ConfigError

FILE = """
model:
  name: ViT-B-32
  text: {freeze_pattern: all, freeze_backbone: true, dropout: 0.1}
data:
  train: {table: a.csv, label: kind, split: split=train}
  val: 0.1
  class_names: {"0": zero}
"""


@pytest.fixture(autouse=True)
def _in_a_folder_with_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.yaml").write_text(FILE, encoding="utf-8")
    Path("a.csv").touch()
    Path("b.csv").touch()
    Path("photos").mkdir()


def load(*overrides: str) -> Loaded:
    return load_config(Path("x.yaml"), overrides)


def mistakes(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(*overrides)
    return str(caught.value)


def test_values_are_yaml() -> None:
    """P68: `1e-5` is a number on the command line too."""
    config = load("optim.lr=1e-5", "optim.betas=[0.8, 0.9]", "train.early_stop={metric: a, patience: 2}").config
    assert (config.optim.lr, config.optim.betas) == (1e-5, (0.8, 0.9))
    assert config.train.early_stop is not None
    assert config.train.early_stop.patience == 2


def test_the_last_one_rules() -> None:
    assert load("train.epochs=1", "train.epochs=2").config.train.epochs == 2


def test_an_empty_value_is_null() -> None:
    assert load("data.val=").config.data.val is None


def test_sections_are_laid_over_key_by_key() -> None:
    loaded = load("data.class_names={'1': one}", "data.class_names.2=two", "data.templates=['a {}']")
    assert loaded.config.data.class_names == {"0": "zero", "1": "one", "2": "two"}
    assert loaded.config.data.templates == ("a {}",)


def test_a_pattern_needs_no_quotes_of_yaml() -> None:
    assert load("model.text.freeze_pattern=encoder.layer.[0-3]").config.model.text.freeze_pattern == (
        "encoder.layer.[0-3]"
    )


def test_a_freeze_key_clears_those_of_the_file() -> None:
    loaded = load("model.text.freeze_layers=2")
    text = loaded.config.model.text
    assert (text.freeze_pattern, text.freeze_layers, text.freeze_backbone, text.dropout) == (None, 2, None, 0.1)
    assert loaded.notes == (
        "model.text: freeze_layers of --set clears freeze_pattern: 'all', freeze_backbone: true of the file",
    )


def test_freeze_keys_of_one_level_stand_together() -> None:
    text = load("model.text.freeze_layers=2", "model.text={freeze_backbone: false}").config.model.text
    assert (text.freeze_pattern, text.freeze_layers, text.freeze_backbone) == (None, 2, False)


def test_a_freeze_key_leaves_the_other_tower_alone() -> None:
    loaded = load("model.image.freeze_layers=2")
    assert loaded.config.model.text.freeze_pattern == "all"
    assert loaded.notes == ()


def test_the_same_freeze_key_is_just_replaced() -> None:
    loaded = load("model.text.freeze_pattern=attention", "model.text.freeze_backbone=null")
    assert loaded.config.model.text.freeze_pattern == "attention"
    assert loaded.notes == ()


def test_another_kind_of_source_replaces_the_old_one() -> None:
    loaded = load("data.train.builtin=hands", "data.val.folder=photos")
    assert loaded.config.data.train == HandsSource(builtin="hands")
    assert loaded.config.data.val == FolderSource(folder="photos")
    assert loaded.notes == (
        "data.train: builtin of --set clears table: 'a.csv', label: 'kind', split: 'split=train' of the file",
    )


def test_the_same_kind_of_source_keeps_its_columns() -> None:
    assert load("data.train.table=b.csv").config.data.train == TableSource(
        table="b.csv", label="kind", split="split=train"
    )


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("optim.lr", "--set: expected key=value such as optim.lr=3e-5, found 'optim.lr'"),
        ("=3", "--set: expected key=value such as optim.lr=3e-5, found '=3'"),
        ("a..b=3", "--set: expected key=value such as optim.lr=3e-5, found 'a..b=3'"),
        ("a." * 2000 + "b=3", "--set: expected key=value"),
        ("optim.lr=[", "--set: optim.lr: a bracket opens here and does not close"),
        ("optim={lr: 1, lr: 2}", "--set: optim.lr: stands here twice"),
        ("optim.lr=fast", "--set: optim.lr: expected a number above 0, found 'fast'"),
        ("train.lr=1", "--set: train.lr: unknown key here; it belongs at optim.lr"),
        ("optim=3", "--set: optim: expected keys such as name, lr, lr_heads, found 3"),
        ("data.train.table=c.csv", "--set: data.train.table: c.csv does not exist (b.csv does)"),
        ("optim.groups.0.lr=1", "--set: optim.groups: expected a list"),
        ("data.train.table=\x00", "--set: data.train.table: the character '\\x00'"),
    ],
)
def test_a_bad_override_is_told_with_its_key(override: str, sentence: str) -> None:
    assert mistakes(override).startswith(sentence)


def test_mistakes_of_file_and_override_come_together() -> None:
    Path("x.yaml").write_text(FILE + "optim: {lr: fast}\n", encoding="utf-8")
    assert mistakes("train.epochs=x").splitlines() == [
        "x.yaml has 2 mistakes:",
        "  x.yaml:9: optim.lr: expected a number above 0, found 'fast'",
        "  --set: train.epochs: expected a whole number of at least 1, found 'x'",
    ]
