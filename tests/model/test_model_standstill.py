"""What is frozen stands still: no gradient, evaluation mode, the same bits, also in BatchNorm's statistics."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from freeze_models import BERT, VIT, custom, hugging_face_text, native, plan_of, timm_image
from torch import nn

from clipft.model.plan import Plan
from clipft.model.rates import groups
from clipft.model.standstill import apply_plan, frozen_hashes, set_modes
from clipft.model.towers import towers_of


def train_steps(model: nn.Module, plan: Plan, inputs: torch.Tensor, steps: int = 3) -> None:
    """A few steps of AdamW with much decay, on everything that the plan trains and nothing else."""
    image, text = towers_of(model)
    parameters = dict(model.named_parameters())
    optimizer = torch.optim.AdamW(
        [{"params": [parameters[n] for n in g.names], "lr": 0.01, "weight_decay": 0.5} for g in groups(plan)]
    )
    apply_plan(model, plan)
    for _ in range(steps):
        set_modes(model, plan, training=True)
        tokens = torch.randint(1, 99, (4, 16))
        loss = (image.encode(inputs) - text.encode(tokens)).square().mean() * model.logit_scale
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


POLICIES: list[dict[str, Any]] = [
    {"image": {"freeze_layers": -1}},
    {"image": {"freeze_layers": 2}, "text": {"freeze_backbone": True}},
    {"image": {"freeze_pattern": "bn|norm"}, "text": {"freeze_pattern": "LayerNorm"}},
    {"image": {"freeze_layers": -1, "projection": "freeze"}, "logit_scale": {"train": False}},
]


@pytest.mark.parametrize("policy", POLICIES, ids=str)
@pytest.mark.parametrize("name", ["test_efficientnet", "test_resnet"])
def test_frozen_batchnorm_stands_still(name: str, policy: dict[str, Any], tmp_path: Path) -> None:
    """P15, P16: with the model in training mode and under weight decay no frozen tensor moves.

    Nor do the running statistics of a frozen BatchNorm; what trains does move.
    """
    model = custom(timm_image(name), hugging_face_text(tmp_path))
    plan = plan_of(model, **policy)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    hashes = frozen_hashes(model, plan)
    train_steps(model, plan, torch.randn(4, 3, 64, 64))
    assert frozen_hashes(model, plan) == hashes
    after = model.state_dict()
    moved = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    frozen = {p.name for p in plan.frozen}
    norms = [n for n, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    still = [n for n in norms if {f"{n}.weight", f"{n}.bias"} <= frozen]
    assert still
    for norm in norms:
        statistics = {f"{norm}.running_mean", f"{norm}.running_var", f"{norm}.num_batches_tracked"}
        assert statistics.isdisjoint(moved) if norm in still else statistics <= moved
        assert statistics <= hashes.keys() if norm in still else statistics.isdisjoint(hashes)
    assert moved.isdisjoint(frozen)
    no_true_gradient = {n for n in (p.name for p in plan.trainable) if ".key.bias" in n}
    assert {p.name for p in plan.trainable} - moved <= no_true_gradient
    assert frozen <= hashes.keys()


def test_an_unfrozen_batchnorm_moves(tmp_path: Path) -> None:
    """P16: the test above would notice."""
    model = custom(timm_image("test_efficientnet"), hugging_face_text(tmp_path))
    plan = plan_of(model, image={"freeze_layers": -1})
    hashes = frozen_hashes(model, plan)
    apply_plan(model, plan)
    model.train()
    with torch.no_grad():
        towers_of(model)[0].encode(torch.randn(4, 3, 64, 64))
    assert frozen_hashes(model, plan) != hashes


def modes(model: nn.Module, kind: type[nn.Module]) -> dict[str, bool]:
    return {name: module.training for name, module in model.named_modules() if isinstance(module, kind)}


def test_dropout_of_frozen_blocks_is_off_and_of_training_ones_on(tmp_path: Path) -> None:
    """P16: dropout follows what is frozen around it, not the model."""
    model = custom(VIT, hugging_face_text(tmp_path, BERT | {"hidden_dropout_prob": 0.5}))
    plan = plan_of(model, text={"freeze_layers": 1})
    set_modes(model, plan, training=True)
    dropouts = {n: on for n, on in modes(model, nn.Dropout).items() if n.startswith("text.")}
    assert len(dropouts) == 7
    assert all(on == (".layer.1." in name) for name, on in dropouts.items())
    assert not model.text.transformer.embeddings.training


def test_attention_with_dropout_of_its_own_follows_its_matrices(tmp_path: Path) -> None:
    """P16: BERT's attention drops by its own mode and has no parameters directly in it."""
    model = custom(VIT, hugging_face_text(tmp_path))
    set_modes(model, plan_of(model, text={"freeze_pattern": "layer.0.attention.self"}), training=True)
    first, second = (layer.attention.self for layer in model.text.transformer.encoder.layer)
    assert not first.training
    assert second.training


