"""The script that compares strategies: what it runs, and what it makes of the rows."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

import compare_strategies as script
from clipft.config.load import load_config


@pytest.mark.parametrize("way", script.WAYS, ids=lambda way: way.name)
@pytest.mark.parametrize("data", script.EPOCHS)
def test_every_config_is_a_valid_one(way: script.Way, data: str, tmp_path: Path) -> None:
    for folder in ("signdigits/train", "signdigits/val", "openstax"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "openstax" / "captions.csv").touch()
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(script.config_of(way, "signdigits", data, 1, tmp_path, tmp_path)))
    config = load_config(file).config
    assert (config.data.shots is None) == (data == "all")
    assert config.run.seed == 1


def test_a_sweep_parts_at_commas_outside_brackets() -> None:
    sweep = "model.image.adapter.placement=[attn],[mlp],[attn,mlp]"
    values = [setting.partition("=")[2] for setting in script.sweep_settings(sweep)]
    assert values == ["[attn]", "[mlp]", "[attn,mlp]"]
    assert script.sweep_settings("a.b={last: 2},all") == ["a.b={last: 2}", "a.b=all"]


def test_a_line_has_mean_and_deviation_over_the_draws() -> None:
    rows = [
        script.Row("heads", "clothing", "16 shots", draw, 1234, 10.0, 10**9, 0.25, tuned, 0.5, 0.4)
        for draw, tuned in enumerate((0.5, 0.6, 0.7))
    ]
    expected = "| heads | 1,234 | 1.0 | 0.250, 0.500 | 10 | 0.600 ± 0.100 | 0.400 ± 0.000 | - | - | - |"
    assert script.line(rows, ["16 shots", "all"]) == expected


def test_a_training_that_fails_is_named_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "clothing").mkdir()  # without a photo, so that every training is refused
    words = ["--base", str(tmp_path), "--data", str(tmp_path), "--out", str(tmp_path / "out"), "--sets", "all"]
    words += ["--photos", "clothing", "--only", "heads", "--only", "prompt"]
    monkeypatch.setattr(sys, "argv", ["compare_strategies.py", *words])
    assert script.main() == 1
    told = capsys.readouterr().out
    assert [told.count(f"{way}-clothing-all-0") for way in ("heads", "prompt")] == [2, 2]  # config and log
    assert script.read_rows(tmp_path / "out") == []
