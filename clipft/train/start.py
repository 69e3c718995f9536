"""From a prepared run to one that can step: weights, device, precision, head, objective, optimiser."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from clipft.config.forgetting_schema import regularizers
from clipft.data.captions import all_texts, class_prompts
from clipft.errors import ClipftError, InputError
from clipft.evaluate.zeroshot import class_embeddings
from clipft.model.build import build
from clipft.model.classifier import Classifier
from clipft.model.clip_model import ClipModel
from clipft.model.standstill import apply_plan
from clipft.train.allocator import keep_freed_memory
from clipft.train.average import Average
from clipft.train.base import Base, keep_base
from clipft.train.batch_statistics import moving_batchnorms
from clipft.train.loss_section import class_weights, classifier_for
from clipft.train.losses import Classify, Contrastive, Objective, Siglip, ZeroShot
from clipft.train.network import Network
from clipft.train.optim import Schedule, build_optimizer, carry_over
from clipft.train.precision import Precision, choose_device, choose_precision
from clipft.train.prepare import Prepared
from clipft.train.prompting import know_classes
from clipft.train.pulls import Regularizer, regularizer
from clipft.train.step import Stepper


@dataclass(frozen=True)
class Started:
    """A run that can step.

    Args:
        clip: the base with its weights, and a classifier where the loss has one.
        stepper: takes a step.
        schedule: the rate at each step.
        base: what of the base `train.regularize` needs; None without it.
    """

    clip: ClipModel
    device: torch.device
    precision: Precision
    stepper: Stepper
    schedule: Schedule
    base: Base | None

    @property
    def objective(self) -> Objective:
        """The loss."""
        return self.stepper.objective


def start(prepared: Prepared) -> Started:
    """Load the weights and settle everything that the loop needs."""
    config = prepared.config
    device = choose_device(config.train.device)
    if device.type == "cpu":
        keep_freed_memory()
    precision = choose_precision(config.train.precision, device)
    clip = build(prepared.model, config.run.seed, classes=prepared.classes)
    for key, rows, templates in prepared.all_rows():
        know_classes(clip.tokenizer, rows, key, templates)
    clip.model.to(device)
    scaler = torch.amp.GradScaler(device.type, enabled=precision.name == "fp16")
    base = keep_base(clip, prepared.all_plans) if regularizers(config.train.regularize) else None
    return _settle(prepared, clip, precision, scaler, base)


def next_stage(prepared: Prepared, before: Started) -> Started:
    """The same model under the next stage's plan; the optimiser's state stays for what stays trainable.

    Under `train.ema` a stage begins with the average that the one before it ended with, as a run from its checkpoint.
    """
    before.stepper.average.adopt()
    started = _settle(prepared, before.clip, before.precision, before.stepper.scaler, before.base)
    if not prepared.stage.fresh_optimizer:
        carry_over(started.stepper.optimizer, before.stepper.optimizer)
    return started


def _settle(
    prepared: Prepared, clip: ClipModel, precision: Precision, scaler: torch.amp.GradScaler, base: Base | None
) -> Started:
    """What a stage needs beside its model: plan applied, loss, optimiser, schedule."""
    config, device = prepared.config, clip.logit_scale.device
    objective = _objective(prepared, clip, device, precision)
    apply_plan(clip.model, prepared.plan)
    if config.train.micro_batch_size is not None:
        _refuse_moving_batchnorm(prepared, clip)
    network = Network(
        clip, prepared.plan, precision, pooled=config.loss.features == "pooled", needs_text=objective.needs_text
    )
    _check_finite(network, clip, all_texts(prepared.splits.train, config.data.templates)[0])
    scale = config.model.logit_scale
    stepper = Stepper(
        network,
        objective,
        build_optimizer(clip.model, prepared.plan, config.optim),
        scaler,
        config.optim.clip_norm,
        config.train.micro_batch_size,
        (scale.min, scale.max),
        prepared.splits.train.images.__getitem__,
        Regularizer() if base is None else regularizer(prepared.pulls, network, base),
        _average(prepared, clip),
    )
    sums = prepared.arithmetic
    schedule = Schedule(config.optim.schedule, sums.steps, sums.warmup, config.optim.min_lr, prepared.stage.first_step)
    torch.manual_seed(config.run.seed)  # what dropout draws from; a stage draws as a run that begins with it
    return Started(clip, device, precision, stepper, schedule, base)


def _average(prepared: Prepared, clip: ClipModel) -> Average:
    ema = prepared.config.train.ema
    if ema is None or prepared.searches:  # what is computed in one go has no past to average
        return Average()
    return Average({p.name: clip.model.get_parameter(p.name) for p in prepared.plan.trainable}, ema.decay)


def _check_finite(network: Network, clip: ClipModel, text: str) -> None:
    """Refuse a tower that answers a black picture or the text with NaN or infinity, before any training (P27)."""
    size = clip.preprocess_cfg["size"]
    height, width = (size, size) if isinstance(size, int) else size
    with torch.no_grad():
        features = network.features(torch.zeros(1, 3, height, width), [text])
    for tower, feature in (("image", features.image), ("text", features.text)):
        if feature is not None and not bool(feature.isfinite().all()):
            name = network.precision.name
            advice = "the weights are damaged" if name == "fp32" else "set train.precision: fp32"
            raise ClipftError(
                f"the {tower} tower of {clip.base} answers a plain {'picture' if tower == 'image' else 'text'} with "
                f"numbers that are not finite in {name}; {advice}"
            )


def _objective(prepared: Prepared, clip: ClipModel, device: torch.device, precision: Precision) -> Objective:
    model = clip.model
    if prepared.loss == "contrastive":
        return Contrastive(clip.logit_scale)
    if prepared.loss == "siglip":
        return Siglip(clip.logit_scale, model.get_parameter("logit_bias"))
    loss = prepared.config.loss
    weights = class_weights(loss, prepared.splits.train)
    weights = None if weights is None else weights.to(device)
    if prepared.loss == "zero_shot":
        return _zero_shot(prepared, clip, device, weights)
    if isinstance(trained := getattr(model, "classifier", None), Classifier):  # of the stage before
        return Classify(trained, loss.label_smoothing, weights)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(prepared.config.run.seed)
        head = classifier_for(loss, prepared.meta, len(prepared.classes), device="cpu")
    if loss.init == "prompts":
        templates = prepared.config.data.templates
        with nullcontext() if prepared.stage.number else clip.as_base():  # what is drawn would say nothing
            prompts = class_embeddings(
                clip, prepared.classes, templates, device=device, autocast=lambda: precision.autocast(device)
            )
        head.start_from(prompts, clip.scale)
    model.classifier = head.to(device)
    return Classify(model.classifier, loss.label_smoothing, weights)


def _zero_shot(prepared: Prepared, clip: ClipModel, device: torch.device, weights: Tensor | None) -> ZeroShot:
    """Over the classes that train: novel ones are there to be measured alone."""
    rows, loss = prepared.splits.train, prepared.config.loss
    trained = [name for name in rows.classes if name not in rows.novel]
    columns = torch.tensor([trained.index(name) if name in trained else -1 for name in rows.classes], device=device)
    texts = tuple(chain.from_iterable(class_prompts(trained, prepared.config.data.templates)))
    weights = None if weights is None else weights[columns >= 0]
    return ZeroShot(clip.logit_scale, texts, len(trained), columns, loss.label_smoothing, weights)


def _refuse_moving_batchnorm(prepared: Prepared, clip: ClipModel) -> None:
    moving = moving_batchnorms(clip.model, prepared.plan)
    if moving:
        raise InputError(
            f"train.micro_batch_size: {len(moving)} BatchNorm layers train ({moving[0]} and others), and their "
            "statistics over pieces are not those of the batch; leave it out, or freeze these layers"
        )
