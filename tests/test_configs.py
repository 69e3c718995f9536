"""Every shipped config is valid, opens with what a reader needs, and its schema file is what the code says."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import yaml

from clipft.cli import main
from clipft.config.dump import json_schema
from clipft.config.load import load_config
from clipft.config.schema import Config

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
SHIPPED = sorted(path.name for path in CONFIGS.glob("*.yaml"))


def test_the_five_of_the_readme_are_there() -> None:
    assert SHIPPED == [
        "captions.yaml",
        "clothing-classifier.yaml",
        "freeze-text-minilm.yaml",
        "handclip.yaml",
        "quickstart.yaml",
    ]


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_config_is_valid(name: str) -> None:
    assert load_config(CONFIGS / name, need_data=False).notes == ()


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_config_opens_with_schema_purpose_command_and_expectation(name: str) -> None:
    first, *comments = (CONFIGS / name).read_text(encoding="utf-8").splitlines()[:4]
    assert first == "# yaml-language-server: $schema=./clipft.schema.json"
    assert [line.split(":")[0] for line in comments] == ["# for", "# run", "# expect"]
    assert f"configs/{name}" in comments[1]


@pytest.mark.parametrize(
    "path", sorted(CONFIGS.glob("models/*/open_clip_config.json")), ids=lambda path: path.parent.name
)
def test_a_shipped_model_has_what_open_clip_reads(path: Path) -> None:
    assert json.loads(path.read_text(encoding="utf-8")).keys() == {"model_cfg", "preprocess_cfg"}


def test_the_minilm_config_reports_offline_what_it_promises(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its `# expect` line, by the way of its `# run` line that needs no network."""
    pytest.importorskip("transformers")
    monkeypatch.chdir(ROOT)
    words = [
        "freeze-report",
        "configs/freeze-text-minilm.yaml",
        "--set",
        "model.text.encoder=hf:configs/models/minilm-l6",
    ]
    monkeypatch.setattr(sys, "argv", ["clipft", *words])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    told = " ".join(capsys.readouterr().out.split())
    promised = "froze 64 of 101 tensors matching 'encoder.layer.[0-3]' (7.1M of 22.6M parameters)"
    assert promised in told
    assert "64 of 101 tensors" in (CONFIGS / "freeze-text-minilm.yaml").read_text(encoding="utf-8")


def test_the_schema_beside_the_configs_is_the_current_one() -> None:
    written = (CONFIGS / "clipft.schema.json").read_text(encoding="utf-8")
    assert written == json_schema(), "out of date; run: clipft schema > configs/clipft.schema.json"


def _blocks(marker: str = "") -> list[str]:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(marker + r"```yaml\n(.*?)```", readme, re.S)


def test_the_readmes_configs_load(tmp_path: Path) -> None:
    """What is shown is what works; the block of two captions tables stands for the data section alone."""
    blocks = _blocks()
    assert len(blocks) == 3
    for block in blocks:
        path = tmp_path / "readme.yaml"
        path.write_text(block if "model:" in block else f"model: {{name: ViT-B-32}}\n{block}", encoding="utf-8")
        load_config(path, need_data=False)


def test_the_readmes_keys_are_all_keys_with_their_defaults(tmp_path: Path) -> None:
    (block,) = _blocks("<!-- all-keys -->\n")
    path = tmp_path / "all.yaml"
    path.write_text(block, encoding="utf-8")
    shown = load_config(path, need_data=False).config
    default = Config.model_validate({"model": {"name": "ViT-B-32"}, "data": {"train": {"folder": "photos"}}})
    assert shown == default
    for section, keys in yaml.safe_load(block).items():
        named = set(keys) | ({"text"} if section == "model" else set())
        if section not in ("loss", "strategy", "stages"):  # its other keys are named in the comment
            assert named == set(type(getattr(default, section)).model_fields)
