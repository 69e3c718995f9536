"""LoRA inside one module: what it computes there, and what the module may be called with."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from lora_kinds import OtherStandIn, joined, with_stand_in
from open_clip.transformer import Attention
from tiny_families import images
from torch import Tensor, nn

from clipft.config.additions_schema import LoraConfig
from clipft.errors import ClipftError
from clipft.model.lora_modules import add_low_rank
from clipft.model.low_rank import LowRank


@pytest.mark.parametrize("scaling", ["standard", "rslora"])
def test_scaling(scaling: str) -> None:
    part = LowRank(torch.zeros(3, 4), LoraConfig(rank=4, alpha=6, scaling=scaling), "weight", (0, 3))
    assert part.scaling == {"standard": 1.5, "rslora": 3.0}[scaling]
    assert part.a.abs().max() <= 0.5  # 1 / sqrt(inputs): Kaiming uniform with a = sqrt(5)
    assert part.a.std() > 0.2
    assert not part.b.any()


def test_dropout_is_drawn_for_each_matrix() -> None:
    """Of A's input alone: with A the identity and B one row of ones, each output counts what was kept."""
    linear = nn.Linear(400, 3, bias=False)
    nn.init.zeros_(linear.weight)
    for row, target in enumerate("qkv"):
        config = LoraConfig(rank=400, alpha=400, dropout=0.25)
        part = add_low_rank(linear, target, config, rows=(row, row + 1))
        part.a.data, part.b.data = torch.eye(400), torch.ones(1, 400)
    torch.manual_seed(0)
    x = torch.ones(200, 400)
    with torch.no_grad():
        dropped = linear(x).T / 400  # (3, 200)
        assert torch.allclose(dropped.mean(dim=1), torch.ones(3), atol=0.01)  # scaled so that the mean stays
        assert bool((dropped.std(dim=1) > 0.01).all())
        assert float((torch.corrcoef(dropped) - torch.eye(3)).abs().max()) < 0.3
        torch.testing.assert_close(linear.eval()(x), torch.full((200, 3), 400.0))


def causal(kind: str, rows: int, heads: int, length: int) -> Tensor | None:
    never = torch.ones(length, length, dtype=torch.bool).triu(1)
    never = never.expand(rows * heads, length, length).clone() if "3-D" in kind else never
    if "3-D" in kind:
        never[heads:, :, 0] = False
        never[heads:, 1:, 1] = True  # another mask for the second row
    if kind == "none":
        return None
    return never if "bool" in kind else torch.zeros(never.shape).masked_fill(never, float("-inf"))


def low_rank_beside_dense(attention: nn.Module, plain: nn.Module) -> None:
    """LoRA on the queries, keys, values and output of an attention of width 12; its product in the other's weights."""
    for i, target in enumerate("qkvo"):
        name, rows = ("out_proj.weight", (0, 12)) if target == "o" else ("in_proj_weight", (12 * i, 12 * i + 12))
        part = add_low_rank(attention, target, LoraConfig(rank=2), name, rows)
        nn.init.normal_(part.b, std=0.1)
        with torch.no_grad():
            plain.get_parameter(name)[slice(*rows)] += 8 * part.b @ part.a


@pytest.mark.parametrize("mask", ["none", "2-D bool", "2-D float", "3-D bool", "3-D float"])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_torchs_attention_as_open_clip_calls_it(mask: str, batch_first: bool, bias: bool) -> None:
    torch.manual_seed(0)
    plain = nn.MultiheadAttention(12, 3, batch_first=batch_first, bias=bias).eval()
    attention = copy.deepcopy(plain)
    low_rank_beside_dense(attention, plain)
    x, other = torch.randn(2, 5, 12), torch.randn(2, 5, 12)
    added = causal(mask, 2, 3, 5)
    for inputs in ((x, x, x), (x, other, other), (x, other, x)):
        given = [t if batch_first else t.transpose(0, 1) for t in inputs]
        found, weights = attention(*given, need_weights=False, attn_mask=added)
        assert weights is None
        torch.testing.assert_close(found, plain(*given, need_weights=False, attn_mask=added)[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "options", [{"scale_heads": True}, {"inner_norm": True}, {"qk_norm": True}, {"qkv_bias": False}]
)
@pytest.mark.parametrize("mask", ["none", "2-D bool", "2-D float", "3-D float"])
def test_open_clips_own_attention_with_all_it_can_have(options: dict[str, bool], mask: str) -> None:
    """Its own forward runs: what lies between the matrices is not ours to repeat."""
    torch.manual_seed(0)
    plain = Attention(12, 3, **options).eval()
    for parameter in plain.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape)
    attention = copy.deepcopy(plain)
    low_rank_beside_dense(attention, plain)
    x, added = torch.randn(2, 5, 12), causal(mask, 2, 3, 5)
    torch.testing.assert_close(attention(x, attn_mask=added), plain(x, attn_mask=added), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("called", "said"),
    [
        ({}, "need_weights=True"),
        ({"need_weights": False, "key_padding_mask": torch.zeros(2, 5, dtype=torch.bool)}, "key_padding_mask"),
        ({"need_weights": False, "is_causal": True}, "is_causal without attn_mask"),
    ],
)
def test_what_it_does_not_do_is_refused(called: dict[str, Any], said: str) -> None:
    attention = nn.MultiheadAttention(12, 3, batch_first=True)
    add_low_rank(attention, "o", LoraConfig(), "out_proj.weight")
    x = torch.zeros(2, 5, 12)
    with pytest.raises(ClipftError, match=f"attention with LoRA was called with {said}, which it does not do"):
        attention(x, x, x, **called)


def test_an_attention_that_hides_its_matrices_is_refused(tmp_path: Path) -> None:
    """Rather than left without any effect (P49)."""
    model = with_stand_in(tmp_path, OtherStandIn)
    towers = joined(model)
    with pytest.raises(ClipftError) as refusal:
        towers[0].encode(images(model))
    assert str(refusal.value) == (
        "LoRA finds no way into lora_kinds.OtherStandIn: it does not use its in_proj_weight by F.linear; leave q, k, v "
        "out of lora.targets, or write lora: null"
    )
    model = with_stand_in(tmp_path, OtherStandIn)
    joined(model, targets=("o", "fc"))[0].encode(images(model))
