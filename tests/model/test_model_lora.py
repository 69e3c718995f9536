"""LoRA in every kind of attention, against the dense form that it stands for."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from freeze_models import on_meta
from lora_kinds import ALL, KINDS, OtherStandIn, dense, encoded, joined, stir, with_stand_in
from open_clip.transformer import Attention
from tiny_families import FAMILIES, build, images, tokens
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from clipft.config.additions_schema import LoraConfig
from clipft.config.optim_schema import OptimConfig
from clipft.config.schema import ImageTowerConfig, ModelConfig, TextTowerConfig
from clipft.errors import ClipftError, InputError
from clipft.model.additions import add_new
from clipft.model.freeze import apply_plan, make_plan, set_modes
from clipft.model.lora import add_lora, has_lora, merge_lora, scale_lora
from clipft.model.lora_modules import add_low_rank
from clipft.model.low_rank import LowRank
from clipft.model.plan import Plan
from clipft.model.tower import Tower
from clipft.model.towers import towers_of

Towers = tuple[Tower, Tower]
FEW = ["nn.MultiheadAttention", "open_clip's Attention", "timm, fused without a bias of its own", "mt5"]
TYPICAL = {
    "native, class token", "native, quick gelu and custom blocks", "siglip", "vitamin", "timm relpos", "timm swin",
    "timm eva01", "timm eva02", "pe-core", "timm fastvit", "timm convnext", "modified resnet", "coca",
    "hf roberta, mlp", "hf mt5, mlp", "hf m2m100",
}  # fmt: skip


def rest_slow(names: Iterable[str], quick: Collection[str]) -> list[Any]:
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


def objective(features: tuple[Tensor, ...]) -> Tensor:
    """Any number that hangs on all of them."""
    return torch.stack([torch.sin(f).sum() for f in features]).sum()


def close(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...], within: float) -> None:
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=within, rtol=0)


def equal(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def through(towers: Towers, x: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    return towers[0].encode(x), towers[1].encode(ids)


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_dense_form_forward_and_backward(kind: str, dora: bool, tmp_path: Path) -> None:
    """Features and the gradients of A, B and magnitude, in float64; the norm of DoRA is a constant there."""
    base = KINDS[kind](tmp_path).double()
    model = copy.deepcopy(base)
    towers = joined(model, dora=dora, alpha=3.0)
    lora = stir(model)
    assert all(".magnitude" in name for name in lora if name[-1] not in "ab") == dora or not dora
    x, ids = images(model).double(), tokens()
    ours = encoded(model, x, ids)
    theirs = encoded(base, x, ids, dense(base, towers, lora, scaling=1.5))
    close(ours, theirs, 1e-10)
    assert not any(torch.allclose(a, b, atol=1e-7) for a, b in zip(ours, encoded(base, x, ids), strict=True))
    gradients = [torch.autograd.grad(objective(f), list(lora.values())) for f in (ours, theirs)]
    for name, a, b in zip(lora, *gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("kind", KINDS)
def test_merged_it_is_the_base_with_other_weights(kind: str, dora: bool, tmp_path: Path) -> None:
    """P51: the same features to 1e-5, the base's keys and classes, nothing left to merge twice."""
    base = KINDS[kind](tmp_path)
    model = copy.deepcopy(base)
    towers = joined(model, dora=dora)
    stir(model)
    x, ids = images(model), tokens()
    with torch.no_grad():
        unmerged = encoded(model, x, ids)
        close(unmerged, encoded(base, x, ids, dense(base, towers, dict(model.named_parameters()), 8.0)), 1e-5)
        spent = copy.deepcopy(model)
        merge_lora(spent, *towers)
        close(encoded(spent, x, ids), unmerged, 1e-5)
        assert list(spent.state_dict()) == list(base.state_dict())
        towers_of(base)  # its dropouts are in the model then, as in the other
        assert [type(m) for m in spent.modules()] == [type(m) for m in base.modules()]
        assert not has_lora(spent)
        assert not any(tower.added for tower in towers)
        once = copy.deepcopy(spent.state_dict())
        merge_lora(spent)
        assert all(torch.equal(tensor, once[name]) for name, tensor in spent.state_dict().items())
        assert has_lora(model)  # the copy was spent alone
        assert equal(encoded(model, x, ids), unmerged)


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("kind", KINDS)
def test_at_the_start_it_is_the_base(kind: str, dora: bool, tmp_path: Path) -> None:
    """P50: in training and evaluation mode, with and without grad; to the bit but where torch's own attention is."""
    base = KINDS[kind](tmp_path)
    model = copy.deepcopy(base)
    plain, towers = towers_of(base), joined(model, dora=dora)
    x, ids = images(model), tokens()
    for training in (True, False):
        base.train(training)
        model.train(training)
        for grad in (True, False):
            with torch.set_grad_enabled(grad):
                torch.manual_seed(3)  # the base's own dropout, where it has some
                expected = through(plain, x, ids)
                torch.manual_seed(3)
                found = through(towers, x, ids)
            close(found, expected, 2e-6)
            if not any(isinstance(module, nn.MultiheadAttention) for module in base.modules()):
                assert equal(found, expected)


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("kind", ["nn.MultiheadAttention", "open_clip's Attention", "a stand-in", "timm, fused"])
def test_training_and_evaluation_mode_answer_alike(kind: str, dora: bool, tmp_path: Path) -> None:
    """P50: no other path is taken in evaluation mode."""
    model = KINDS[kind](tmp_path)
    towers = joined(model, dora=dora)
    stir(model)
    x, ids = images(model), tokens()
    expected = through(towers, x, ids)
    for training in (True, False):
        model.train(training)
        with torch.no_grad():
            close(through(towers, x, ids), expected, 1e-6)