def test_a_module_is_in_evaluation_mode_when_all_its_own_parameters_are_frozen(tmp_path: Path) -> None:
    model = custom(timm_image("test_vit", timm_pool="token"), hugging_face_text(tmp_path))
    for policy in (*POLICIES[:2], {"image": {"freeze_pattern": "weight"}}, {"text": {"freeze_pattern": "bias"}}):
        plan = plan_of(model, **policy)
        frozen = {p.name for p in plan.frozen}
        set_modes(model, plan, training=True)
        for path, module in model.named_modules():
            own = [f"{path}.{n}".lstrip(".") for n, _ in module.named_parameters(recurse=False)]
            if own:
                assert module.training == (not set(own) <= frozen), path


def test_patch_dropout_follows_the_embeddings_not_the_bare_projection() -> None:
    """P16: visual.proj lies in the same module as the embeddings, but is no part of them."""
    model = native(vision={"patch_dropout": 0.5, "image_size": 64})
    plan = plan_of(model, image={"freeze_layers": 1})
    set_modes(model, plan, training=True)
    assert not model.visual.patch_dropout.training
    set_modes(model, plan_of(model, image={"freeze_pattern": "conv1"}), training=True)
    assert model.visual.patch_dropout.training


def test_evaluation_mode_is_for_all(tmp_path: Path) -> None:
    model = custom(timm_image("test_efficientnet"), hugging_face_text(tmp_path))
    plan = plan_of(model)
    set_modes(model, plan, training=True)
    assert all(module.training for module in model.modules())
    set_modes(model, plan, training=False)
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("first", [{"image": {"freeze_backbone": True}}, {"text": {"freeze_layers": 1}}, {}])
def test_a_later_plan_undoes_an_earlier_one(first: dict[str, Any]) -> None:
    """P15: the last plan alone says what trains."""
    model = native()
    apply_plan(model, plan_of(model, **first))
    plan = plan_of(model, image={"freeze_layers": 2})
    apply_plan(model, plan)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {p.name for p in plan.trainable}


def test_a_frozen_parameter_keeps_no_old_gradient() -> None:
    """P15: a left-over gradient would move it in an optimiser that still holds it."""
    model = native()
    model.visual.conv1.weight.grad = torch.ones_like(model.visual.conv1.weight)
    apply_plan(model, plan_of(model, image={"freeze_layers": 1}))
    assert model.visual.conv1.weight.grad is None


def change(parameter: Callable[[nn.Module], torch.Tensor]) -> set[str]:
    """The names whose hash changes when one number of a tensor does."""
    model = native()
    plan = plan_of(model, image={"freeze_layers": 1})
    before = frozen_hashes(model, plan)
    with torch.no_grad():
        parameter(model).view(-1)[0] += 1e-3
    after = frozen_hashes(model, plan)
    return {name for name in before if before[name] != after[name]}


def test_a_hash_sees_one_number() -> None:
    assert change(lambda model: model.visual.conv1.weight) == {"visual.conv1.weight"}
    assert change(lambda model: model.visual.ln_post.weight) == set()


def test_a_plan_of_another_model_is_refused() -> None:
    with pytest.raises(ValueError, match=r"for another model: 24 parameters differ"):
        apply_plan(native(), plan_of(native(vision={"layers": 2}, text={"layers": 2})))
