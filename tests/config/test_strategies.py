"""Strategies: the keys that they stand for, which go together, and who wins."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path

import pytest
from pydantic import TypeAdapter
from strategy_pairs import refusal_of

from clipft.config.dump import dump_config
from clipft.config.load import Loaded, load_config
from clipft.config.strategies import keys_for
from clipft.config.strategy_schema import STRATEGIES, Strategies
from clipft.errors import ConfigError

REST = "model: {name: ViT-B-32}\ndata: {train: {builtin: hands}}\n"


def load(text: str, *overrides: str, rest: str = REST) -> Loaded:
    path = Path("config.yaml")
    path.write_text(f"{text}\n{rest}", encoding="utf-8")
    return load_config(path, overrides)


def keys(strategy: object) -> dict[str, object]:
    """The keys that a strategy stands for, dotted."""
    adapter: TypeAdapter[Strategies] = TypeAdapter(Strategies)
    return {".".join(key.path): key.value for key in keys_for(adapter.validate_python(strategy))}


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


STILL = {"model.image.freeze_backbone": True, "model.text.freeze_backbone": True}
NO_PROJECTIONS = {"model.image.projection": "freeze", "model.text.projection": "freeze"}
NO_SCALE = {"model.logit_scale.train": False}


@pytest.mark.parametrize(
    ("strategy", "stands_for"),
    [
        ("full", {"model.image.freeze_backbone": False, "model.text.freeze_backbone": False, "optim.lr": 1e-5}),
        (
            "freeze_image",
            {
                "model.image.freeze_backbone": True,
                "model.image.projection": "freeze",
                "model.text.freeze_backbone": False,
                "optim.lr": 1e-5,
            },
        ),
        ("heads", {**STILL, "optim.lr_heads": 1e-4}),
        ({"name": "heads", "pull": 0.25}, {"train.regularize": {"type": "l2sp", "weight": 0.25}}),
        (
            {"name": "last_layers", "n": {"text": 1}, "norm": False, "projections": False, "logit_scale": False},
            {
                "model.image.freeze_backbone": True,
                **NO_PROJECTIONS,
                "model.text.freeze_layers": "depth - 1",
                "model.text.norm": "freeze",
                **NO_SCALE,
                "optim.lr": 2e-5,
                "optim.lr_heads": 1e-4,
            },
        ),
        ({"name": "last_layers", "n": 0}, {"model.image.freeze_layers": "depth", "model.text.freeze_layers": "depth"}),
        ("lora", {**STILL, **NO_PROJECTIONS, **NO_SCALE, "model.image.lora": {}, "model.text.lora": {}}),
        ({"name": "adapter", "towers": ["image"]}, {**STILL, **NO_PROJECTIONS, **NO_SCALE, "model.image.adapter": {}}),
        ("prompt", {**STILL, **NO_PROJECTIONS, **NO_SCALE, "model.text.prompt": {}, "optim.lr_new": 2e-3}),
        ("logit_scale", {**STILL, **NO_PROJECTIONS}),
        ("linear_probe", {**STILL, **NO_PROJECTIONS, **NO_SCALE, "loss.type": "classifier", "optim.lr_heads": 1e-3}),
        (
            {"name": "linear_probe", "features": "pooled"},
            {"loss.type": "classifier", "loss.features": "pooled", "loss.init": "random"},
        ),
    ],
)
def test_what_a_strategy_stands_for(strategy: object, stands_for: dict[str, object]) -> None:
    """P29: rates among them, each strategy's own."""
    assert stands_for.items() <= keys(strategy).items() or stands_for == keys(strategy)


def test_together_they_train_what_each_trains() -> None:
    both = keys(["prompt", {"name": "last_layers", "n": {"text": 1}, "projections": False, "logit_scale": False}])
    assert both["model.text.freeze_layers"] == "depth - 1"
    assert both["model.text.prompt"] == {}
    assert "model.text.norm" not in both
    assert both["model.image.freeze_backbone"] is True
    assert both["model.logit_scale.train"] is False
    assert "model.logit_scale.train" not in keys(["prompt", "logit_scale"])
    heads = keys(["heads", {"name": "last_layers", "n": {"image": 2}}])
    assert "model.text.projection" not in heads
    assert heads["model.text.freeze_backbone"] is True
    rates = keys(["differential_lr", "last_layers"])
    assert (rates["optim.lr_heads"], rates["model.text.lr"]) == ("x10", "x0.1")
    assert keys(["lora", "prompt"])["optim.lr_new"] == 2e-4  # of two rates the smaller
    probe = keys(["linear_probe", "lora"])
    assert "model.image.lora" in probe
    assert "model.text.lora" not in probe  # a classifier does not look at texts


def test_differential_rates_say_nothing_of_what_trains() -> None:
    assert not any("freeze" in key or "projection" in key for key in keys("differential_lr"))


@pytest.mark.parametrize(("one", "other"), list(combinations(STRATEGIES, 2)))
def test_every_pair_works_or_is_refused_with_a_sentence(one: str, other: str) -> None:
    """A pair loads into a config, in either order alike, or its line says why not."""
    sentence = refusal_of(one, other)
    if sentence is None:
        first, second = load(f"strategy: [{one}, {other}]"), load(f"strategy: [{other}, {one}]")
        assert first.config.model == second.config.model
        assert first.config.optim == second.config.optim
    else:
        for pair in (f"[{one}, {other}]", f"[{other}, {one}]"):
            with pytest.raises(ConfigError, match=sentence):
                load(f"strategy: {pair}")


