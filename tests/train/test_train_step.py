"""One step: its gradient, its refusals, its clamp."""

import math
from typing import Any

import pytest
import torch
from train_runs import Begin, gradients

from clipft.errors import ClipftError, InputError
from clipft.train.losses import Features
from clipft.train.step import MAX_SKIPPED


@pytest.mark.parametrize("cfg", [{}, {"init_logit_bias": -5.0}])
@pytest.mark.parametrize("frozen", [None, {"freeze_backbone": True}])
def test_pieces_give_the_gradient_of_the_whole(
    begin: Begin, cfg: dict[str, Any], frozen: dict[str, Any] | None
) -> None:
    """Softmax and sigmoid loss, scale and bias too."""
    model = {"text": frozen or {}}
    expected = gradients(*begin(model=model, cfg=cfg))
    found = gradients(*begin(model=model, cfg=cfg, train={"micro_batch_size": 3}))
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_pieces_replay_their_dropout(begin: Begin) -> None:
    """Against one graph over the same pieces, drawn in the same order from the same seed."""
    model = {"image": {"dropout": 0.3}, "text": {"dropout": 0.3}}
    started, batch = begin(model=model, train={"micro_batch_size": 3})
    found = gradients(started, batch)
    torch.manual_seed(3)
    started.stepper.optimizer.zero_grad(set_to_none=True)
    network, pieces = started.stepper.network, [slice(0, 3), slice(3, 6), slice(6, 8)]
    image = torch.cat([network.image_features(batch.images[piece]) for piece in pieces])
    text = torch.cat([network.text_features(batch.captions[piece]) for piece in pieces])
    whole = Features(image, text)
    started.objective(whole, started.stepper._targets(batch)).backward()
    for name, parameter in started.clip.model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_a_classifiers_pieces_too(begin: Begin) -> None:
    loss = {"type": "classifier"}
    expected, found = (
        gradients(*begin(loss=loss, train={"micro_batch_size": micro} if micro else {})) for micro in (None, 3)
    )
    assert {"classifier.weight", "classifier.bias", "visual.proj"} <= expected.keys() == found.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("start_at", [0.5, 200.0])
def test_the_scale_is_held_between_its_bounds(begin: Begin, start_at: float) -> None:
    """P24: clamped after the step, above and below, and never decayed."""
    started, batch = begin(optim={"lr": 1e-3})
    scale = started.clip.model.logit_scale
    with torch.no_grad():
        scale.fill_(math.log(start_at))
    started.stepper(batch)
    assert float(scale.detach().exp()) == pytest.approx(1.0 if start_at < 1 else 100.0)
    group = next(g for g in started.stepper.optimizer.param_groups if "logit_scale" in g["names"])
    assert group["weight_decay"] == 0.0


def test_a_loss_that_is_not_finite_ends_the_run_before_the_optimiser(begin: Begin) -> None:
    """P27: with the rates, the scale and the batch's files; no weight has moved."""
    started, batch = begin()
    before = {n: p.clone() for n, p in started.clip.model.named_parameters()}
    batch.images[0, 0, 0, 0] = math.nan
    with pytest.raises(ClipftError, match=r"loss became nan.*logit_scale.*\.png"):
        started.stepper(batch)
    assert all(torch.equal(p, before[n]) for n, p in started.clip.model.named_parameters())


def test_an_infinite_gradient_ends_the_run_before_the_optimiser(begin: Begin) -> None:
    """P27: under a finite loss."""
    started, batch = begin()
    before = {n: p.clone() for n, p in started.clip.model.named_parameters()}
    started.clip.model.visual.proj.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(ClipftError, match=r"gradient's norm became (inf|nan) under a loss of"):
        started.stepper(batch)
    assert all(torch.equal(p, before[n]) for n, p in started.clip.model.named_parameters())


def test_fp16_steps_that_overflow_are_skipped_counted_and_not_for_ever(begin: Begin) -> None:
    """P27, P28: the scaler works on a CPU too, which is where this is tried."""
    started, batch = begin()
    stepper = started.stepper
    stepper.scaler = torch.amp.GradScaler("cpu", enabled=True)
    assert not stepper(batch).skipped
    before = {n: p.clone() for n, p in started.clip.model.named_parameters()}
    started.clip.model.visual.proj.register_hook(lambda gradient: gradient * math.inf)
    assert all(stepper(batch).skipped for _ in range(MAX_SKIPPED - 1))
    assert all(torch.equal(p, before[n]) for n, p in started.clip.model.named_parameters())
    with pytest.raises(ClipftError, match=r"overflowed in 20 steps in a row"):
        stepper(batch)


def test_a_trainable_parameter_without_a_gradient_is_named(begin: Begin) -> None:
    """P17: after the backward pass, before the optimiser."""
    started, batch = begin()
    stray = torch.nn.Parameter(torch.zeros(3))
    started.stepper.optimizer.add_param_group({"params": [stray], "names": ["stray.weight"], "peak": 1e-3})
    with pytest.raises(ClipftError, match=r"stray\.weight"):
        started.stepper(batch)


def test_trainable_weights_are_float32_and_fp16_on_a_cpu_becomes_fp32(begin: Begin) -> None:
    """P28: one visible line says so."""
    started, batch = begin(train={"precision": "fp16"})
    assert started.precision.name == "fp32"
    assert "fp16" in started.precision.notes[0]
    assert all(p.dtype == torch.float32 for p in started.clip.model.parameters())
    assert math.isfinite(started.stepper(batch).loss)


def test_autocast_gives_float32_gradients(begin: Begin) -> None:
    """P28: bf16 computes, float32 is stored."""
    started, batch = begin(train={"precision": "bf16"})
    assert all(g.dtype == torch.float32 for g in gradients(started, batch).values())


def test_a_frozen_text_tower_gives_the_features_it_would_give_each_time(begin: Begin) -> None:
    """P55: encoded once, equal to a fresh forward pass."""
    started, batch = begin(model={"text": {"freeze_backbone": True}})
    network = started.stepper.network
    network.prepare_texts(batch.captions)
    ours = network.features(batch.images, batch.captions).text
    with torch.no_grad():
        theirs = started.clip.model.encode_text(started.clip.tokenizer(batch.captions), normalize=True)
    assert ours is not None
    torch.testing.assert_close(ours.detach(), theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("frozen", "refused"), [(False, True), (True, False)])
def test_pieces_over_training_batchnorm_are_refused(begin: Begin, frozen: bool, refused: bool) -> None:
    vision = {"timm_model_name": "test_efficientnet", "timm_pool": "avg", "timm_proj": "linear", "image_size": 32}
    settings = {"cfg": {"vision_cfg": vision}, "model": {"image": {"freeze_backbone": frozen}}}
    if not refused:
        begin(train={"micro_batch_size": 4}, **settings)
        return
    with pytest.raises(InputError, match=r"train\.micro_batch_size: .* BatchNorm"):
        begin(train={"micro_batch_size": 4}, **settings)