@pytest.mark.parametrize("family", rest_slow(FAMILIES, TYPICAL))
def test_every_parameter_gets_a_gradient(family: str, tmp_path: Path) -> None:
    """P49: in every family and every place, B at the first step and A from the next."""
    model = build(family, tmp_path)
    towers = towers_of(model)
    for tower in towers:
        there = {m.target: None for block in range(tower.depth) for m in tower.matrices(block)}
        if there:
            blocks = [block for block in range(tower.depth) if len(tower.matrices(block))]
            add_lora(model, tower, LoraConfig(rank=2, targets=tuple(there), layers=tuple(blocks)))
        assert set(tower.added) == {n for n in tower.names() if ".lora." in n}
        for name, new in tower.added.items():
            assert new.group == "lora"
            assert name.startswith(tower.block_paths[new.place])
    names = [name for tower in towers for name in tower.added]
    assert names
    assert {name for name, _ in model.named_parameters() if ".lora." in name} == set(names)
    x, ids = images(model), tokens()
    for ending in (".b", ".a"):
        objective(through(towers, x, ids)).backward()
        for name in names:
            if name.endswith(ending):
                parameter = model.get_parameter(name)
                assert parameter.grad is not None, name
                assert parameter.grad.abs().sum() > 0, name
        stir(model)
        model.zero_grad()


@pytest.mark.parametrize("target", ["q", "k", "v", "o"])
@pytest.mark.parametrize("kind", KINDS)
def test_each_target_is_chosen_alone(kind: str, target: str, tmp_path: Path) -> None:
    base = KINDS[kind](tmp_path).double()
    model = copy.deepcopy(base)
    towers = joined(model, targets=(target,))
    lora = stir(model)
    assert {name.split(".")[-2] for name in lora} == {target}
    x, ids = images(model).double(), tokens()
    with torch.no_grad():
        close(encoded(model, x, ids), encoded(base, x, ids, dense(base, towers, lora, scaling=8.0)), 1e-10)


@pytest.mark.parametrize("kind", rest_slow(KINDS, FEW[::2]))
def test_fifty_steps_move_all_of_it_and_nothing_else(kind: str, tmp_path: Path) -> None:
    model = KINDS[kind](tmp_path)
    towers = joined(model, dropout=0.1, dora=True)
    plan = planned(model, towers)
    apply_plan(model, plan)
    set_modes(model, plan, training=True)
    before = copy.deepcopy(model.state_dict())
    trainable = {name: p for name, p in model.named_parameters() if ".lora." in name}
    optimizer = torch.optim.AdamW(trainable.values(), lr=1e-3)
    x, ids = images(model), tokens()
    for _ in range(50):
        optimizer.zero_grad()
        objective(through(towers, x, ids)).backward()
        optimizer.step()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]) == (name not in trainable), name