@pytest.mark.parametrize(
    "text_alone",
    [
        {"name": "lora", "towers": ["text"]},
        {"name": "adapter", "towers": ["text"]},
        {"name": "last_layers", "n": {"text": 1}},
    ],
    ids=lambda strategy: str(strategy["name"]),
)
def test_what_trains_the_text_tower_alone_is_nothing_to_a_linear_probe(text_alone: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"{text_alone['name']} trains the text tower alone, which linear_probe's"):
        keys(["linear_probe", text_alone])


@pytest.mark.parametrize(
    ("strategy", "key"),
    [
        ("prompt", "prompt"),
        ("{name: prompt, towers: [image, text]}", "prompt"),
        ("{name: lora, towers: [text]}", "lora"),
        ("{name: adapter, towers: [text]}", "adapter"),
    ],
)
def test_what_is_new_in_the_text_tower_is_nothing_to_a_classifier(strategy: str, key: str) -> None:
    sentence = (
        f"config.yaml:1: model.text.{key}: stands beside loss.type: classifier, which looks at no text, so it would "
        f"not train; write loss.type: zero_shot, or {key} under model.image"
    )
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        load(f"strategy: {strategy}\nloss: {{type: classifier}}")
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        load(f"strategy: {strategy}\nstages: [{{epochs: 1, loss: {{type: classifier}}}}]")
    load(f"strategy: {strategy}\nloss: {{type: zero_shot}}")


@pytest.mark.parametrize(
    "config",
    [
        "strategy: lora\nloss: {type: classifier}",  # the image's share trains
        "strategy: [freeze_text, {name: lora, towers: [text]}]\nloss: {type: classifier}",
        "strategy: {name: prompt, towers: [image]}\nloss: {type: classifier}",
        "strategy: prompt\nstages: [{epochs: 1}, {epochs: 1, loss: {type: classifier}}]",  # learnt in the first stage
        "strategy: {name: lora, towers: [text]}\nloss: {type: classifier}\n"
        "stages: [{epochs: 1}, {epochs: 1, model: {image: {freeze_layers: 2}}}]",  # the image tower thaws
    ],
)
def test_a_classifier_stands_beside_what_trains_all_the_same(config: str) -> None:
    load(config)


def test_written_keys_win_over_the_strategy() -> None:
    loaded = load("strategy: heads\noptim: {lr_heads: 3e-4}")
    assert loaded.config.optim.lr_heads == 3e-4
    assert loaded.notes == ()
    loaded = load("strategy: lora", rest="model: {name: V, text: {lora: null}, image: {lora: {rank: 4}}}\n" + REST[24:])
    assert loaded.config.model.text.lora is None
    assert loaded.config.model.image.lora is not None
    assert loaded.config.model.image.lora.rank == 4


def test_a_freeze_key_clears_the_strategys() -> None:
    model = "model: {name: V, image: {freeze_layers: 3, freeze_backbone: null}}\n"
    loaded = load("strategy: heads", rest=model + REST[24:])
    image = loaded.config.model.image
    assert (image.freeze_layers, image.freeze_backbone) == (3, None)
    loaded = load("strategy: heads", rest="model: {name: V, image: {freeze_layers: 3}}\n" + REST[24:])
    assert loaded.notes == ("model.image: freeze_layers of the file clears freeze_backbone: true of the strategy",)
    loaded = load("strategy: heads", rest="model: {name: V, image: {freeze_layers: null}}\n" + REST[24:])
    assert loaded.config.model.image.freeze_backbone is True  # null says nothing


def test_set_changes_the_strategy() -> None:
    loaded = load("strategy: heads", "strategy=logit_scale")
    assert [strategy.name for strategy in loaded.config.strategy] == ["logit_scale"]
    assert loaded.config.model.image.projection == "freeze"


def test_the_resolved_config_loads_to_the_same(tmp_path: Path) -> None:
    loaded = load("strategy: [{name: last_layers, n: 3}, differential_lr]")
    (tmp_path / "again.yaml").write_text(dump_config(loaded.config), encoding="utf-8")
    again = load_config(tmp_path / "again.yaml")
    assert again.config == loaded.config
    assert again.notes == ()


@pytest.mark.parametrize(
    ("strategy", "sentence"),
    [
        ("lorra", "strategy: there is no strategy 'lorra'; did you mean lora?"),
        ("xyz", "there is no strategy 'xyz'; expected full, freeze_image"),
        ("{n: 2}", "strategy: has no name; expected full"),
        ("{name: lora, rank: 4}", "strategy: lora has no option 'rank'; its options: towers"),
        ("{name: full, n: 4}", "strategy: full has no option 'n'; its options: none"),
        ("{name: last_layers, n: -1}", "strategy: n: input should be greater than or equal to 0, found -1"),
        ("[heads, heads]", "strategy: heads stands there twice"),
        ("[[heads]]", "there is no strategy"),
    ],
)
def test_a_wrong_strategy_is_told(strategy: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(f"strategy: {strategy}")
    assert sentence in str(caught.value)
    assert "config.yaml:1" in str(caught.value)


def test_a_mistake_in_a_strategys_key_stands_on_its_line() -> None:
    with pytest.raises(ConfigError) as caught:
        load("strategy: {name: linear_probe, features: pooled}\nloss: {type: contrastive}")
    assert "--set" not in str(caught.value)
    assert "config.yaml:1: loss.init: is for type: classifier" in str(caught.value)


def test_last_layers_of_no_tower() -> None:
    with pytest.raises(ConfigError, match=r"names no tower; write such as \{image: 2\}"):
        load("strategy: {name: last_layers, n: {}}")
