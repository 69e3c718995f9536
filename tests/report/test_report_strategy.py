"""The lines that say what a strategy stands for."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from clipft.config.load import Loaded, load_config
from clipft.report.strategy_view import print_strategy, strategy_lines

CONFIG = """
strategy: [{name: last_layers, n: 3}, prompt]
model: {name: V, image: {freeze_layers: 9}}
data: {train: {builtin: hands}}
optim: {lr_heads: 3e-4}
"""


def loaded(tmp_path: Path, text: str = CONFIG) -> Loaded:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return load_config(path)


def test_each_key_has_its_reason_or_what_won(tmp_path: Path) -> None:
    found = loaded(tmp_path)
    lines = {line.setting: line.reason for line in strategy_lines(found.strategy, found.config)}
    assert lines == {
        "model.image.freeze_layers: depth - 3": "not used: freeze_layers: 9 is written",
        "model.text.freeze_layers: depth - 3": "the last 3 blocks train",
        "model.text.prompt: {}": "trains, with its defaults",
        "optim.lr: 2e-05": "Soups trains the last 3 blocks at 2e-5",
        "optim.lr_heads: 0.0001": "not used: lr_heads: 0.0003 is written",
        "optim.lr_new: 0.002": "CoOp under SGD; measured under AdamW: configs/README.md",
    }


def test_equal_keys_of_both_towers_are_one_line_and_another_freeze_key_is_named(tmp_path: Path) -> None:
    found = loaded(tmp_path, CONFIG.replace("[{name: last_layers, n: 3}, prompt]", "logit_scale"))
    lines = {line.setting: line.reason for line in strategy_lines(found.strategy, found.config)}
    assert lines == {
        "model.image.freeze_backbone: true": "not used: freeze_layers: 9 is written",
        "model.text.freeze_backbone: true": "stands still",
        "model.image/text.projection: freeze": "stands still",
    }


def test_it_is_printed_in_80_columns(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=80, color_system=None)
    print_strategy(loaded(tmp_path), console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue().splitlines()
    assert text[0] == "strategy  last_layers (n: 3) + prompt"
    assert max(map(len, text)) <= 80
    print_strategy(loaded(tmp_path, CONFIG.replace("strategy:", "# ")), console)
    assert console.file.getvalue().splitlines() == text  # nothing where there is none
