"""A file in the older form is answered with a valid file in today's keys."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clipft.config.dump import dump_yaml
from clipft.config.load import load_config
from clipft.config.schema import Config
from clipft.errors import ConfigError

OLD = """
encoder_configs:
  text:
    model_name: sentence-transformers/all-MiniLM-L6-v2
    embed_dim: 256
    max_length: 64
    pooling_strategy: mean
    freeze_pattern: encoder.layer.[0-3]
    freeze_layers: 4
    freeze_backbone: false
    dropout: 0.1
  image: {model_name: resnet50, embed_dim: 256, freeze_layers: [1, 2], freeze_backbone: true}
learning_rate: 1e-4
max_epochs: 10
batch_size: 32
precision: 16
temperature: 0.07
"""


def answer(path: Path, text: str) -> tuple[ConfigError, Config]:
    """The error, and the file in it as `load_config` reads it."""
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    path.write_text(caught.value.advice, encoding="utf-8")
    return caught.value, load_config(path, need_data=False).config


def test_the_answer_says_the_same_in_todays_keys(tmp_path: Path) -> None:
    error, config = answer(tmp_path / "old.yaml", OLD)
    assert f"{tmp_path}/old.yaml:2: encoder_configs: is of the older form" in str(error)
    text, image = config.model.text, config.model.image
    assert (text.encoder, text.pooling, text.dropout) == ("hf:sentence-transformers/all-MiniLM-L6-v2", "mean", 0.1)
    assert (text.freeze_pattern, text.freeze_layers, text.freeze_backbone) == ("encoder.layer.[0-3]", 4, False)
    assert (image.encoder, image.freeze_backbone) == ("timm:resnet50", True)
    assert (config.model.embed_dim, config.model.context_length) == (256, 64)
    assert (config.optim.lr, config.train.epochs, config.train.batch_size) == (1e-4, 10, 32)
    assert config.train.precision == "fp16"


def test_encoders_of_two_widths_meet_though_the_old_file_names_none(tmp_path: Path) -> None:
    _, config = answer(tmp_path / "old.yaml", "encoder_configs: {text: {model_name: MiniLM, freeze_layers: 4}}\n")
    assert config.model.embed_dim == 512


def test_what_has_no_counterpart_stands_in_comments(tmp_path: Path) -> None:
    error, _ = answer(tmp_path / "old.yaml", OLD)
    assert "#   encoder_configs.image.freeze_layers: [1, 2]" in error.advice.splitlines()
    assert "#   temperature: 0.07" in error.advice.splitlines()


def test_one_encoder_alone(tmp_path: Path) -> None:
    error, config = answer(tmp_path / "old.yaml", "encoder_configs: {text: {model_name: bert, embed_dim: 8}}\n")
    assert "# Set model.image.encoder: the older file names none." in error.advice.splitlines()
    assert config.model.text.encoder == "hf:bert"


def test_the_trainers_keys_alone(tmp_path: Path) -> None:
    _, config = answer(tmp_path / "old.yaml", "learning_rate: 1e-5\nmax_epochs: 3\n")
    assert (config.optim.lr, config.train.epochs) == (1e-5, 3)


ODD = st.none() | st.booleans() | st.integers(-2, 9) | st.floats(allow_nan=False) | st.text(max_size=9) | st.just([1])
KEYS = st.sampled_from(
    ["model_name", "embed_dim", "max_length", "pooling_strategy", "freeze_layers", "freeze_pattern", "dropout", "a\nb"]
)
TOWERS = st.dictionaries(st.sampled_from(["text", "image", "audio"]), st.dictionaries(KEYS, ODD) | ODD)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(TOWERS | ODD, st.dictionaries(st.sampled_from(["learning_rate", "max_epochs", "seed", "x"]), ODD))
def test_every_answer_is_valid(tmp_path: Path, encoders: object, rest: dict[str, object]) -> None:
    answer(tmp_path / "old.yaml", dump_yaml({"encoder_configs": encoders, **rest}))
