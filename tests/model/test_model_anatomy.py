"""The counts behind --explain: equal to what the freeze rules come to, and to the formulas they quote."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from freeze_models import native, on_meta, plan_of
from torch import nn

from clipft.model.anatomy import Anatomy, anatomy, quick_gelu_gap, scores_apart, trains_at
from clipft.model.describe import describe
from clipft.model.towers import towers_of


def anatomy_of(model: nn.Module, name: str = "x") -> Anatomy:
    towers = towers_of(model)
    return anatomy(model, *towers, describe(model, *towers, name=name))


@pytest.mark.parametrize(
    "name", ["ViT-B-32", "RN50", "ViT-B-16-SigLIP2", "MobileCLIP2-S0", "ViT-H-14-CLIPA", "coca_ViT-B-32"]
)
def test_what_trains_at_each_n_is_what_the_plan_trains(name: str) -> None:
    """CLIPA's positions never train."""
    model = on_meta(name)
    found = anatomy_of(model)
    for tower in ("image", "text"):
        depth = found.tower(tower).depth
        for layers in {0, 1, depth // 2, depth, -1}:
            plan = plan_of(model, **{tower: {"freeze_layers": layers}})
            trains = sum(p.numel for p in plan.trainable if p.tower == tower)
            assert trains_at(found, tower, layers) == trains, (tower, layers)


def test_a_block_of_vit_b_32_in_pieces() -> None:
    found = anatomy_of(on_meta("ViT-B-32"), "ViT-B-32")
    attention, mlp = 4 * 768**2 + 4 * 768, 8 * 768**2 + 5 * 768
    assert found.block["image"] == {"ln_1": 1536, "attn": attention, "ln_2": 1536, "mlp": mlp}
    assert sum(found.block["image"].values()) == 7_087_872
    assert found.size("image", "blocks") == 12 * 7_087_872
    assert found.size("text", "blocks") == 37_828_608
    assert found.size("image") == 87_849_216
    assert found.projection == {
        "image": {"visual.proj": (768, 512)},
        "text": {"text_projection": (512, 512)},
    }
    assert found.tables["text"] == {"positional_embedding": (77, 512), "token_embedding.weight": (49408, 512)}
    assert found.other_activation == "ViT-B-32-quickgelu"


def test_models_without_a_quickgelu_twin_have_none() -> None:
    assert anatomy_of(native(), "local-dir:x").other_activation is None
    assert anatomy_of(native(), "RN50-quickgelu").other_activation == "RN50"


def test_quick_gelu_differs_from_gelu_as_told() -> None:
    gap, where = quick_gelu_gap()
    x = torch.linspace(-8, 8, 160_001, dtype=torch.float64)
    differences = (F.gelu(x) - x * torch.sigmoid(1.702 * x)).abs()
    assert gap == pytest.approx(differences.max().item(), abs=1e-5)
    assert abs(x[differences.argmax()].item()) == pytest.approx(where, abs=2e-3)


def test_scores_apart_is_a_softmax_over_two() -> None:
    odds = torch.softmax(100 * torch.tensor([0.30, 0.25], dtype=torch.float64), dim=0)
    assert scores_apart(100, 0.05) == pytest.approx((odds[0] / odds[1]).item())
    assert math.isfinite(scores_apart(1e6, 1))
