"""`clipft init --from`: an older file in today's keys, and nothing done to one of today."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipft.config.load import load_config
from clipft.config.renew import renewed
from clipft.errors import ConfigError, InputError


def test_an_older_file_is_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "old.yaml"
    path.write_text("encoder_configs: {text: {model_name: bert, freeze_layers: 4}}\nlearning_rate: 1e-4\n")
    text = renewed(path)
    path.write_text(text)
    config = load_config(path, need_data=False).config
    assert (config.model.text.encoder, config.model.text.freeze_layers, config.optim.lr) == ("hf:bert", 4, 1e-4)


def test_a_file_of_today_and_one_that_is_no_config(tmp_path: Path) -> None:
    path = tmp_path / "new.yaml"
    path.write_text("model: {name: ViT-B-32}\n")
    with pytest.raises(InputError, match=r"--from: .*new\.yaml is of today's form already"):
        renewed(path)
    path.write_text("a: 1\na: 2\n")
    with pytest.raises(ConfigError, match="twice"):
        renewed(path)
    with pytest.raises(ConfigError, match="does not exist"):
        renewed(tmp_path / "none.yaml")
