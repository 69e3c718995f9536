"""Tells the display and metrics.jsonl of each step of a stage, and names bad images once a run."""

from __future__ import annotations

import math
import resource
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from clipft.model.plan import NEW
from clipft.report.batch_sheet import write_batch_sheet
from clipft.report.train_view import Pulse, TrainView
from clipft.train.arithmetic import scale_in_words
from clipft.train.evaluation import Evaluations
from clipft.train.first_gradients import FirstGradients
from clipft.train.interrupts import Interrupts
from clipft.train.loop import StepFacts
from clipft.train.metrics_log import MetricsLog
from clipft.train.omens import going_wrong, is_better, not_learning
from clipft.train.prepare import Prepared
from clipft.train.start import Started

DATA_BOUND = 0.3  # share of the time spent waiting above which the user is told what to change


@dataclass
class Watch:
    """The loop's watcher.

    Args:
        sheet: where a picture of the run's first batch goes.
        interrupts: asked at each step.
        evaluations: what is measured; None where nothing is.
        said: kinds of warnings that were said, which a run says once.
        named: images that were named, which a run names once.
        peaks: the highest learning rate of each part of the model.
    """

    prepared: Prepared
    started: Started
    view: TrainView
    log: MetricsLog
    sheet: Path
    interrupts: Interrupts
    evaluations: Evaluations | None
    said: set[str]
    named: set[str]
    peaks: dict[str, float] = field(init=False)
    _start_scale: float = field(init=False)
    _first_gradients: FirstGradients = field(init=False)

    def __post_init__(self) -> None:
        self.peaks = peak_rates(self.prepared)
        self._start_scale = self.started.clip.scale
        started = self.started
        self._first_gradients = FirstGradients(started.clip.model, self.prepared.plan, started.precision.name)

    def epoch_begins(self, epoch: int) -> None:
        """The display counts from here."""
        self.view.epoch(epoch)

    def step(self, facts: StepFacts) -> None:
        """Log a step and show it; draw the run's first batch (P11).

        Raises:
            KeyboardInterrupt: the run was to stop, and what noticed it was lost.
        """
        self.interrupts.check()
        if facts.step == 1:
            cfg = self.started.clip.preprocess_cfg
            write_batch_sheet(self.sheet, facts.batch.images, facts.batch.captions, mean=cfg["mean"], std=cfg["std"])
        for fault in facts.batch.faults:
            if fault.path not in self.named:
                self.named.add(fault.path)
                self.view.warn(f"{fault}; another image takes its place")
        gradients = self._first_gradients.after_step(skipped=facts.result.skipped)
        self._once(f"gradients of stage {self.prepared.stage.number}", gradients)
        rates = {name: self.started.schedule.rate(peak, facts.step - 1) for name, peak in self.peaks.items()}
        scale = self._scale()
        memory, norm = peak_memory(self.started.device), facts.result.gradient_norm
        chance = self.started.objective.chance(len(facts.batch.captions))
        added: dict[str, Any] = {"regularize": dict(facts.result.added)} if facts.result.added else {}
        self.log.write(
            "step",
            stage=self.prepared.stage.number,
            epoch=facts.epoch,
            step=facts.step,
            loss=facts.result.loss,
            **added,
            chance=chance,
            lr=rates,
            logit_scale=scale,
            gradient_norm=norm if math.isfinite(norm) else None,  # JSON knows no infinity; `skipped` tells why
            skipped=facts.result.skipped,
            pairs_per_s=len(facts.batch.captions) / facts.seconds,
            wait_s=facts.waited,
            memory_bytes=memory,
        )
        pulls = sum(facts.result.added.values()) if facts.result.added else None
        whole_process = self.started.device.type != "cuda"
        pulse = Pulse(facts.result.loss, chance, rates, scale, memory, pulls, whole_process)
        self.view.step(pulse, rows=len(facts.batch.captions), seconds=facts.seconds, waited=facts.waited)

    def epoch_ends(self, epoch: int, losses: list[float]) -> None:
        """Say what an epoch showed to be wrong, each kind once."""
        chance = self.started.objective.chance(self.prepared.arithmetic.batch_size)
        base, now = self._measured()
        self._once("chance", not_learning(losses, chance, better=is_better(base, now)))
        clip = self.started.clip
        if not (clip.random or clip.image.drawn or clip.text.drawn):  # else it may begin worse than the base
            self._once("wrong", going_wrong(losses, chance, base, now, self.prepared.config, self.peaks))
        bounds = self.prepared.config.model.logit_scale
        scale = self._scale()
        if scale is not None and self.started.clip.logit_scale.requires_grad:
            self._once("scale", scale_in_words(scale, self._start_scale, bounds.min, bounds.max))
        if self.view.wait_share > DATA_BOUND:
            self._once(
                "wait",
                f"{self.view.wait_share:.0%} of the time goes into waiting for images: raise data.workers "
                f"(now {self.prepared.config.data.workers}), or store smaller images",
            )

    def _measured(self) -> tuple[dict[str, float], dict[str, float]]:
        """The base's figures, less its loss where this stage may have another one, and the newest ones."""
        if self.evaluations is None:
            return {}, {}
        comparable = self.prepared.stage.number == 0
        base = {name: value for name, value in self.evaluations.base.items() if comparable or name != "loss"}
        return base, self.evaluations.latest

    def _scale(self) -> float | None:
        return self.started.clip.scale if self.prepared.loss != "classifier" else None

    def _once(self, kind: str, sentence: str | None) -> None:
        if sentence is not None and kind not in self.said:
            self.said.add(kind)
            self.view.warn(sentence)


def peak_rates(prepared: Prepared) -> dict[str, float]:
    """The highest peak rate of each part that trains: image, text (their backbones), new parameters, heads."""
    peaks = dict.fromkeys(("image", "text", "new", "heads"), 0.0)
    for parameter in prepared.plan.trainable:
        heads = parameter.group in ("projection", "classifier", "logit_scale", "logit_bias")
        part = "new" if parameter.group in NEW else "heads" if heads else parameter.tower
        assert parameter.lr is not None  # what trains has a rate
        peaks[part] = max(peaks[part], parameter.lr)
    return {part: peak for part, peak in peaks.items() if peak}


def peak_memory(device: torch.device) -> int:
    """Bytes used at most: by the device's allocator on a GPU, else by the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes on macOS, kilobytes on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
