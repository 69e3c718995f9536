"""The freeze rules: the lines as a person writes them on a MiniLM text tower, every precedence, what no key rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from freeze_models import custom, frozen_names, hugging_face_text, minilm, native, on_meta, plan_of, timm_image
from torch import nn

from clipft.errors import InputError
from clipft.model.classifier import Classifier
from clipft.model.plan import Plan
from clipft.model.towers import towers_of

ALL_TRAINS = "all 101 backbone tensors train (22.6M parameters)"
ALL_FROZEN = "froze all backbone parameters (101 tensors, 22.6M parameters)"
EMBEDDINGS, LAYER = 5, 16  # tensors


@pytest.fixture(scope="module")
def text_tower(tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    """The text encoder of all-MiniLM-L6-v2: 101 names, 22,565,376 parameters."""
    return minilm(tmp_path_factory.mktemp("minilm"))


@pytest.fixture(scope="module")
def vit_b_32() -> nn.Module:
    return on_meta("ViT-B-32")


def layers_of(plan: Plan) -> dict[str, int]:
    """How many tensors are frozen in each group of the text backbone."""
    counts: dict[str, int] = {}
    for p in plan.frozen:
        if p.tower == "text":
            counts[p.group] = counts.get(p.group, 0) + 1
    return counts


def test_the_tower_is_minilm(text_tower: nn.Module) -> None:
    _, text = towers_of(text_tower)
    names = text.backbone_names()
    parameters = dict(text_tower.named_parameters())
    assert len(names) == 101
    assert sum(parameters[name].numel() for name in names) == 22_565_376


@pytest.mark.parametrize(
    ("pattern", "line", "groups"),
    [
        (
            "embeddings",
            "froze 5 of 101 tensors matching 'embeddings' (11.9M of 22.6M parameters)",
            {"embeddings": EMBEDDINGS},
        ),
        (
            "encoder.layer.[0-3]",
            "froze 64 of 101 tensors matching 'encoder.layer.[0-3]' (7.1M of 22.6M parameters)",
            {f"block {i}": LAYER for i in range(4)},
        ),
        (
            "encoder.layer.(0|1|2)",
            "froze 48 of 101 tensors matching 'encoder.layer.(0|1|2)' (5.3M of 22.6M parameters)",
            {f"block {i}": LAYER for i in range(3)},
        ),
        (
            "embeddings|encoder.layer.[0-1]",
            "froze 37 of 101 tensors matching 'embeddings|encoder.layer.[0-1]' (15.5M of 22.6M parameters)",
            {"embeddings": EMBEDDINGS, "block 0": LAYER, "block 1": LAYER},
        ),
        (
            "attention",
            "froze 60 of 101 tensors matching 'attention' (3.6M of 22.6M parameters)",
            {f"block {i}": 10 for i in range(6)},
        ),
        (
            "LayerNorm",
            "froze 26 of 101 tensors matching 'LayerNorm' (10.0K of 22.6M parameters)",
            {"embeddings": 2} | {f"block {i}": 4 for i in range(6)},
        ),
        ("all", ALL_FROZEN, {"embeddings": EMBEDDINGS} | {f"block {i}": LAYER for i in range(6)}),
    ],
)
def test_freeze_pattern_as_written(text_tower: nn.Module, pattern: str, line: str, groups: dict[str, int]) -> None:
    plan = plan_of(text_tower, text={"freeze_pattern": pattern})
    assert plan.lines["text"] == line
    assert layers_of(plan) == groups
    assert {p.rule for p in plan.frozen} == {f"freeze_pattern: {pattern!r}"}


@pytest.mark.parametrize(
    ("layers", "line", "groups"),
    [
        (0, ALL_TRAINS, {}),
        (
            4,
            "froze embeddings + first 4/6 blocks (69 of 101 tensors, 19.0M of 22.6M parameters)",
            {"embeddings": EMBEDDINGS} | {f"block {i}": LAYER for i in range(4)},
        ),
        (
            5,
            "froze embeddings + first 5/6 blocks (85 of 101 tensors, 20.8M of 22.6M parameters)",
            {"embeddings": EMBEDDINGS} | {f"block {i}": LAYER for i in range(5)},
        ),
        (-1, ALL_FROZEN, {"embeddings": EMBEDDINGS} | {f"block {i}": LAYER for i in range(6)}),
    ],
)
def test_freeze_layers_as_written(text_tower: nn.Module, layers: int, line: str, groups: dict[str, int]) -> None:
    plan = plan_of(text_tower, text={"freeze_layers": layers})
    assert plan.lines["text"] == line
    assert layers_of(plan) == groups
    assert {p.rule for p in plan.frozen} == ({f"freeze_layers: {layers}"} if groups else set())


@pytest.mark.parametrize(("value", "line", "count"), [(True, ALL_FROZEN, 101), (False, ALL_TRAINS, 0)])
def test_freeze_backbone_as_written(text_tower: nn.Module, value: bool, line: str, count: int) -> None:
    plan = plan_of(text_tower, text={"freeze_backbone": value})
    assert plan.lines["text"] == line
    assert len(plan.frozen) == count
    assert {p.rule for p in plan.frozen} <= {"freeze_backbone: true"}


def test_with_no_key_the_backbone_trains(text_tower: nn.Module) -> None:
    assert plan_of(text_tower).lines["text"] == ALL_TRAINS


def test_the_frozen_backbone_leaves_the_projection_alone(text_tower: nn.Module) -> None:
    plan = plan_of(text_tower, text={"freeze_layers": -1})
    assert [p.group for p in plan.trainable if p.tower == "text"] == ["projection"]


# --- precedence ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "like", "ignored"),
    [
        ({"freeze_pattern": "attention", "freeze_layers": 4}, "freeze_pattern", "freeze_layers: 4"),
        ({"freeze_pattern": "attention", "freeze_backbone": True}, "freeze_pattern", "freeze_backbone: true"),
        ({"freeze_pattern": "attention", "freeze_backbone": False}, "freeze_pattern", "freeze_backbone: false"),
        (
            {"freeze_pattern": "attention", "freeze_layers": 0, "freeze_backbone": True},
            "freeze_pattern",
            "freeze_layers: 0, freeze_backbone: true",
        ),
        ({"freeze_pattern": "all", "freeze_layers": 99}, "freeze_pattern", "freeze_layers: 99"),
        ({"freeze_layers": 4, "freeze_backbone": True}, "freeze_layers", "freeze_backbone: true"),
        ({"freeze_layers": 4, "freeze_backbone": False}, "freeze_layers", "freeze_backbone: false"),
        ({"freeze_layers": 0, "freeze_backbone": True}, "freeze_layers", "freeze_backbone: true"),
        ({"freeze_layers": -1, "freeze_backbone": False}, "freeze_layers", "freeze_backbone: false"),
    ],
)
def test_the_first_key_that_is_set_wins(text_tower: nn.Module, keys: dict[str, Any], like: str, ignored: str) -> None:
    both = plan_of(text_tower, text=keys)
    alone = plan_of(text_tower, text={like: keys[like]})
    assert frozen_names(both) == frozen_names(alone)
    assert both.lines["text"] == f"{alone.lines['text']}; {ignored} ignored"


def test_the_line_of_vit_b_32(vit_b_32: nn.Module) -> None:
    """P13: ten blocks are ten blocks; stem, norm and projection are not counted."""
    image = {"freeze_layers": 10, "freeze_backbone": False}
    plan = plan_of(vit_b_32, image=image, text={"freeze_backbone": True})
    assert plan.lines["image"] == (
        "froze embeddings + first 10/12 blocks (125 of 151 tensors, 73.3M of 87.5M parameters); "
        "freeze_backbone: false ignored"
    )
    assert plan.lines["text"] == "froze all backbone parameters (148 tensors, 63.2M parameters)"
    assert plan.totals() == {"parameters": 151_277_313, "trainable": 14_832_641}
    assert {p.group for p in plan.trainable if p.tower == "image"} == {"block 10", "block 11", "norm", "projection"}


# --- patterns ------------------------------------------------------------------------------------


def blocks_of(plan: Plan, tower: str = "image") -> set[int]:
    return {int(p.group.split()[1]) for p in plan.frozen if p.tower == tower and p.group.startswith("block")}


@pytest.mark.parametrize(
    ("pattern", "blocks"),
    [
        ("resblocks.[0-3]", {0, 1, 2, 3}),
        ("resblocks.1", {1}),
        (r"resblocks\.1\.", {1}),
        ("resblocks.1.", {1, 10, 11}),  # a dot is any character, here also a digit that ends the number
        (r"resblocks\.1\d", {10, 11}),
        ("resblocks.(1|11)", {1, 11}),
        ("resblocks.(1|10|11).attn", {1, 10, 11}),
        ("resblocks.[0-9]+", set(range(12))),
        ("resblocks.1[01]|resblocks.2", {2, 10, 11}),
        ("(?i)RESBLOCKS.0", {0}),
        ("(?x) resblocks \\. 7  # the eighth", {7}),
        ("(?i)(?x) RESBLOCKS . 7 #", {7}),
        (r"^transformer.resblocks.(?P<n>1)(?P=n)\.", {11}),
        ("s.1.*mlp", {1, 10, 11}),  # this match of block 10 begins and ends outside its number
        (".attn", set(range(12))),
        ("0.attn", {0}),
    ],
)
def test_a_match_may_not_begin_or_end_inside_a_number(vit_b_32: nn.Module, pattern: str, blocks: set[int]) -> None:
    """P14: block 1 does not take 10 and 11 along."""
    assert blocks_of(plan_of(vit_b_32, image={"freeze_pattern": pattern})) == blocks


def test_the_report_says_what_a_pattern_took(text_tower: nn.Module) -> None:
    """P14: per pattern the blocks, whole or in part."""
    taken = {
        "embeddings|encoder.layer.[0-3]": "embeddings, blocks 0-3",
        "encoder.layer.(0|2|3)": "blocks 0, 2-3",
        "encoder.layer.5": "block 5",
        "attention": "parts of blocks 0-5",
        "LayerNorm|layer.1": "block 1 and parts of embeddings, blocks 0, 2-5",
    }
    for pattern, words in taken.items():
        plan = plan_of(text_tower, text={"freeze_pattern": pattern})
        assert plan.notes == (f"text: {pattern!r} took {words}",)


def test_a_pattern_that_matches_nothing_shows_the_nearest_names(text_tower: nn.Module) -> None:
    """P14: zero matches are an error with near names."""
    with pytest.raises(InputError) as caught:
        plan_of(text_tower, text={"freeze_pattern": "encoder.layers.[0-3]"})
    assert str(caught.value).startswith(
        "model.text.freeze_pattern: 'encoder.layers.[0-3]' matches none of the 101 names of this backbone. "
        "Nearest: encoder.layer.0.attention.self.query.weight"
    )
    assert "Every name: clipft freeze-report CONFIG --all" in str(caught.value)


@pytest.mark.parametrize(
    ("pattern", "nearest"),
    [
        ("layernorm", "embeddings.LayerNorm.weight"),
        ("embedding_words", "embeddings.word_embeddings.weight"),
        ("text.transformer.encoder.layer.0", "encoder.layer.0.attention.self.query.weight"),
        ("]", "embeddings"),
    ],
)
def test_the_nearest_name(text_tower: nn.Module, pattern: str, nearest: str) -> None:
    with pytest.raises(InputError, match=f"Nearest: [^ ]*{nearest}"):
        plan_of(text_tower, text={"freeze_pattern": pattern})


def test_a_pattern_that_matches_only_inside_numbers_says_so(vit_b_32: nn.Module) -> None:
    with pytest.raises(InputError, match=r"matches none of the 151 names of this backbone except inside a number"):
        plan_of(vit_b_32, image={"freeze_pattern": r"(?<=1)0\.attn"})


def test_a_pattern_that_never_ends_is_stopped(text_tower: nn.Module) -> None:
    with pytest.raises(InputError, match=r"model.text.freeze_pattern: '\(\.\+\)\+x\$' takes for ever"):
        plan_of(text_tower, text={"freeze_pattern": "(.+)+x$"})


@pytest.mark.parametrize(("tower", "depth"), [("image", 3), ("text", 6)])
@pytest.mark.parametrize("beyond", [1, 1000])
def test_more_layers_than_blocks_is_an_error_with_the_depth(
    text_tower: nn.Module, tower: str, depth: int, beyond: int
) -> None:
    """P13: N above the depth is rejected."""
    plan_of(text_tower, **{tower: {"freeze_layers": depth}})
    with pytest.raises(
        InputError, match=f"model.{tower}.freeze_layers: .* has {depth} blocks; write 0 to {depth}, or -1"
    ):
        plan_of(text_tower, **{tower: {"freeze_layers": depth + beyond}})


def test_fewer_layers_than_minus_one_is_an_error_with_the_depth(text_tower: nn.Module) -> None:
    """P13: below -1 too, the depth is told."""
    with pytest.raises(InputError, match=r"model.text.freeze_layers: -2 .* has 6 blocks; write 0 to 6, or -1"):
        plan_of(text_tower, text={"freeze_layers": -2})


def test_more_last_layers_than_blocks_do_not_freeze_the_backbone(text_tower: nn.Module) -> None:
    """P13: one more than there are comes to -1, which written as a number would freeze all."""
    for beyond in (7, 8):
        with pytest.raises(
            InputError, match=f"freeze_layers: depth - {beyond} .* has 6 blocks; write at most depth - 6"
        ):
            plan_of(text_tower, text={"freeze_layers": f"depth - {beyond}"})


@pytest.mark.parametrize(("tower", "depth"), [("image", 3), ("text", 6)])
def test_as_many_last_layers_as_blocks_leave_the_embeddings_frozen(
    text_tower: nn.Module, tower: str, depth: int
) -> None:
    """What is before the last blocks stands still, also where they are all there are; 0 alone freezes nothing."""
    plan = plan_of(text_tower, **{tower: {"freeze_layers": f"depth - {depth}"}})
    assert {(p.tower, p.group) for p in plan.frozen} == {(tower, "embeddings")}
    assert plan.lines[tower].startswith(f"froze embeddings + first 0/{depth} blocks ({len(plan.frozen)} of ")
    assert plan_of(text_tower, **{tower: {"freeze_layers": 0}}).frozen == ()


def test_all_blocks_frozen_leaves_norm_and_pooling_training(tmp_path: Path) -> None:
    model = custom(timm_image("test_efficientnet"), hugging_face_text(tmp_path, pooler="cls_pooler"))
    image, text = towers_of(model)
    plan = plan_of(model, image={"freeze_layers": image.depth}, text={"freeze_layers": text.depth})
    trains = {(p.tower, p.group) for p in plan.trainable}
    assert trains == {
        ("image", "norm"),
        ("image", "projection"),
        ("text", "pooling"),
        ("text", "projection"),
        ("heads", "logit_scale"),
    }


# --- projection, heads, loss ---------------------------------------------------------------------


def test_projection_freeze(text_tower: nn.Module) -> None:
    plan = plan_of(text_tower, image={"projection": "freeze"})
    assert {p.name: p.rule for p in plan.frozen} == {"visual.proj": "projection: freeze"}


def test_a_tower_without_projection_says_so(tmp_path: Path) -> None:
    model = minilm(tmp_path, hf_proj_type=None)
    assert "text: this tower has no projection" in plan_of(model).notes
    plan = plan_of(model, text={"projection": "freeze", "freeze_layers": 4})
    assert plan.lines["text"].endswith("22.6M parameters); projection: freeze ignored, there is none")
    assert "text: this tower has no projection; projection: freeze ignored" in plan.notes


def test_logit_scale_and_the_bias_that_follows_it() -> None:
    model = native(init_logit_bias=-10.0)
    assert plan_of(model, loss="siglip").frozen == ()
    plan = plan_of(model, loss="siglip", logit_scale={"train": False})
    assert {p.name: p.rule for p in plan.frozen} == dict.fromkeys(
        ("logit_scale", "logit_bias"), "logit_scale.train: false"
    )


def test_a_bias_under_a_softmax_loss_is_frozen_and_said() -> None:
    """P23: a native model with a logit_bias under the contrastive loss."""
    plan = plan_of(native(init_logit_bias=-10.0), loss="contrastive")
    assert {p.name: p.rule for p in plan.frozen} == {"logit_bias": "not in the loss"}
    assert any(note.startswith("logit_bias is frozen") for note in plan.notes)


@pytest.mark.parametrize("keys", [{}, {"freeze_layers": 1}, {"freeze_backbone": True, "projection": "freeze"}])
def test_what_a_classifier_cannot_reach_is_frozen(keys: dict[str, Any]) -> None:
    model = native(init_logit_bias=-10.0)
    model.classifier = Classifier(5, 24, cosine=True, bias=True)
    plan = plan_of(model, loss="classifier", text=keys)
    _, text = towers_of(model)
    assert frozen_names(plan) == {*text.names(), "logit_scale", "logit_bias"}
    assert {p.rule for p in plan.frozen} == {"not in the loss"}
    assert plan.lines["text"].startswith("froze all 41 tensors: not in the loss")
    assert [p.name for p in plan.parameters if p.group == "classifier"] == ["classifier.weight", "classifier.bias"]
    assert all(p.tower == "heads" for p in plan.parameters if p.group == "classifier")


def test_pooled_features_leave_the_image_projection_out() -> None:
    model = native()
    model.classifier = Classifier(5, 32, cosine=False, bias=True)
    plan = plan_of(model, loss="classifier", features="pooled")
    assert {p.name: p.rule for p in plan.frozen if p.tower == "image"} == {"visual.proj": "not in the loss"}
    assert any("the projection is frozen" in note for note in plan.notes)


def test_a_classifier_trains_whatever_the_keys_say() -> None:
    model = native()
    model.classifier = Classifier(5, 24, cosine=False, bias=True)
    plan = plan_of(model, loss="classifier", image={"freeze_layers": -1, "projection": "freeze"})
    assert [p.name for p in plan.trainable] == ["classifier.weight", "classifier.bias"]


def test_a_plan_before_the_classes_are_known_is_no_empty_one() -> None:
    plan = plan_of(native(), loss="classifier", image={"freeze_layers": -1, "projection": "freeze"})
    assert plan.trainable == ()


FROZEN_TOWER = {"freeze_backbone": True, "projection": "freeze"}


def test_nothing_trains_is_refused() -> None:
    """P17: refused before the first step, with what froze it."""
    with pytest.raises(InputError, match=r"nothing trains .*image froze all backbone.*; text froze all backbone"):
        plan_of(native(), image=FROZEN_TOWER, text=FROZEN_TOWER, logit_scale={"train": False})


def test_only_the_scale_trains_is_said() -> None:
    """P17: allowed, but no feature will change."""
    plan = plan_of(native(), image=FROZEN_TOWER, text=FROZEN_TOWER)
    assert [p.name for p in plan.trainable] == ["logit_scale"]
    assert plan.notes == ("nothing but logit_scale trains: no feature will change",)


# --- the plan as data ----------------------------------------------------------------------------


def test_json(text_tower: nn.Module) -> None:
    plan = plan_of(text_tower, text={"freeze_pattern": "encoder.layer.[0-3]"})
    data = plan.to_json()
    assert set(data) == {"model", "lines", "parameters", "totals"}
    assert [p["name"] for p in data["parameters"]] == [name for name, _ in text_tower.named_parameters()]
    assert data["totals"]["parameters"] == sum(p.numel() for p in text_tower.parameters())
    assert data["totals"]["trainable"] == data["totals"]["parameters"] - 7_097_856
    word = next(p for p in data["parameters"] if p["name"].endswith("word_embeddings.weight"))
    assert word == {
        "name": "text.transformer.embeddings.word_embeddings.weight",
        "tower": "text",
        "group": "embeddings",
        "shape": [30522, 384],
        "numel": 11_720_448,
        "trainable": True,
        "rule": "",
        "lr": 1e-5,
    }
    frozen = next(p for p in data["parameters"] if ".layer.3." in p["name"])
    assert (frozen["trainable"], frozen["rule"], frozen["lr"]) == (False, "freeze_pattern: 'encoder.layer.[0-3]'", None)
