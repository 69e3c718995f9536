"""`model.embed_dim` replaces both projections of any model, `projection: reset` one at its own width."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from freeze_models import native, on_meta
from tiny_families import FAMILIES, build, construct, images, tokens
from tiny_files import write_native
from torch import Tensor, nn

from clipft.config.optim_schema import OptimConfig
from clipft.config.schema import Config, ModelConfig
from clipft.errors import InputError
from clipft.model.build import MetaModel, build_meta
from clipft.model.build import build as build_clip
from clipft.model.clip_model import ClipModel
from clipft.model.freeze import make_plan
from clipft.model.plan import Plan
from clipft.model.recipe import Sizes
from clipft.model.resize import resize
from clipft.model.towers import towers_of
from clipft.train.plan_report import report_plan

WITHOUT = {
    "native, no text projection",
    "siglip",
    "siglip, no projection at all",
    "timm efficientnet, no projection",
    "hf first token, no projection",
}
POOL_BOUND = {"coca", "coca, pools in parallel", "coca, pools in a cascade", "coca, hf roberta"}
"""CoCa's attention pool is as wide as the shared space."""


SAMPLE = {
    *("native, class token", "native, linear text projection", "modified resnet", "coca", "timm fastvit", "pe-core"),
    *("timm efficientnet, mlp", "timm vit, own head as projection", "hf mt5, mlp", "coca, class token"),
}
"""Each kind of projection."""


def _tier(family: str) -> Any:
    return family if family in SAMPLE else pytest.param(family, marks=pytest.mark.slow)


def plan_with(clip: ClipModel | MetaModel, config: ModelConfig, **loss: str) -> Plan:
    asked = {"loss": "contrastive", "features": "projected"} | loss
    return make_plan(clip.model, clip.image, clip.text, name="x", config=config, optim=OptimConfig(), **asked)


def projections(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: model.get_parameter(name)
        for tower in towers_of(model)
        for name in tower.names()
        if tower.group_of(name) == "projection"
    }


@pytest.mark.parametrize("family", [_tier(name) for name in FAMILIES if name not in WITHOUT | POOL_BOUND])
def test_another_width_is_what_open_clip_builds_at_that_width(family: str, tmp_path: Path) -> None:
    """Names and shapes of a model whose config has the other embed_dim, so that plain open_clip loads it."""
    model = build(family, tmp_path)
    old, own = projections(model), towers_of(model)[0].embed_dim
    rest = {name: parameter for name, parameter in model.named_parameters() if name not in old}
    said = resize(model, Sizes(embed_dim=20), seed=3)
    assert said.notes == (
        f"model.embed_dim: 20 in place of {own}; "
        "both projections are new, drawn from the seed: until they are trained, images and texts do not meet",
    )
    assert set(said.names) == set(projections(model))
    assert all(model.get_parameter(name) is parameter for name, parameter in rest.items())
    fresh = construct(FAMILIES[family](tmp_path) | {"embed_dim": 20})
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in fresh.state_dict().items()}
    fresh.load_state_dict(model.state_dict())
    image, text = towers_of(model)
    with torch.no_grad():
        expected = fresh.encode_image(images(model), normalize=False)
        torch.testing.assert_close(image.encode(images(model)), expected, atol=1e-6, rtol=1e-5)
        assert torch.equal(text.encode(tokens()), fresh.encode_text(tokens(), normalize=False))
    assert (image.embed_dim, text.embed_dim) == (20, 20)
    assert resize(model, Sizes(embed_dim=20)).names == ()  # it has that by now


