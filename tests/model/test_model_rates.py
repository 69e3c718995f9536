"""Learning rate and weight decay of each parameter, and the groups that the optimiser gets."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from freeze_models import custom, hugging_face_text, native, plan_of, timm_image

from clipft.config.optim_schema import OptimConfig
from clipft.config.schema import ModelConfig
from clipft.errors import InputError
from clipft.model.additions import add_new
from clipft.model.classifier import Classifier
from clipft.model.freeze import make_plan
from clipft.model.plan import NEW, Plan
from clipft.model.rates import groups, judge_patterns
from clipft.model.towers import towers_of


def rates_of(**config: Any) -> dict[str, float | None]:
    return {p.name: p.lr for p in plan_of(native(init_logit_bias=-10.0), loss="siglip", **config).parameters}


def test_one_rate_for_all_by_default() -> None:
    assert set(rates_of(optim={"lr": 3e-5}).values()) == {3e-5}


def test_a_rate_for_each_tower_the_heads_and_the_scale() -> None:
    """P32: towers and heads have rates of their own, as numbers or factors of optim.lr."""
    found = rates_of(
        optim={"lr": 1e-4, "lr_heads": "x10"},
        image={"lr": "x0.5"},
        text={"lr": 1e-6},
        logit_scale={"lr": "x0.1"},
    )
    assert found["visual.conv1.weight"] == found["visual.ln_post.bias"] == pytest.approx(5e-5)
    assert found["transformer.resblocks.2.ln_1.weight"] == found["token_embedding.weight"] == 1e-6
    assert found["visual.proj"] == found["text_projection"] == pytest.approx(1e-3)
    assert found["logit_scale"] == found["logit_bias"] == pytest.approx(1e-5)


def test_the_scale_takes_the_heads_rate_and_the_heads_the_common_one() -> None:
    assert rates_of(optim={"lr": 1e-4, "lr_heads": 2e-3})["logit_scale"] == 2e-3
    assert rates_of(optim={"lr": 1e-4})["visual.proj"] == 1e-4


def test_a_classifier_takes_the_heads_rate() -> None:
    model = native()
    model.classifier = Classifier(3, 24, cosine=False, bias=True)
    plan = plan_of(model, loss="classifier", optim={"lr_heads": 0.1})
    assert {p.lr for p in plan.parameters if p.group == "classifier"} == {0.1}


def test_the_last_pattern_that_matches_rules() -> None:
    optim = {
        "lr": 1e-4,
        "weight_decay": 0.2,
        "groups": [
            {"pattern": r"visual\..*resblocks.[01]", "lr": "x0.5", "weight_decay": 0.3},
            {"pattern": "visual.transformer.resblocks.1", "lr": 7e-6},
            {"pattern": "mlp.c_fc.bias", "weight_decay": 0.01},
        ],
    }
    plan = {p.name: p for p in plan_of(native(vision={"layers": 12}), optim=optim).parameters}
    block = "visual.transformer.resblocks.{}.mlp.c_fc.{}"
    decided = {key: (plan[block.format(*key)].lr, plan[block.format(*key)].weight_decay) for key in BLOCKS}
    assert decided == {
        (0, "weight"): (pytest.approx(5e-5), 0.3),
        (1, "weight"): (7e-6, 0.3),
        (1, "bias"): (7e-6, 0.01),
        (2, "weight"): (1e-4, 0.2),
        (10, "weight"): (1e-4, 0.2),  # under the number rule of freeze_pattern
    }


BLOCKS = ((0, "weight"), (1, "weight"), (1, "bias"), (2, "weight"), (10, "weight"))


def judged(**config: Any) -> Plan:
    """A plan whose patterns are judged as those of a run without stages."""
    return judge_patterns([(OptimConfig(**config["optim"]), plan_of(native(), **config))])[0]


def test_a_pattern_that_takes_nothing_is_an_error() -> None:
    """P32: a rate that nothing gets is a mistake, and is named."""
    with pytest.raises(
        InputError, match=r"optim.groups\[1\].pattern: 'visul' matches none of the 86 parameters that train"
    ):
        judged(optim={"groups": [{"pattern": "visual", "lr": 1e-3}, {"pattern": "visul", "lr": 1e-3}]})


def test_a_pattern_over_frozen_parameters_alone_is_warned_of() -> None:
    """P32: a rate that nothing gets, though the name is right."""
    plan = judged(image={"freeze_layers": 1}, optim={"groups": [{"pattern": "conv1", "lr": 1e-3}]})
    assert plan.warnings == (
        "optim.groups[0].pattern: 'conv1' matches one parameter, which is frozen; visual.conv1.weight has no rate to "
        "set",
    )


def test_layer_decay_falls_from_block_to_block() -> None:
    """P32: rates by block depth, by the tower's own order; norm and pooling have the full rate, heads their own."""
    image = {"lr": 1e-3, "layer_decay": 0.5}
    plan = {
        p.name: p.lr for p in plan_of(native(vision={"layers": 3}), image=image, optim={"lr_heads": 7e-3}).parameters
    }
    assert plan["visual.conv1.weight"] == pytest.approx(1e-3 / 16)
    assert plan["visual.transformer.resblocks.0.ln_1.weight"] == pytest.approx(1e-3 / 8)
    assert plan["visual.transformer.resblocks.1.ln_1.weight"] == pytest.approx(1e-3 / 4)
    assert plan["visual.transformer.resblocks.2.mlp.c_fc.weight"] == pytest.approx(1e-3 / 2)
    assert plan["visual.ln_post.weight"] == 1e-3
    assert plan["visual.proj"] == 7e-3
    assert plan["ln_final.weight"] == plan["token_embedding.weight"]  # the text tower has no decay of its own


