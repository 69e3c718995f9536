"""What a step costs: counted without weights, and what a real step of the same config comes to."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from test_train_families import write_base
from tiny_families import FAMILIES

from check_cost import real_step
from clipft.config.schema import Config
from clipft.errors import InputError
from clipft.model.build import MetaModel, build_meta
from clipft.model.cost import Cost
from clipft.train.cost import StepShape, step_cost
from clipft.train.plan_report import report_plan, report_plans, step_shape
from clipft.train.precision import Precision, expected
from clipft.train.prepare import plan_of, prepare
from clipft.train.start import start

FROZEN = {"freeze_backbone": True}
HEADS = {"image": FROZEN, "text": FROZEN}
LAST = {"image": {"freeze_layers": 1}, "text": {"freeze_layers": 1}}
SAMPLE = {"native, class token", "vitamin", "hf roberta, mlp"}
EACH = [name if name in SAMPLE else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]


def config_of(model: Path | str, what: dict[str, Any] | None = None, **sections: Any) -> Config:
    train = {"batch_size": 24, "precision": "fp32", "device": "cpu"} | sections.pop("train", {})
    name = f"local-dir:{model}" if isinstance(model, Path) else model
    data = sections.pop("data", {"train": {"builtin": "hands"}, "workers": 0})
    return Config.model_validate({"model": {"name": name, **(what or {})}, "data": data, "train": train, **sections})


def meta_and_shape(config: Config) -> tuple[MetaModel, StepShape]:
    return build_meta(config.model), step_shape(config, "contrastive")


def cost_of(config: Config) -> Cost:
    cost = report_plan(config).cost
    assert cost is not None
    return cost


def check(config: Config) -> None:
    """The claim of the freeze report: memory within 20 %, FLOPs exact."""
    cost, real = cost_of(config), real_step(config)
    assert cost.step.total == real.flops
    assert cost.peak == pytest.approx(real.peak, rel=0.2)


@pytest.mark.parametrize("family", EACH)
def test_every_family_costs_what_is_said(family: str, tmp_path: Path) -> None:
    model = write_base(family, tmp_path / "base")
    for what in ({}, {"image": {"freeze_layers": 1}, "text": FROZEN}):
        check(config_of(model, what))


@pytest.mark.parametrize(
    ("what", "sections"),
    [
        (LAST, {"loss": {"type": "classifier"}, "train": {"micro_batch_size": 8}}),
        (HEADS, {"loss": {"type": "classifier", "features": "pooled", "init": "random"}}),
        (LAST, {"optim": {"name": "sgd"}, "train": {"precision": "bf16"}}),
        (HEADS, {"train": {"micro_batch_size": 6}}),
        (LAST, {"train": {"ema": {}, "regularize": {"type": "l2sp", "weight": 0.1}}}),
        ({"image": {"prompt": {"length": 3, "depth": 2}}, "text": {"prompt": {"length": 4, "depth": 2}}}, {}),
    ],
    ids=str,
)
def test_losses_optimisers_pieces_and_precisions_too(
    what: dict[str, Any], sections: dict[str, Any], tiny_native: Path
) -> None:
    check(config_of(tiny_native, what, **sections))


@pytest.mark.slow
def test_the_sigmoid_loss_too(tmp_path: Path) -> None:
    check(config_of(write_base("siglip", tmp_path / "base"), LAST))


@pytest.mark.slow
@pytest.mark.parametrize(
    "what",
    [{}, {"image": {"freeze_layers": 10}, "text": {"freeze_layers": 10}}, HEADS],
    ids=["full", "last 2", "heads"],
)
def test_vit_b_32_costs_what_is_said(what: dict[str, Any]) -> None:
    check(config_of("ViT-B-32", what, train={"batch_size": 8}))


def test_heads_alone_need_no_backward_through_a_tower(tiny_native: Path) -> None:
    """By hand: the tiny ViT of 17 tokens, 64 wide, 2 blocks; the text tower takes each caption once, in no step."""
    cost = cost_of(config_of(tiny_native, HEADS))
    rows, tokens, width, shared = 24, 17, 64, 32
    patches = 2 * 16 * width * 3 * 8 * 8
    block = 2 * tokens * width * (3 * width + width + 8 * width) + 2 * 2 * tokens * tokens * width
    heads = 2 * (width * shared + 32 * shared)  # of image and text
    loss = 2 * rows * rows * shared
    assert cost.texts_once
    assert cost.step.forward == rows * (patches + 2 * block + heads) + loss
    assert cost.step.backward == rows * heads + 2 * loss  # the pooled features need no gradient


@pytest.mark.parametrize(
    ("family", "tower"),
    [
        ("native, class token", "text"),
        pytest.param("modified resnet", "image", marks=pytest.mark.slow),
        pytest.param("timm swin", "image", marks=pytest.mark.slow),
        pytest.param("hf mt5, mlp", "text", marks=pytest.mark.slow),
    ],
)
def test_freezing_more_never_costs_more(family: str, tower: str, tmp_path: Path) -> None:
    model = write_base(family, tmp_path / "base")
    config = config_of(model)
    meta, shape = meta_and_shape(config)
    depth = getattr(meta, tower).depth
    configs = (config_of(model, {tower: {"freeze_layers": n}}) for n in (*range(depth + 1), -1))
    costs = [step_cost(meta, plan_of(c, meta, "contrastive", ()), shape) for c in configs]
    for less, more in pairwise(costs):
        assert more.step.forward <= less.step.forward
        assert more.step.backward < less.step.backward
        assert more.peak <= less.peak
        assert more.activations <= less.activations
        assert more.everything == less.everything == costs[0].step


def test_a_batch_costs_in_proportion(tiny_native: Path) -> None:
    config = config_of(tiny_native, LAST)
    meta, shape = meta_and_shape(config)
    plan = plan_of(config, meta, "contrastive", ())
    costs = [step_cost(meta, plan, replace(shape, batch_size=rows)) for rows in (4, 8, 16)]
    of_loss = [3 * 2 * rows * rows * 32 for rows in (4, 8, 16)]  # forward and backward of (B, D) @ (D, B)
    first, second, third = (cost.step.total - loss for cost, loss in zip(costs, of_loss, strict=True))
    assert third == 2 * second == 4 * first
    steps = [b.activations - a.activations for a, b in pairwise(costs)]
    assert steps[1] == pytest.approx(2 * steps[0], rel=0.05)


def test_pieces_cost_each_row_two_forward_passes_and_less_memory(tiny_native: Path) -> None:
    whole, pieces = (
        cost_of(config_of(tiny_native, train={"batch_size": 64, "micro_batch_size": micro})) for micro in (None, 8)
    )
    loss = 2 * 64 * 64 * 32
    assert pieces.step.forward - loss == 2 * (whole.step.forward - loss)
    assert pieces.step.backward == whole.step.backward
    assert pieces.activations < whole.activations / 4
    assert (pieces.rows_at_once, whole.rows_at_once) == (8, 64)


def test_a_gpu_holds_a_piece_of_the_images_and_norms_in_float32(tiny_native: Path) -> None:
    config = config_of(tiny_native)
    meta, shape = meta_and_shape(config)
    plan = plan_of(config, meta, "contrastive", ())

    def activations(**changes: Any) -> int:
        return step_cost(meta, plan, replace(shape, **changes)).activations

    assert activations(device="cuda") == activations()
    images = 16 * 3 * 32 * 32 * 4
    assert activations(device="cuda", micro_batch_size=8) == activations(micro_batch_size=8) - images
    bf16 = {"precision": Precision("bf16")}
    assert activations(**bf16) < activations(**bf16, device="cuda") < activations()


def test_the_model_is_as_it_was(tiny_native: Path) -> None:
    config = config_of(tiny_native, LAST)
    meta, shape = meta_and_shape(config)
    plan = plan_of(config, meta, "contrastive", ())
    before = meta.model.state_dict(keep_vars=True)
    step_cost(meta, plan, shape)
    after = meta.model.state_dict(keep_vars=True)
    assert all(after[name] is tensor for name, tensor in before.items())
    assert all(p.is_meta and p.requires_grad and p.grad is None for p in meta.model.parameters())
    assert not any(module.training for module in meta.model.modules())


PULL = {"type": "feature_distill", "weight": 1.0}


@pytest.mark.parametrize(
    ("family", "what", "train", "copied"),
    [
        ("native, class token", {}, {}, (False, False)),
        ("native, class token", {}, {"ema": {}}, (True, False)),
        ("modified resnet", {}, {"regularize": PULL}, (False, True)),  # BatchNorm's statistics among the base's tensors
        ("native, class token", {"image": {"lora": {"rank": 2}}}, {"ema": {}, "regularize": PULL}, (True, True)),
    ],
)
def test_what_a_run_holds_twice_is_counted(
    family: str, what: dict[str, Any], train: dict[str, Any], copied: tuple[bool, bool], tmp_path: Path
) -> None:
    """Beside the bytes of the copies that a run really has."""
    model = write_base(family, tmp_path / "base")
    cost, plain = cost_of(config_of(model, what, train=dict(train))), cost_of(config_of(model, what))
    started = start(prepare(config_of(model, what, train=dict(train))))
    average = started.stepper.average.bytes
    base = 0 if started.base is None else sum(t.nbytes for t in started.base.tensors.values())
    assert (average > 0, base > 0) == copied
    assert cost.copies == average + base
    assert cost.peak == plain.peak + cost.copies


def test_a_stage_holds_the_base_of_all_stages(tiny_native: Path) -> None:
    stages = [{"epochs": 1, "model": LAST}, {"epochs": 1, "model": {"image": {"freeze_layers": 0}, "text": FROZEN}}]
    config = config_of(tiny_native, train={"regularize": PULL}, stages=stages)
    copies = {report.cost.copies for report in report_plans(config) if report.cost is not None}
    base = start(prepare(config)).base
    assert base is not None
    assert copies == {sum(t.nbytes for t in base.tensors.values())}


@pytest.mark.slow
def test_the_largest_model_needs_no_memory_of_its_own() -> None:
    cost = cost_of(config_of("ViT-bigG-14", HEADS, train={"batch_size": 64}))
    assert cost.memory.weights == 4 * 2_539_567_105
    assert cost.step.backward < cost.step.forward / 1000
    assert cost.everything.backward == pytest.approx(2 * cost.everything.forward, rel=0.001)


def test_a_head_of_unknown_size_costs_nothing(tiny_native: Path) -> None:
    data = {"train": {"folder": "nowhere"}, "val": None}
    config = config_of(tiny_native, {"image": FROZEN}, loss={"type": "classifier", "init": "random"}, data=data)
    report = report_plan(config)
    assert report.cost is not None
    assert "the classifier's size is not known" in report.notes[0]
    assert not report.cost.texts_once


def test_what_a_script_gets(tiny_native: Path) -> None:
    cost = cost_of(config_of(tiny_native, LAST, train={"micro_batch_size": 8})).to_json()
    assert {key: cost[key] for key in ("batch_size", "rows_at_once", "precision")} == {
        "batch_size": 24,
        "rows_at_once": 8,
        "precision": "fp32",
    }
    assert cost["bytes"].keys() == {"weights", "gradients", "optimizer", "copies", "activations", "peak"}
    assert cost["flops"].keys() == {"forward", "backward", "everything"}
    assert cost["flops"]["everything"].keys() == {"forward", "backward"}


def test_a_gpu_that_is_not_here_is_taken_at_its_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert expected("cpu", "fp32") == ("cpu", Precision("fp32"))
    assert expected("cuda:1", "bf16")[1].name == "bf16"
    device, precision = expected("cuda", "auto")
    assert (device, precision.name) == ("cuda", "fp32")
    assert precision.notes == ("train.device: cuda is not on this machine: its cost is counted in fp32",)
    with pytest.raises(InputError, match=r"train\.device: expected auto, cpu, cuda, cuda:N or mps, found 'gpu'"):
        expected("gpu", "auto")


def test_a_model_that_cannot_be_trained_has_no_report(tmp_path: Path) -> None:
    model = write_base("native, class token", tmp_path / "base")
    config = (model / "open_clip_config.json").read_text()
    (model / "open_clip_config.json").write_text(config.replace('"layers": 3', '"layers": 3, "pool_type": "none"', 1))
    with pytest.raises(InputError, match=r"its image tower has no pooling"):
        report_plan(config_of(model))
