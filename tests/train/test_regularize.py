"""`train.regularize`: its formulas, its gradients, the base's features, and what it refuses."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from train_runs import Begin, Write, go, gradients, lines, said, same, stop_after, view, weights, with_stages

from clipft.config.load import load_config
from clipft.config.schema import Config
from clipft.errors import InputError
from clipft.model.build import build
from clipft.train.base import BaseFeatures
from clipft.train.losses import Features
from clipft.train.prepare import prepare_stages
from clipft.train.pulls import feature_distance, pull_weights, zero_shot_divergence
from clipft.train.start import Started
from clipft.train.step import caption_numbers

ALL = [
    {"type": "l2sp", "weight": 0.5},
    {"type": "feature_distill", "weight": 2.0},
    {"type": "zero_shot_distill", "weight": 0.7},
]


def unit(rows: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(rows, 12, generator=torch.Generator().manual_seed(seed), dtype=torch.double), dim=-1)


def moved(started: Started, by: float = 0.02) -> Started:
    """Everything that trains pushed away from the base."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in started.clip.model.parameters():
            if parameter.requires_grad:
                parameter += by * torch.randn(parameter.shape, generator=generator)
    return started


def test_feature_distance_is_one_minus_cosine() -> None:
    """CLIPFit's term; of both towers the sum."""
    ours, base = Features(unit(5, 0), unit(5, 1)), Features(unit(5, 2), unit(5, 3))
    assert ours.text is not None
    assert base.text is not None
    image = np.mean([1 - a @ b for a, b in zip(ours.image.numpy(), base.image.numpy(), strict=True)])
    text = np.mean([1 - a @ b for a, b in zip(ours.text.numpy(), base.text.numpy(), strict=True)])
    assert float(feature_distance(ours, base, ("image",))) == pytest.approx(image)
    assert float(feature_distance(ours, base, ("text",))) == pytest.approx(text)
    assert float(feature_distance(ours, base, ("image", "text"))) == pytest.approx(image + text)


def test_zero_shot_divergence_is_kl_over_distinct_captions() -> None:
    """A caption that stands in two rows is one answer; 0 where nothing moved."""
    captions = caption_numbers(["a", "b", "a", "c"])
    texts, base_texts = unit(4, 1), unit(4, 3)
    texts[2], base_texts[2] = texts[0], base_texts[0]
    ours, base = Features(unit(4, 0), texts), Features(unit(4, 2), base_texts)
    expected = 0.0
    for row in range(4):
        p, q = (np.exp(7 * f.image[row].numpy() @ f.text[[0, 1, 3]].numpy().T) for f in (base, ours))  # type: ignore[index]
        p, q = p / p.sum(), q / q.sum()
        expected += float((p * np.log(p / q)).sum()) / 4
    assert float(zero_shot_divergence(ours, base, 7.0, captions)) == pytest.approx(expected)
    assert float(zero_shot_divergence(base, base, 7.0, captions)) == pytest.approx(0.0, abs=1e-12)