def planned(model: nn.Module, towers: Towers) -> Plan:
    config = ModelConfig(name="a-model", pretrained="a-tag")
    return make_plan(
        model, *towers, name="a-model", config=config, loss="contrastive", features="projected", optim=OptimConfig()
    )


def test_the_plan_freezes_the_backbone_and_moves_the_dropout(tmp_path: Path) -> None:
    """LoRA's own dropout is on while the frozen attention around it stays in evaluation mode."""
    model = build("hf pooler", tmp_path)
    towers = joined(model, dropout=0.5)
    plan = planned(model, towers)
    groups = {p.group for p in plan.parameters if p.trainable}
    assert groups == {"lora", "projection", "logit_scale"}
    set_modes(model, plan, training=True)
    new = {id(m) for part in model.modules() if isinstance(part, LowRank) for m in part.modules()}
    dropouts = [m for m in model.modules() if isinstance(m, nn.Dropout) and m.p]
    assert len([m for m in dropouts if m.training]) == len([m for m in dropouts if id(m) in new]) > 0
    assert all(m.training == (id(m) in new) for m in dropouts)
    assert not any(m.training for m in model.modules() if isinstance(m, nn.MultiheadAttention))


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


class _Made(TorchDispatchMode):
    """The shapes of all tensors that are made while it is on, not those of views."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.known = {p.untyped_storage()._cdata for p in model.parameters()}
        self.shapes: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in self.known:
                self.shapes.add(tuple(tensor.shape))
        return out


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("kind", FEW)
def test_the_dense_product_is_never_made(kind: str, dora: bool, tmp_path: Path) -> None:
    """Neither forward nor backward is there a tensor of a matrix's shape."""
    model = KINDS[kind](tmp_path)
    towers = joined(model, dora=dora)
    lora = stir(model)
    with _Made(model) as made:
        objective(through(towers, images(model, 5), tokens())).backward()
    matrices = {tuple(p.shape) for n, p in model.named_parameters() if n not in lora and p.dim() == 2}
    matrices |= {(rows // 3, width) for rows, width in matrices if rows == 3 * width}
    features = {(5, 24), (3, 24), (5, 32), (3, 32)}  # pooled, not a matrix
    assert not made.shapes & (matrices | {shape[::-1] for shape in matrices}) - features
    assert made.shapes & {tuple(p.shape) for p in lora.values()}  # gradients are seen


@pytest.mark.parametrize("scaling", ["standard", "rslora"])
def test_scaling(scaling: str) -> None:
    part = LowRank(torch.zeros(3, 4), LoraConfig(rank=4, alpha=6, scaling=scaling), "weight", (0, 3))
    assert part.scaling == {"standard": 1.5, "rslora": 3.0}[scaling]
    assert part.a.abs().max() <= 0.5  # 1 / sqrt(inputs): Kaiming uniform with a = sqrt(5)
    assert part.a.std() > 0.2
    assert not part.b.any()


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("kind", rest_slow(KINDS, FEW))
def test_strength(kind: str, dora: bool, tmp_path: Path) -> None:
    """0 is the base to the bit, 1 what was trained, and between the weights lie on the line between."""
    base = KINDS[kind](tmp_path)
    for parameter in base.parameters():
        parameter.requires_grad_(False)  # torch's attention takes other ways by it
    model = copy.deepcopy(base)
    joined(model, dora=dora)
    stir(model)
    x, ids = images(model), tokens()
    with torch.no_grad():
        tuned = encoded(model, x, ids)
        scale_lora(model, 0.0)
        assert equal(encoded(model, x, ids), encoded(base, x, ids))
        assert has_lora(model)
        scale_lora(model, 1.0)
        assert equal(encoded(model, x, ids), tuned)
        whole, half = copy.deepcopy(model), copy.deepcopy(model)
        scale_lora(half, 0.5)
        merge_lora(whole)
        between = {n: (base.get_parameter(n) + p) / 2 for n, p in whole.named_parameters()}
        close(encoded(half, x, ids), encoded(base, x, ids, between), 1e-5)
        merge_lora(half)
        close(encoded(half, x, ids), encoded(base, x, ids, between), 1e-5)


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("kind", FEW)
def test_under_gradient_checkpointing(kind: str, dora: bool, tmp_path: Path) -> None:
    model = KINDS[kind](tmp_path)
    towers = joined(model, dora=dora)
    lora = list(stir(model).values())
    x, ids = images(model), tokens()
    found = [through(towers, x, ids), checkpoint(through, towers, x, ids, use_reentrant=False)]
    assert equal(*found)
    for a, b in zip(*(torch.autograd.grad(objective(f), lora) for f in found), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("kind", FEW)
def test_under_autocast(kind: str, dora: bool, tmp_path: Path) -> None:
    """In bfloat16 it is about as far from float32 as the merged model is."""
    model = KINDS[kind](tmp_path)
    towers = joined(model, dora=dora)
    lora = list(stir(model, size=0.03).values())
    merged = copy.deepcopy(model)
    merge_lora(merged)
    x, ids = images(model), tokens()
    exact = through(towers, x, ids)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, plain = through(towers, x, ids), encoded(merged, x, ids)
    for a, b, c in zip(found, plain, exact, strict=True):
        ours, theirs = (float((t.detach().float() - c.detach()).norm() / c.detach().norm()) for t in (a, b))
        assert 0 < ours < 2 * theirs + 1e-3
    assert all(bool(g.isfinite().all()) for g in torch.autograd.grad(objective(found), lora))


def test_meta_and_devices_give_the_same_parameters(tmp_path: Path) -> None:
    """The plan is made on the meta device, the weights come later."""
    config = ModelConfig(
        name="a-model",
        pretrained="a-tag",
        image=ImageTowerConfig(lora=LoraConfig(rank=3, dora=True)),
        text=TextTowerConfig(lora=LoraConfig(targets=("v", "o"), layers=(1,))),
    )
    shapes = []
    for device in ("meta", "cpu"):
        with torch.device(device):
            model = build("native, class token", tmp_path)
            towers = towers_of(model)
            assert add_new(model, *towers, config, seed=1) == ()
            assert {p.device.type for p in model.parameters()} == {device}
            shapes.append({name: tuple(p.shape) for name, p in model.named_parameters()})
            features = encoded(model, images(model).to(device), tokens().to(device))
            assert features[0].shape == (2, 24)
    assert shapes[0] == shapes[1]
    assert {n for n in shapes[0] if n.startswith("transformer") and ".lora." in n} == {
        f"transformer.resblocks.1.attn.lora.{target}.{matrix}" for target in "vo" for matrix in "ab"
    }


def test_chance_follows_from_the_seed_alone(tmp_path: Path) -> None:
    config = ModelConfig(name="a-model", pretrained="a-tag", text=TextTowerConfig(lora=LoraConfig()))
    drawn = []
    for seed, before in ((1, 0), (1, 5), (2, 0)):
        model = build("native, class token", tmp_path)
        towers = towers_of(model)
        torch.manual_seed(before)
        state = torch.get_rng_state()
        add_new(model, *towers, config, seed)
        assert torch.equal(torch.get_rng_state(), state)
        drawn.append(model.get_parameter("transformer.resblocks.0.attn.lora.q.a"))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize(("rank", "count"), [(2, 184_320), (4, 368_640)])
def test_clip_lora_counts(rank: int, count: int) -> None:
    """CLIP-LoRA, its own figures: q, k and v of every block of both ViT-B/16 towers."""
    model = on_meta("ViT-B-16")
    towers = joined(model, rank=rank, targets=("q", "k", "v"))
    assert sum(model.get_parameter(name).numel() for tower in towers for name in tower.added) == count


# --- what torch's attention is called with -----------------------------------------------------------


def causal(kind: str, rows: int, heads: int, length: int) -> Tensor | None:
    never = torch.ones(length, length, dtype=torch.bool).triu(1)
    never = never.expand(rows * heads, length, length).clone() if "3-D" in kind else never
    if "3-D" in kind:
        never[heads:, :, 0] = False
        never[heads:, 1:, 1] = True  # another mask for the second row
    if kind == "none":
        return None
    return never if "bool" in kind else torch.zeros(never.shape).masked_fill(never, float("-inf"))


@pytest.mark.parametrize("mask", ["none", "2-D bool", "2-D float", "3-D bool", "3-D float"])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_torchs_attention_as_open_clip_calls_it(mask: str, batch_first: bool, bias: bool) -> None:
    torch.manual_seed(0)
    plain = nn.MultiheadAttention(12, 3, batch_first=batch_first, bias=bias).eval()
    attention = copy.deepcopy(plain)
    for i, target in enumerate("qkvo"):
        name, rows = ("out_proj.weight", (0, 12)) if target == "o" else ("in_proj_weight", (12 * i, 12 * i + 12))
        part = add_low_rank(attention, target, LoraConfig(rank=2), name, rows)
        nn.init.normal_(part.b, std=0.1)
        with torch.no_grad():
            plain.get_parameter(name)[slice(*rows)] += 8 * part.b @ part.a
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
    for i, target in enumerate("qkvo"):
        name, rows = ("out_proj.weight", (0, 12)) if target == "o" else ("in_proj_weight", (12 * i, 12 * i + 12))
        part = add_low_rank(attention, target, LoraConfig(rank=2), name, rows)
        nn.init.normal_(part.b, std=0.1)
        with torch.no_grad():
            plain.get_parameter(name)[slice(*rows)] += 8 * part.b @ part.a
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


# --- what was asked for ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "blocks"), [("all", {0, 1, 2}), ({"last": 2}, {1, 2}), ([0, 2], {0, 2}), ([1, 1], {1})]
)
def test_layers(layers: Any, blocks: set[int], tmp_path: Path) -> None:
    model = build("native, class token", tmp_path)
    tower = towers_of(model)[1]
    add_lora(model, tower, LoraConfig(layers=layers))
    assert {new.place for new in tower.added.values()} == blocks


@pytest.mark.parametrize(
    ("family", "keys", "said"),
    [
        (
            "native, class token",
            {"layers": [0, 3]},
            "model.image.lora.layers: 3 is out of range: this native ViT tower has 3 blocks; write numbers from 0 to 2",
        ),
        (
            "native, class token",
            {"layers": {"last": 4}},
            "model.image.lora.layers.last: 4 is out of range: this native ViT tower has 3 blocks; write 1 to 3",
        ),
        (
            "timm convnext",
            {},
            "model.image.lora.targets: q matches nothing in this timm ConvNeXt tower's blocks 0 to 3, which have fc, "
            "proj; write targets: [fc, proj]",
        ),
        (
            "timm fastvit",
            {"targets": ["q", "v"], "layers": [0, 2]},
            "model.image.lora.targets: q matches nothing: this timm FastVit tower has no such matrices in blocks 0 and "
            "2; block 3 has q, k, v, o: write layers: [3]",
        ),
        (
            "timm efficientnet, mlp",
            {"targets": ["v"]},
            "model.image.lora.targets: v matches nothing: a timm EfficientNet tower is made of convolutions and has no "
            "matrix that LoRA can join; write image: {lora: null}; freeze_layers, the projection and feature_adapter "
            "work on it",
        ),
    ],
)
def test_what_matches_nothing_is_refused(family: str, keys: dict[str, Any], said: str, tmp_path: Path) -> None:
    model = build(family, tmp_path)
    with pytest.raises(InputError) as refusal:
        add_lora(model, towers_of(model)[0], LoraConfig(**keys))
    assert str(refusal.value) == said
    assert not has_lora(model)


def test_an_unusual_attention_is_refused(tmp_path: Path) -> None:
    model = build("native, class token", tmp_path)
    model.visual.transformer.resblocks[1].attn = nn.MultiheadAttention(32, 2, add_bias_kv=True, batch_first=True)
    tower = towers_of(build("native, class token", tmp_path))[0]
    with pytest.raises(InputError, match="keys and values of another width or added ones"):
        add_lora(model, tower, LoraConfig(targets=ALL))
