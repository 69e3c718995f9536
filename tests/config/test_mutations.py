"""Configs as people and editors break them: each gives a Config or sentences with file and key or line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clipft.config.load import load_config
from clipft.config.schema import Config
from clipft.errors import ConfigError

BASE = """\
# yaml-language-server: $schema=./clipft.schema.json
model:
  name: ViT-B-32
  pretrained: laion2b_s34b_b79k
  logit_scale: {train: true, init: null, min: 1.0, max: 100.0, lr: x0.5}
  image:
    freeze_layers: 10
    projection: train
    dropout: 0.0
  text: {freeze_pattern: 'encoder.layer.[0-3]', freeze_backbone: true, lr: 1e-5}
data:
  train: {builtin: hands, count: 200}
  val: {table: a.csv, image: filepath, caption: "a {material} {kind}", split: split=val}
  templates: ["a photo of a {}.", "{}"]
  class_names: {"0": zero, 1: one}
  augment: {crop_scale: [0.8, 1.0], flip: false, color_jitter: 0.0}
  workers: auto
loss: {type: classifier, features: projected, class_weights: {a: 2}}
optim:
  name: adamw
  lr: 1e-5
  betas: [0.9, 0.98]
  warmup: 0.05
  groups: [{pattern: ln_, lr: x0.1, weight_decay: 0}]
train:
  epochs: 10
  batch_size: 64
  early_stop: {metric: zero_shot_top1, patience: 2}
evaluate: {every: epoch, best: zero_shot_top1}
checkpoint: {keep: {last: 2, best: 1}}
run: {dir: null, seed: 0}
"""
ODD = [
    *("null", "~", "-1", "0", "1e999", ".nan", "9" * 30, "1_000", "on", "[]", "{}", "[[[", "{a: b}", "''", '"\\q"'),
    *(
        "*x",
        "&x",
        "!!python/none",
        "'",
        '"',
        "\t",
        "\x00",
        "\x85",
        "\ufeff",
        "é",
        "a: b",
        "- a",
        "# x",
        "| ",
        "> ",
        "%",
    ),
    *("[0-3]", "encoder.layer.[0-3]", "(", "[[a]", "x0", "true", "2001-01-01", "<<", "folder", "hands", "\ud7ff", "😀"),
]
SET_KEYS = [
    "optim.lr",
    "model.image",
    "data.train",
    "data.val.table",
    "data.train.folder",
    "train.epochs",
    "x.y",
    "",
    "a",
]
KEYS = ["lr", "Name", "freeze_layer", "folder", "table", "model", "on", "0", "<<", "encoder", "a b", "", "épochs", "*"]


def _mutate(text: str, random: Random) -> str:
    """One change: to a character, to a line, to a value or to a key."""
    lines = text.split("\n")
    line, at = random.randrange(len(lines)), random.randrange(max(1, len(text)))
    match random.randrange(8):
        case 0:
            return text[:at] + text[at + random.randint(1, 4) :]
        case 1:
            return text[:at] + text[at : at + random.randint(1, 40)] + text[at:]
        case 2:
            return text[:at] + random.choice("[]{}:,#&*!|>'\"%@`\t\n -?0aé\x00") + text[at + 1 :]
        case 3:
            lines.insert(line, random.choice(lines))
        case 4:
            del lines[line]
        case 5:
            lines[line] = " " * random.randint(0, 6) + lines[line].strip()
        case 6:
            head, colon, _ = lines[line].partition(":")
            lines[line] = f"{head}{colon} {random.choice(ODD)}"
        case _:
            head, colon, tail = lines[line].partition(":")
            indent = head[: len(head) - len(head.lstrip())]
            lines[line] = f"{indent}{random.choice(KEYS)}{colon}{tail}"
    return "\n".join(lines)


@settings(max_examples=200, deadline=10_000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.randoms(use_true_random=False), st.integers(1, 4))
def test_a_mutated_config_loads_or_is_told(tmp_path: Path, random: Random, changes: int) -> None:
    """P68, P69: whatever is wrong is told with its place; nothing else is ever raised."""
    text = BASE
    for _ in range(changes):
        text = _mutate(text, random)
    path = tmp_path / "mutated.yaml"
    path.write_text(text, encoding="utf-8", newline="")
    error = _refusal(path)
    if error is None:
        return
    assert error.problems
    for problem in error.problems:
        assert problem.line is not None or problem.key or "empty" in problem.message
        assert problem.message
    assert all(str(path) in line for line in str(error).split("\n")[: len(error.problems)])
    assert str(error).encode()


@settings(max_examples=100, deadline=10_000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.randoms(use_true_random=False), st.integers(1, 3))
def test_a_mutated_config_with_odd_overrides_and_its_data_loads_or_is_told(
    tmp_path: Path, random: Random, changes: int
) -> None:
    """P68, P69: `--set` and the paths of the data section too."""
    path = tmp_path / "mutated.yaml"
    path.write_text(_mutate(BASE, random), encoding="utf-8", newline="")
    sets = [f"{random.choice(SET_KEYS)}{random.choice(['=', '=', ''])}{random.choice(ODD)}" for _ in range(changes)]
    error = _refusal(path, sets, need_data=True)
    if error is not None:
        assert error.problems
        assert all(str(path) in line or "--set" in line for line in str(error).split("\n")[: len(error.problems)])


def _refusal(path: Path, sets: Sequence[str] = (), *, need_data: bool = False) -> ConfigError | None:
    """What is told of the file, None where it is a config; any other exception is a bug."""
    try:
        assert isinstance(load_config(path, sets, need_data=need_data).config, Config)
    except ConfigError as error:
        return error
    return None


def test_unchanged_it_loads(tmp_path: Path) -> None:
    path = tmp_path / "base.yaml"
    path.write_text(BASE, encoding="utf-8")
    assert load_config(path, need_data=False).config.optim.lr == 1e-5


def test_bytes_flipped_at_random(tmp_path: Path) -> None:
    path, random = tmp_path / "flipped.yaml", Random(0)
    for _ in range(300):
        data = bytearray(BASE.encode())
        for _ in range(random.randint(1, 3)):
            data[random.randrange(len(data))] = random.randrange(256)
        path.write_bytes(data)
        error = _refusal(path)
        assert error is None or str(error).startswith(str(path))
