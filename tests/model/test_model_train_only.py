"""`train_only`: of what the freeze keys leave, only norms, only biases, or both; in every family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from freeze_models import native, on_meta, plan_of
from tiny_families import FAMILIES, build, images, tokens
from torch import nn

from clipft.config.optim_schema import OptimConfig
from clipft.config.schema import ModelConfig
from clipft.errors import InputError
from clipft.model.additions import add_new
from clipft.model.freeze import apply_plan, frozen_hashes, make_plan, set_modes
from clipft.model.kinds import of_kinds
from clipft.model.towers import towers_of

ONLY_PROJ_BIASES = r"^(?!.*mlp\.c_proj\.bias$)"
"""Of a native backbone it freezes all but the biases of the MLPs' last layers."""


def trains_of(model: nn.Module, tower: str, **section: Any) -> set[str]:
    plan = plan_of(model, **{tower: section})
    return {p.name for p in plan.trainable if p.tower == tower and p.group != "projection"}


def test_clipfits_counts_on_vit_b_16() -> None:
    """CLIPFit, section 3: all LayerNorms of the image tower, and in the text tower the second MLP layer's biases."""
    plan = plan_of(
        on_meta("ViT-B-16"),
        image={"train_only": ["norms"], "projection": "freeze"},
        text={"freeze_pattern": ONLY_PROJ_BIASES, "projection": "freeze"},
        logit_scale={"train": False},
    )
    counts = {t: sum(p.numel for p in plan.trainable if p.tower == t) for t in ("image", "text")}
    assert counts == {"image": 39_936, "text": 6_144}
    assert plan.totals()["trainable"] == 46_080
    assert plan.lines["image"] == ("only the backbone's norms train (52 of 151 tensors, 39.9K of 85.8M parameters)")
    assert {p.rule for p in plan.frozen if p.tower == "image" and p.group != "projection"} == {"train_only: norms"}


@pytest.mark.parametrize("family", FAMILIES)
def test_norms_and_biases_of_every_family(family: str, tmp_path: Path) -> None:
    """Norms by module: each is a vector beside one as long; biases: no matrix is one, and no table."""
    model = build(family, tmp_path)
    for tower in towers_of(model):
        names = tower.backbone_names()
        norms, biases = (of_kinds(model, names, [kind]) for kind in ("norms", "biases"))
        found = {kind for kind, some in (("norms", norms), ("biases", biases)) if some}
        assert found == ({"norms"} if "mt5" in tower.family else {"norms", "biases"})
        assert trains_of(model, tower.name, train_only=sorted(found)) == (norms | biases) - tower.untrained.keys()
        assert all(model.get_parameter(name).ndim == 1 for name in norms | biases)
        buffers = {name.rpartition(".")[0] for name, _ in model.named_buffers() if name.endswith("running_mean")}
        inside = {name.rpartition(".")[0] for name in norms}
        assert {path for path in buffers if f"{path}.weight" in names} <= inside
        rest = set(names) - norms - biases
        assert [name for name in rest if "bias" in name and "relative" not in name] == []
        vectors = [name for name in rest if model.get_parameter(name).ndim == 1]
        tokens_and_scales = ("gamma", "class_embedding", "cls_emb", "reg_token")
        assert [name for name in vectors if name.rpartition(".")[2] not in tokens_and_scales] == []


def test_what_the_freeze_keys_left_is_narrowed() -> None:
    model = native()
    plan = plan_of(model, image={"freeze_layers": 2, "train_only": ["norms", "biases"]})
    trains = {p.name for p in plan.trainable if p.tower == "image"}
    block = "visual.transformer.resblocks.2"
    leaves = ("attn.in_proj_bias", "attn.out_proj.bias", "mlp.c_fc.bias", "mlp.c_proj.bias")
    norms = {f"{norm}.{leaf}" for norm in (f"{block}.ln_1", f"{block}.ln_2", "visual.ln_post") for leaf in WEIGHTS}
    assert trains == {*norms, *(f"{block}.{leaf}" for leaf in leaves), "visual.proj"}
    assert plan.lines["image"] == (
        "froze embeddings + first 2/3 blocks (29 of 43 tensors, 50.2K of 63.0K parameters); "
        "of the rest only norms and biases train (10 tensors, 480 parameters)"
    )
    rules = {p.rule for p in plan.frozen if p.tower == "image"}
    assert rules == {"freeze_layers: 2", "train_only: norms, biases"}
    # and the norm behind the blocks may be left out as ever
    plan = plan_of(model, image={"train_only": ["norms"], "norm": "freeze"})
    assert {p.rule for p in plan.frozen if p.name.startswith("visual.ln_post")} == {"norm: freeze"}


WEIGHTS = ("weight", "bias")


def test_beside_new_parameters_it_rules_the_backbone() -> None:
    """BitFit beside adapters: without the key the backbone would stand still."""
    model = native()
    towers = towers_of(model)
    config = ModelConfig(name="a", image={"adapter": {"bottleneck": 2}, "train_only": ["biases"]})
    add_new(model, *towers, config, seed=0)
    plan = make_plan(
        model, *towers, name="a", config=config, loss="contrastive", features="projected", optim=OptimConfig()
    )
    trains = {p.name for p in plan.trainable if p.tower == "image"}
    assert trains == {*towers[0].added, "visual.proj", *of_kinds(model, towers[0].backbone_names(), ["biases"])}


def test_exactly_what_is_named_moves() -> None:
    model = native()
    plan = plan_of(model, image={"train_only": ["norms"]}, text={"train_only": ["biases"]})
    apply_plan(model, plan)
    set_modes(model, plan, training=True)
    frozen = frozen_hashes(model, plan)
    start = {p.name: model.get_parameter(p.name).detach().clone() for p in plan.trainable}
    optimizer = torch.optim.Adam([model.get_parameter(name) for name in start], lr=0.01)
    image, text = towers_of(model)
    features = (image.encode(images(model)), text.encode(tokens()))
    loss = model.get_parameter("logit_scale") * sum((f * torch.linspace(-1, 1, f.shape[-1])).sum() for f in features)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    assert [name for name in start if torch.equal(model.get_parameter(name), start[name])] == []
    assert frozen_hashes(model, plan) == frozen


def test_a_kind_that_is_not_there_is_refused(tmp_path: Path) -> None:
    model = build("hf mt5, mlp", tmp_path)
    says = r"^model\.text\.train_only: biases: this Hugging Face mt5 backbone has none; it has norms$"
    with pytest.raises(InputError, match=says):
        plan_of(model, text={"train_only": ["biases"]})
    with pytest.raises(InputError, match=r"backbone has none; leave it out$"):
        plan_of(model, text={"train_only": ["norms", "biases"]})
    with pytest.raises(InputError, match="has none"):  # where the loss does not look, too
        plan_of(model, loss="classifier", text={"train_only": ["biases"]})


def test_a_kind_that_the_freeze_keys_took_is_refused() -> None:
    says = r"^model\.image\.train_only: norms: freeze_backbone: true freezes all 16 of them; leave out one of the two "
    with pytest.raises(InputError, match=says):
        plan_of(native(), image={"train_only": ["norms"], "freeze_backbone": True})
