"""LoRA in every kind of attention, against the dense form that it stands for."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from lora_kinds import FEW, KINDS, dense, encoded, joined, objective, rest_slow, stir, through
from tiny_families import images, tokens
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from clipft.model.lora import has_lora, merge_lora, scale_lora
from clipft.model.towers import towers_of


def close(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...], within: float) -> None:
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=within, rtol=0)


def equal(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_dense_form_forward_and_backward(kind: str, dora: bool, tmp_path: Path) -> None:
    """Features and the gradients of A, B and magnitude, in float64; the norm of DoRA is a constant there."""
    base = KINDS[kind](tmp_path).double()
    model = copy.deepcopy(base)
    towers = joined(model, dora=dora, alpha=3.0)
    lora = stir(model)
    assert any(name.endswith(".magnitude") for name in lora) == dora
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
