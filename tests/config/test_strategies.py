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
from clipft.errors import ConfigError, InputError

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
FROZEN = "model.image.freeze_layers=-1"


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
        (
            {"name": "heads", "pull": 0.25},
            {"train.regularize": {"type": "l2sp", "weight": 0.25}, "optim.weight_decay": 0.0},
        ),
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
        ("linear_probe", {**STILL, **NO_PROJECTIONS, **NO_SCALE, "loss.type": "classifier", "optim.lr_heads": 1e-2}),
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
    scaled = keys(["prompt", "logit_scale"])
    assert "model.logit_scale.train" not in scaled
    assert scaled["model.logit_scale.lr"] == 5e-4  # at the backbones' 1e-5 it would hardly move
    assert "model.logit_scale.lr" not in keys("logit_scale")  # a search has no rate
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


def test_projections_are_nothing_to_a_linear_probe_on_pooled_features() -> None:
    probe = {"name": "linear_probe", "features": "pooled"}
    with pytest.raises(
        ValueError, match=r"heads trains the projections, .* write \{name: linear_probe, features: proj"
    ):
        keys(["heads", probe])
    assert keys(["last_layers", probe])["model.image.freeze_layers"] == "depth - 2"


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
        (
            "{name: lora, rank: 4}",
            "lora has no option 'rank'; its options: towers; write model.image.lora.rank or model.text.lora.rank",
        ),
        ("{name: full, n: 4}", "strategy: full has no option 'n'; its options: none"),
        ("{name: full, lr: 1}", "full has no option 'lr'; its options: none; write optim.lr"),
        (
            "{name: lora, towers: text}",
            "lora: towers: expected a list of one or more of (image, text), found 'text'; write [text]",
        ),
        ("{name: lora, towers: []}", "lora: towers: expected a list of one or more of (image, text), found []"),
        ("{name: prompt, towers: [audio]}", "prompt: towers[0]: expected image or text, found 'audio'"),
        ("{name: last_layers, n: {vision: 2}}", "last_layers: n.vision: unknown key; known here: image, text"),
        ("{name: last_layers, n: {image: -1}}", "last_layers: n.image: expected a whole number of at least 0 or null"),
        ("{name: last_layers, n: {}}", "last_layers: n: names no tower; write such as {image: 2}"),
        ("{name: last_layers, norm: 3}", "last_layers: norm: expected true or false, found 3"),
        ("{name: last_layers, n: -1}", "n: expected a whole number of at least 0 or {image: 2, text: 1}, found -1"),
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


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            ("strategy=linear_probe", "loss.type=contrastive"),
            "--set: loss.type: contrastive has no classifier, which is what strategy: linear_probe trains; leave this "
            "key out",
        ),
        (("strategy=[heads, linear_probe]", "loss.type=zero_shot"), "loss.type: zero_shot has no classifier"),
        (
            ("strategy=prompt", "model.text.prompt=null"),
            "--set: model.text.prompt: null leaves nothing of what strategy: prompt trains: prompt of the text tower; "
            "leave this key out, or write another strategy",
        ),
        (
            ("strategy=logit_scale", "model.logit_scale.train=false"),
            "model.logit_scale.train: false leaves nothing of what strategy: logit_scale trains: logit_scale; leave",
        ),
        (
            ("strategy=lora", "model.text.lora=null", "model.image.lora=null"),
            "model.image.lora: null (and model.text.lora: null) leaves nothing of what strategy: lora trains",
        ),
        (
            ("strategy=[linear_probe, adapter]", "model.image.adapter=null"),
            "--set: model.image.adapter: null leaves nothing of what strategy: adapter trains: adapter of the image",
        ),
        (
            ("strategy={name: last_layers, n: {image: 2}, projections: false, logit_scale: false}", FROZEN),
            "model.image.freeze_layers: -1 leaves nothing of what strategy: last_layers trains: blocks of the image",
        ),
    ],
)
def test_a_key_that_takes_away_all_of_a_strategy_is_named(overrides: tuple[str, ...], sentence: str) -> None:
    """P17: the cause and the next step, in place of a plan in which nothing trains."""
    with pytest.raises(ConfigError) as caught:
        load("", *overrides)
    assert sentence in str(caught.value)


def test_a_key_that_takes_away_a_part_of_a_strategy_is_right() -> None:
    assert load("", "strategy=lora", "model.text.lora=null").config.model.text.lora is None
    assert load("", "strategy=heads", "model.image.projection=freeze").config.strategy
    staged = "stages=[{epochs: 1, loss: {type: classifier}}]"
    assert load("", "strategy=linear_probe", "loss.type=contrastive", staged).config.stages


def test_what_is_wrong_with_a_key_of_a_strategy_has_the_place_of_the_strategy() -> None:
    for text, overrides, place in (("", ("strategy=lora",), "--set"), ("strategy: lora", (), "config.yaml:1")):
        loaded = load(text, *overrides)
        with pytest.raises(ConfigError) as caught, loaded.places():
            raise InputError("model.image.lora.targets: q matches nothing")
        assert str(caught.value) == f"{place}: model.image.lora.targets: q matches nothing"
