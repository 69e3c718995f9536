"""The plan of a run in arithmetic, before the first step: what it comes to, what is refused, what is warned of."""

from __future__ import annotations

from dataclasses import dataclass, replace

from clipft.config.forgetting_schema import regularizers
from clipft.config.schema import Config
from clipft.data.captions import RepeatReport
from clipft.errors import InputError
from clipft.model.plan import NEW, Plan
from clipft.train.optim import warmup_steps

# Reports of collapse begin at 5e-5 (recipes for full fine-tuning use 1e-6 to 3e-5: FLYP, WiSE-FT, CLIPood); projections
# were tried up to 1e-2 (ProLIP).
BACKBONE_RATE_LIMIT = 5e-5
ADAPTIVE = ("adamw", "adam")  # whose figures these are: their steps are as long as the rate, sgd's as the gradient too
HEADS_RATE_LIMIT = 1e-2
# Of new parameters, by group: what recipes use, and the limit. LoRA: CLIP-LoRA and 2SFS 2e-4. Adapters: block adapters
# 2.5e-3, CLIP-Adapter 2e-3 and 6e-3. Prompts: CoOp 2e-3, MaPLe 3.5e-3, VPT up to 0.1, all of them under SGD.
NEW_RATE_LIMITS = {"lora": ("1e-5 to 2e-4", 1e-3), "adapter": ("1e-4 to 6e-3", 1e-2), "prompt": ("2e-3 to 0.1", 0.1)}
_HEADS = ("projection", "classifier", "logit_scale", "logit_bias")


@dataclass(frozen=True)
class Arithmetic:
    """What a run comes to.

    Args:
        rows: training rows.
        steps_per_epoch: whole batches in them.
        steps: optimiser steps in all.
        warmup: how many of them warm up.
        batch_size: rows a step.
        micro_batch_size: rows encoded at once.
        positives: how many rows of a batch share a row's caption or class on average, itself included.
        distinct: different captions or classes in the training rows.
    """

    rows: int
    epochs: int
    steps_per_epoch: int
    steps: int
    warmup: int
    batch_size: int
    micro_batch_size: int
    positives: float
    distinct: int

    @property
    def negatives(self) -> float:
        """How many texts of a batch a row is told apart from, on average."""
        return self.batch_size - self.positives


def work_out(config: Config, rows: int, repeats: RepeatReport) -> Arithmetic:
    """The run in numbers.

    Raises:
        InputError: it has no steps, or warms up beyond its end.
    """
    batch = config.train.batch_size
    per_epoch = rows // batch
    if per_epoch == 0:
        raise InputError(
            f"train.batch_size: {batch} is more than the {rows} training rows, so an epoch has no step; write "
            f"at most {rows}"
        )
    if repeats.distinct < 2:
        raise InputError(
            f"data.train: all {rows} rows say the same, so there is nothing to tell apart; training needs at least two "
            f"{repeats.what}"
        )
    steps = per_epoch * config.train.epochs
    warmup = warmup_steps(config.optim.warmup, steps)
    if warmup >= steps:
        raise InputError(
            f"optim.warmup: {warmup} steps, but the run has only {steps} ({per_epoch} an epoch x "
            f"{config.train.epochs}), so its rate would never be reached; write a fraction such as 0.05"
        )
    return Arithmetic(
        rows=rows,
        epochs=config.train.epochs,
        steps_per_epoch=per_epoch,
        steps=steps,
        warmup=warmup,
        batch_size=batch,
        micro_batch_size=config.train.micro_batch_size or batch,
        positives=1 + repeats.in_batch(batch),
        distinct=repeats.distinct,
    )


def one_search(config: Config, rows: int, repeats: RepeatReport) -> Arithmetic:
    """A run that computes its answer: one epoch of one step, whose batch is all there is where there are fewer rows.

    Raises:
        InputError: the rows all say the same.
    """
    once = {"train": {"epochs": 1, "batch_size": min(rows, config.train.batch_size)}, "optim": {"warmup": 0.0}}
    sections = {key: getattr(config, key).model_copy(update=keys) for key, keys in once.items()}
    return replace(work_out(config.model_copy(update=sections), rows, repeats), steps_per_epoch=1, steps=1)


def warnings(config: Config, plan: Plan, arithmetic: Arithmetic, *, loss: str, pretrained: bool) -> list[str]:
    """What is allowed but seldom meant, each in a sentence with its number."""
    found = []
    if loss in ("contrastive", "siglip") and arithmetic.distinct < arithmetic.batch_size:
        found.append(
            f"{arithmetic.distinct} distinct captions in batches of {arithmetic.batch_size}: rows that say the same "
            "count as positives of each other; with so few captions loss.type: zero_shot or classifier may do better"
        )
    if config.optim.name != "adamw" and config.optim.weight_decay > 1e-3:
        found.append(
            f"optim.weight_decay: {config.optim.weight_decay:g} is added to the gradient under {config.optim.name}, "
            "which is much stronger than under adamw; recipes with it use 1e-5 to 5e-4"
        )
    if any(one.type == "l2sp" for one in regularizers(config.train.regularize)) and config.optim.weight_decay:
        found.append(
            f"optim.weight_decay: {config.optim.weight_decay:g} pulls weights to zero while l2sp pulls them to the "
            "base; L2-SP stands in its place: write weight_decay: 0"
        )
    if pretrained and config.optim.name in ADAPTIVE:
        found += _backbone_warnings(plan)
    if pretrained:
        found += _rate_warnings(plan)
    return found


def _backbone_warnings(plan: Plan) -> list[str]:
    found = []
    for tower in ("image", "text"):
        backbone = [p for p in plan.trainable if p.tower == tower and p.group not in (*_HEADS, *NEW)]
        # norms and biases alone bear more: 2SFS 2e-4, CLIPFit 2e-3
        rates = [p.lr for p in backbone if p.lr is not None and len(p.shape) > 1]
        if rates and max(rates) > BACKBONE_RATE_LIMIT:
            found.append(
                f"the {tower} backbone trains at {max(rates):g}; published fine-tuning of pretrained CLIPs uses "
                f"1e-6 to 3e-5, and one epoch above {BACKBONE_RATE_LIMIT:g} can destroy what it knows"
            )
    return found


def _rate_warnings(plan: Plan) -> list[str]:
    found = []
    rates = [p.lr for p in plan.trainable if p.group in _HEADS and p.lr is not None]
    if rates and max(rates) > HEADS_RATE_LIMIT:
        found.append(f"the heads train at {max(rates):g}; published rates for them are 1e-5 to {HEADS_RATE_LIMIT:g}")
    for group, (usual, limit) in NEW_RATE_LIMITS.items():
        rates = [p.lr for p in plan.trainable if p.group == group and p.lr is not None]
        if rates and max(rates) > limit:
            found.append(f"the {group} parameters train at {max(rates):g} (optim.lr_new); published rates are {usual}")
    return found


def scale_in_words(scale: float, start: float, low: float, high: float) -> str | None:
    """A sentence when exp(logit_scale) has come to one of its bounds or left the usual range, else None (P24)."""
    if scale >= high * 0.999 > start:
        return (
            f"logit_scale rose from {start:.3g} to its cap of {high:g}; if the loss is not low, lower "
            "model.logit_scale.lr"
        )
    if scale <= low * 1.001:
        return (
            f"logit_scale has sunk to its floor of {low:g}: the loss sees no difference between pairs; lower the rates"
        )
    if scale < 5:
        return f"logit_scale is {scale:.1f}, far below the usual 10 to 100: the rates are probably too high"
    return None