def test_the_weights_pull_is_autograds() -> None:
    """2 * weight * (p - p0) on top of what was there; a sum, not a mean."""
    start = [torch.randn(3, 4, dtype=torch.double), torch.randn(5, dtype=torch.double)]
    ours = [torch.nn.Parameter(torch.randn_like(tensor)) for tensor in start]
    before = [torch.randn_like(tensor) for tensor in start]
    for parameter, gradient in zip(ours, before, strict=True):
        parameter.grad = gradient.clone()
    value = pull_weights(list(zip(ours, start, strict=True)), 0.3)
    plain = 0.3 * torch.stack([((p - p0) ** 2).sum() for p, p0 in zip(ours, start, strict=True)]).sum()
    assert value == pytest.approx(plain.item(), rel=1e-6)
    for parameter, gradient, wanted in zip(ours, before, torch.autograd.grad(plain, ours), strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, gradient + wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_a_steps_gradient_is_autograds_of_loss_and_term(begin: Begin, kind: int) -> None:
    """Against one graph over the loss and the plain formula, its base a second, whole model."""
    started, batch = begin(train={"regularize": ALL[kind]})
    whole = copy.deepcopy(started.clip)
    moved(started)
    stepper, model = started.stepper, started.clip.model
    stepper.optimizer.zero_grad()
    loss, added = stepper._backward(batch)
    added |= stepper.regularizer.of_weights()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    stepper.optimizer.zero_grad()
    features, targets = stepper.network.features(batch.images, batch.captions), stepper._targets(batch)
    with torch.no_grad():
        tokens = whole.tokenizer(batch.captions)
        base = Features(
            whole.model.encode_image(batch.images, normalize=True), whole.model.encode_text(tokens, normalize=True)
        )
    then = dict(whole.model.named_parameters())
    term = [
        lambda: sum(((p - then[n]) ** 2).sum() for n, p in model.named_parameters() if n != "logit_scale"),
        lambda: feature_distance(features, base, ("image", "text")),
        lambda: zero_shot_divergence(features, base, whole.scale, targets.captions),
    ][kind]()
    value = ALL[kind]["weight"] * term
    plain = started.objective(features, targets)
    (plain + value).backward()
    assert loss == pytest.approx(plain.item(), rel=1e-6)
    assert added == {ALL[kind]["type"]: pytest.approx(value.item(), rel=1e-4)}
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_pieces_give_the_gradient_of_the_whole(begin: Begin) -> None:
    """Micro-batches: the terms look at the whole batch's features."""

    def found(**micro: int) -> dict[str, Tensor]:
        started, batch = begin(train={"regularize": ALL, **micro})
        return gradients(moved(started), batch)

    whole, pieces = found(), found(micro_batch_size=3)
    for name, gradient in whole.items():
        torch.testing.assert_close(pieces[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("model", [{}, {"image": {"dropout": 0.5}, "text": {"freeze_backbone": True}}])
def test_the_bases_features_are_the_base_models_own(begin: Begin, model: dict[str, Any], tmp_path: Path) -> None:
    """After steps, in training mode, with dropout on: those of the base built anew; and nothing of it stays behind."""
    started, batch = begin(model=model, train={"regularize": ALL}, optim={"lr": 1e-2})
    for _ in range(3):
        started.stepper(batch)
    clip = started.clip
    before = {name: tensor.clone() for name, tensor in clip.model.state_dict().items()}
    modes = {name: module.training for name, module in clip.model.named_modules()}
    torch.manual_seed(4)
    drawn = torch.get_rng_state()
    found = started.stepper.regularizer.base_features(batch.images, batch.captions, 3)
    assert torch.equal(drawn, torch.get_rng_state())
    fresh = build(Config.model_validate({"model": {"name": clip.name}, "data": {"train": {"folder": "x"}}}).model, 0)
    with torch.no_grad():
        image = fresh.model.encode_image(batch.images, normalize=True)
        text = fresh.model.encode_text(fresh.tokenizer(batch.captions), normalize=True)
    assert found is not None
    torch.testing.assert_close(found.image, image, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.text, text, rtol=0, atol=1e-6)
    assert same(before, clip.model.state_dict())
    assert modes == {name: module.training for name, module in clip.model.named_modules()}


def test_batchnorm_that_moves_stands_as_in_the_base(begin: Begin) -> None:
    vision = {"timm_model_name": "test_efficientnet", "timm_pool": "avg", "timm_proj": "linear", "image_size": 32}
    started, batch = begin(cfg={"vision_cfg": vision}, train={"regularize": ALL[1]})
    features = started.stepper.regularizer.base_features
    before = features(batch.images, batch.captions, 8)
    name = next(n for n, _ in started.clip.model.named_buffers() if n.endswith("running_mean"))
    mean = started.clip.model.get_buffer(name).clone()
    for _ in range(3):
        started.stepper(batch)
    assert not torch.equal(started.clip.model.get_buffer(name), mean)
    after = features(batch.images, batch.captions, 8)
    assert before is not None
    assert after is not None
    assert torch.equal(before.image, after.image)


NEW = [
    {"lora": {"rank": 2, "dropout": 0.3}},
    {"lora": {"rank": 2, "dora": True}, "adapter": {"bottleneck": 4}, "feature_adapter": {}},
    {"prompt": {"length": 3, "depth": 2}},
]


@pytest.mark.parametrize("new", NEW)
def test_new_parameters_are_no_part_of_the_base(begin: Begin, new: dict[str, Any]) -> None:
    """LoRA and adapters are back at the identity; prompts and feature adapters, which do not begin as it, left out."""
    started, batch = begin(model={"image": new, "text": new}, train={"regularize": ALL[1:]}, optim={"lr_new": 1e-2})
    for _ in range(3):
        added = started.stepper(batch).added
    assert all(value > 1e-4 for value in added.values())
    clip = started.clip
    found = started.stepper.regularizer.base_features(batch.images, batch.captions, 8)
    fresh = build(Config.model_validate({"model": {"name": clip.name}, "data": {"train": {"folder": "x"}}}).model, 0)
    with torch.no_grad():
        image = fresh.model.encode_image(batch.images, normalize=True)
        text = fresh.model.encode_text(fresh.tokenizer(batch.captions), normalize=True)
    assert found is not None
    torch.testing.assert_close(found.image, image, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.text, text, rtol=0, atol=1e-6)
    assert (clip.text.prompt is not None) == ("prompt" in new)
    assert (clip.text.feature_adapter is not None) == ("feature_adapter" in new)


def test_weight_0_is_off_to_the_bit(write: Write) -> None:
    off = [{**one, "weight": 0.0} for one in ALL]
    plain, zero = (
        go(write(name, train={"epochs": 1, **pulls})) for name, pulls in (("plain", {}), ("zero", {"regularize": off}))
    )
    assert same(weights(plain.folder), weights(zero.folder))
    assert "regularize" not in lines(zero.folder, "step")[0]


def test_l2sp_pulls_weights_to_the_start(begin: Begin) -> None:
    """P62: the larger its weight, the nearer to the base the run ends; logit_scale is not held."""

    def distance(weight: float) -> float:
        started, batch = begin(
            train={"regularize": {"type": "l2sp", "weight": weight}},
            optim={"name": "sgd", "lr": 0.02, "momentum": 0.0, "clip_norm": None},
        )
        then = {name: p.detach().clone() for name, p in started.clip.model.named_parameters()}
        for _ in range(8):
            started.stepper(batch)
        now = started.clip.model.named_parameters()
        return sum(float((p.detach() - then[n]).square().sum()) for n, p in now if n != "logit_scale")

    free, held, tight = distance(0.0), distance(1.0), distance(10.0)
    assert tight < 0.9 * held < 0.9 * 0.9 * free


def test_a_resumed_run_is_held_to_the_same_base(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """P37: the base's tensors come from the base, not from the checkpoint."""
    settings: dict[str, Any] = {"train": {"regularize": ALL, "epochs": 2}, "model": {"text": {"freeze_layers": 1}}}
    straight = go(write("straight", **settings))
    path = write("stopped", **settings)
    stop_after(1, path, monkeypatch)
    resumed = go(path)
    assert same(weights(straight.folder), weights(resumed.folder))
    ours, theirs = ([x["regularize"] for x in lines(f.folder, "step")] for f in (resumed, straight))
    assert ours == theirs
    assert set(ours[0]) == {"l2sp", "feature_distill", "zero_shot_distill"}
    assert ours[0]["l2sp"] == 0.0 < ours[-1]["l2sp"]


def test_the_start_says_what_is_held_and_what_is_left_out(write: Write) -> None:
    shown = view()
    go(write(train={"regularize": ALL, "epochs": 1}), shown=shown)
    words = " ".join(said(shown).split())
    assert "l2sp 0.5 x the sum of squared differences to the base, over" in words
    assert "left out: logit_scale" in words
    assert "feature_distill 2 x (1 - cosine) to the base's features, image and text" in words


@pytest.mark.parametrize(
    ("sections", "one", "message"),
    [
        ({"loss": {"type": "classifier"}}, ALL[2], r"zero_shot_distill compares .* write type: feature_distill"),
        (
            {"loss": {"type": "classifier"}},
            {**ALL[1], "towers": "text"},
            r"does not look at texts; write towers: image",
        ),
        (
            {"model": {"text": {"freeze_backbone": True, "projection": "freeze"}}},
            {**ALL[1], "towers": "text"},
            r"towers: text, but nothing there trains",
        ),
        (
            {"model": {t: {"freeze_backbone": True, "projection": "freeze"} for t in ("image", "text")}},
            ALL[0],
            r"none of them trains here \(only logit_scale\)",
        ),
    ],
)
def test_a_pull_on_nothing_is_refused(
    begin: Begin, sections: dict[str, Any], one: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        begin(train={"regularize": one}, **sections)


def test_a_projection_that_is_drawn_is_not_held(write: Write) -> None:
    """The base has none of that width: its features are no goal, and its weights are left out and said to be."""
    new = {"embed_dim": 24}
    (prepared,) = prepare_stages(load_config(write(model=new, train={"regularize": ALL[0]})).config)
    assert {p.name for p in prepared.pulls[0].left_out} == {"visual.proj", "text_projection", "logit_scale"}
    with pytest.raises(InputError, match=r"feature_distill .* the projection of image and text is drawn at random"):
        prepare_stages(load_config(write(model=new, train={"regularize": ALL[1]})).config)


def test_both_takes_what_trains_and_is_looked_at(begin: Begin) -> None:
    """Under a classifier the image tower alone, with no text encoded."""
    started, batch = begin(loss={"type": "classifier"}, train={"regularize": ALL[1]})
    assert started.stepper.regularizer.pulls[0].towers == ("image",)
    assert started.stepper(batch).added["feature_distill"] == pytest.approx(0.0, abs=1e-6)


def test_base_tensors_are_the_towers_alone(begin: Begin) -> None:
    started, _ = begin(loss={"type": "classifier"}, train={"regularize": ALL[1]})
    base = started.stepper.regularizer.base
    assert isinstance(base, BaseFeatures)
    names = {tensor: name for name, tensor in started.clip.model.named_parameters()}
    held = {names[tensor] for tensor, _ in base._pairs if tensor in names}
    assert "visual.proj" in held
    assert not held & {"logit_scale", "classifier.weight"}


def test_all_stages_are_held_to_the_base(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """P62: not to where a stage began; a run that goes on in its second stage is the straight one to the bit."""
    stages = ({"epochs": 1}, {"epochs": 2, "model": {"image": {"freeze_layers": 1}}})
    settings: dict[str, Any] = {"train": {"regularize": ALL}}
    straight = go(with_stages(write("straight", **settings), *stages))
    path = with_stages(write("stopped", **settings), *stages)
    stop_after(2, path, monkeypatch)
    resumed = go(path)
    assert same(weights(straight.folder), weights(resumed.folder))
    ours, theirs = ([x["regularize"] for x in lines(f.folder, "step")] for f in (resumed, straight))
    assert ours == theirs
    assert ours[0]["l2sp"] == 0.0 < ours[4]["l2sp"]  # the second stage begins with step 5
    assert ours[4]["feature_distill"] > 0.5 * ours[3]["feature_distill"] > 0


def test_a_pull_sits_out_the_stage_in_which_it_holds_nothing(write: Write) -> None:
    """A head first, then everything near the base."""
    still = {"freeze_backbone": True, "projection": "freeze"}
    head = {"epochs": 1, "model": {"image": still}}
    path = with_stages(write(loss={"type": "classifier"}, train={"regularize": ALL[0]}), head, {"epochs": 1})
    steps = lines(go(path).folder, "step")
    assert ["regularize" in step for step in steps] == [False] * 4 + [True] * 4
    with pytest.raises(InputError, match=r"none of them trains here \(only classifier"):
        go(with_stages(write("no", loss={"type": "classifier"}, train={"regularize": ALL[0]}), head, head))