@pytest.mark.parametrize("family", [_tier(name) for name in FAMILIES if name not in WITHOUT])
def test_reset_draws_at_the_same_width_from_the_seed(family: str, tmp_path: Path) -> None:
    drawn = []
    for seed in (1, 1, 2):
        model = build(family, tmp_path)
        before = {name: tensor.clone() for name, tensor in projections(model).items()}
        state = torch.get_rng_state()
        said = resize(model, Sizes(), reset=("image", "text"), seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        drawn.append(projections(model))
        assert set(said.names) == before.keys()
        assert {name: tensor.shape for name, tensor in drawn[-1].items()} == {n: t.shape for n, t in before.items()}
        assert all(not torch.equal(drawn[-1][n], before[n]) for n in before if "bias" not in n)
        # as widely spread as open_clip draws them: timm's Eva, whose head starts near zero, aside
        for name, tensor in before.items():
            if tensor.ndim == 2 and "eva" not in family and family != "pe-core":
                assert drawn[-1][name].std().item() == pytest.approx(tensor.std().item(), rel=0.15)
    assert all(torch.equal(tensor, drawn[1][name]) for name, tensor in drawn[0].items())
    assert all(not torch.equal(tensor, drawn[2][name]) for name, tensor in drawn[0].items() if tensor.ndim == 2)


def test_bare_projections_have_open_clips_spread() -> None:
    model = native(vision={"width": 512}, text={"width": 256})
    resize(model, Sizes(embed_dim=300))
    spread = {name: tensor.std().item() for name, tensor in projections(model).items()}
    assert spread["visual.proj"] == pytest.approx(512**-0.5, rel=0.02)
    assert spread["text_projection"] == pytest.approx(256**-0.5, rel=0.02)


@pytest.mark.parametrize("family", sorted(WITHOUT))
def test_a_tower_without_a_projection_is_refused(family: str, tmp_path: Path) -> None:
    model = build(family, tmp_path)
    with pytest.raises(InputError) as told:
        resize(model, Sizes(embed_dim=20))
    assert str(told.value).startswith("model.embed_dim: 20: the ")
    assert str(told.value).endswith("or name two encoders (name: null), which are joined by projections of any width")
    without = [tower for tower in towers_of(model) if not tower.has_projection]
    for tower in without:
        with pytest.raises(InputError) as told:
            resize(model, Sizes(), reset=(tower.name,))
        assert str(told.value) == (
            f"model.{tower.name}.projection: reset: this {tower.family} tower has no projection; leave the key out"
        )


@pytest.mark.parametrize("family", sorted(POOL_BOUND))
def test_a_pool_that_is_as_wide_as_the_shared_space_is_refused(family: str, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"^model\.embed_dim: 20: cannot be changed for a native ViT tower: its attent"
    ):
        resize(build(family, tmp_path), Sizes(embed_dim=20))


def test_a_real_model_on_meta() -> None:
    """ViT-B-32 at 256: 768 x 256 and 512 x 256 in place of 393,216 and 262,144."""
    meta = build_meta(ModelConfig(name="ViT-B-32", embed_dim=256, image={"projection": "freeze"}))
    plan = plan_with(meta, ModelConfig(name="ViT-B-32", embed_dim=256, image={"projection": "freeze"}))
    trains = {p.name: (p.group, p.numel) for p in plan.trainable if p.group == "projection"}
    assert trains == {"visual.proj": ("projection", 768 * 256), "text_projection": ("projection", 512 * 256)}
    assert plan.lines["image"].endswith("; projection: freeze ignored, the projection is new")
    assert any(note.startswith("model.embed_dim: 256 in place of 512; both projections are new") for note in meta.notes)
    assert meta.model_cfg["embed_dim"] == 256
    assert on_meta("ViT-B-32").visual.proj.shape == (768, 512)
    with pytest.raises(
        InputError, match=r"the timm ViT image tower has no projection to replace, its pooled feature is 7"
    ):
        build_meta(ModelConfig(name="ViT-B-16-SigLIP", embed_dim=256))


def test_its_own_width_is_said_and_nothing_is_replaced(tmp_path: Path) -> None:
    base = write_native(tmp_path / "base")
    clip = build_clip(ModelConfig(name=f"local-dir:{base}", embed_dim=32), seed=0)
    assert clip.resized == ()
    assert any(note.startswith("model.embed_dim: 32 is this model's own width") for note in clip.notes)
    plan = plan_with(clip, ModelConfig(name="x", embed_dim=32, image={"projection": "freeze"}))
    assert {p.rule for p in plan.parameters if p.name == "visual.proj"} == {"projection: freeze"}


def test_the_base_keeps_all_else_and_the_seed_decides(tmp_path: Path) -> None:
    base = write_native(tmp_path / "base")
    plain = build_clip(ModelConfig(name=f"local-dir:{base}"), seed=0).model.state_dict()
    one, same, other = (build_clip(ModelConfig(name=f"local-dir:{base}", embed_dim=48), seed=s) for s in (1, 1, 2))
    assert sorted(one.resized) == ["text_projection", "visual.proj"]
    for name, tensor in one.model.state_dict().items():
        assert torch.equal(tensor, same.model.state_dict()[name])
        if name in one.resized:
            assert not torch.equal(tensor, other.model.state_dict()[name])
        else:
            assert torch.equal(tensor, plain[name])
    reset = build_clip(ModelConfig(name=f"local-dir:{base}", text={"projection": "reset"}), seed=1)
    assert reset.resized == ("text_projection",)
    assert torch.equal(reset.model.state_dict()["visual.proj"], plain["visual.proj"])
    assert reset.text.projection_is_new
    assert not reset.image.projection_is_new


def test_weights_that_have_the_width_already_keep_their_projections(tmp_path: Path) -> None:
    """An image size that is asked for beside it is still resampled: the file's positions are of the old size."""
    base = write_native(tmp_path / "base", weights=False)
    wide = write_native(tmp_path / "wide", embed_dim=48) / "open_clip_model.safetensors"
    clip = build_clip(ModelConfig(name=f"local-dir:{base}", pretrained=str(wide), embed_dim=48, image_size=64), seed=0)
    same = build_clip(ModelConfig(name=f"local-dir:{tmp_path / 'wide'}"), seed=0)
    assert torch.equal(clip.model.get_parameter("visual.proj"), same.model.get_parameter("visual.proj"))
    assert clip.resized == ("visual.positional_embedding",)
    assert clip.model_cfg["embed_dim"] == 48


def test_what_no_loss_sees_is_frozen_all_the_same(tmp_path: Path) -> None:
    base = write_native(tmp_path / "base")
    config = ModelConfig(name=f"local-dir:{base}", embed_dim=48)
    plan = plan_with(build_meta(config), config, loss="classifier", features="pooled")
    assert {p.rule for p in plan.parameters if p.group == "projection"} == {"not in the loss"}


def test_a_report_on_a_config_says_it(tmp_path: Path) -> None:
    base = write_native(tmp_path / "base")
    model: dict[str, Any] = {"name": f"local-dir:{base}", "image": {"projection": "reset"}}
    config = Config.model_validate({"model": model, "data": {"train": {"folder": str(tmp_path)}}})
    report = report_plan(config, with_cost=False)
    assert report.notes[0] == (
        "model.image.projection: reset: its weights are drawn from the seed: until they are trained, images and texts "
        "do not meet"
    )
    assert "visual.proj" in {p.name for p in report.plan.trainable}