@pytest.mark.parametrize("family", ["native", "timm vit", "efficientnet"])
def test_what_is_never_pulled_to_zero(family: str, tmp_path: Path) -> None:
    """P31: no decay on biases, norms, embeddings, logit_scale and logit_bias; decay on matrices and convolutions."""
    bert = hugging_face_text(tmp_path)
    model = {
        "native": lambda: native(init_logit_bias=-10.0),
        "timm vit": lambda: custom(timm_image("test_vit", timm_pool="token"), bert),
        "efficientnet": lambda: custom(timm_image("test_efficientnet", timm_proj_bias=True), bert),
    }[family]()
    plan = plan_of(model, loss="siglip", optim={"weight_decay": 0.3})
    assert {p.weight_decay for p in plan.parameters} == {0.0, 0.3}
    words = ("bias", "norm", "bn", "ln_", "embedding", "cls_token", "pos_embed", "logit_scale", ".gamma")
    for p in plan.parameters:
        spared = any(word in p.name.lower().replace("embeddings.layer", "") for word in words)
        assert (p.weight_decay == 0) == spared, p.name


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"image": {"freeze_layers": 2, "lr": "x0.1"}, "text": {"freeze_pattern": "ln"}},
        {"optim": {"lr_heads": 1e-3, "groups": [{"pattern": "bias", "lr": 1e-2, "weight_decay": 0.5}]}},
        {"optim": {"groups": [{"pattern": "bias", "lr": 1e-2}, {"pattern": "ln_1", "lr": "x2"}]}},
    ],
    ids=str,
)
def test_each_trainable_parameter_is_in_exactly_one_group(config: dict[str, Any]) -> None:
    """P32: exactly one group; P15: and a frozen one in none."""
    plan = plan_of(native(), **config)
    made = groups(plan)
    counts = Counter(name for group in made for name in group.names)
    assert counts == Counter({p.name: 1 for p in plan.trainable})
    assert len({(group.lr, group.weight_decay) for group in made}) == len(made)
    by_name = {p.name: p for p in plan.parameters}
    for group in made:
        assert {(by_name[n].lr, by_name[n].weight_decay) for n in group.names} == {(group.lr, group.weight_decay)}


def test_new_parameters_have_a_rate_of_their_own_and_decay_by_what_they_are() -> None:
    """P31: prompt vectors are never pulled to zero, nor an adapter's biases; P32: matrices of LoRA and adapters are."""
    model = native()
    image, text = towers_of(model)
    section = ModelConfig(
        name="a-model",
        image={"lora": {"rank": 2}, "adapter": {"bottleneck": 4}, "prompt": {"length": 2}, "lr": 1e-6},
        text={"prompt": {"length": 2, "depth": 2}},
    )
    add_new(model, image, text, section, seed=0)
    optim = OptimConfig(lr=0.25, lr_new="x0.5", lr_heads=1e-3, weight_decay=0.3)
    plan = make_plan(
        model, image, text, name="a-model", config=section, loss="contrastive", features="projected", optim=optim
    )
    new = [p for p in plan.trainable if p.group in NEW]
    assert {p.lr for p in new} == {0.125}
    assert {p.lr for p in plan.trainable if p not in new} == {1e-3}
    assert {p.group for p in new} == set(NEW)
    for p in new:
        assert p.weight_decay == (0.0 if p.group == "prompt" or p.name.endswith("bias") else 0.3), p.name
