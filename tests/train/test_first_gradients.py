"""New parameters get gradients in the first steps, or a run says which do not (P49)."""

from __future__ import annotations

import pytest
import torch
from train_runs import Begin, Write, go, said, view

from clipft.train.first_gradients import FirstGradients
from clipft.train.start import Started

KINDS = {
    "lora": {"lora": {"rank": 2}},
    "dora": {"lora": {"rank": 2, "dora": True}},
    "adapter": {"adapter": {"bottleneck": 4}},
    "feature_adapter": {"feature_adapter": {}},
    "prompt": {"prompt": {"length": 2, "depth": 2}},
}
START_FROM_ZERO = {
    "lora": (".a",),
    "dora": (".a",),
    "adapter": (".down.weight", ".down.bias"),
    "feature_adapter": (),
    "prompt": (),
}


def watched(started: Started) -> FirstGradients:
    return FirstGradients(started.clip.model, started.stepper.network.plan, started.precision.name)


@pytest.mark.parametrize("kind", KINDS)
def test_every_new_parameter_gets_a_gradient_in_two_steps(begin: Begin, kind: str) -> None:
    """P49: what starts from zero lets none through to its partner in the first step."""
    started, batch = begin(model={"image": KINDS[kind], "text": KINDS[kind]})
    watch, clip = watched(started), started.clip
    new = {*clip.image.added, *clip.text.added}
    assert set(watch.waiting) == new != set()
    started.stepper(batch)
    assert watch.after_step(skipped=False) is None
    ends = START_FROM_ZERO[kind]
    assert set(watch.waiting) == {name for name in new if ends and name.endswith(ends)}
    started.stepper(batch)
    assert watch.after_step(skipped=False) is None
    assert watch.waiting == ()


def test_low_rank_matrices_that_are_both_zero_are_named_once(begin: Begin) -> None:
    started, batch = begin(model={"image": {"lora": {"rank": 2, "targets": ["q", "v"]}}})
    dead = "visual.transformer.resblocks.1.attn.lora.v"
    with torch.no_grad():
        started.clip.model.get_parameter(f"{dead}.a").zero_()
    watch, told = watched(started), []
    for _ in range(3):
        started.stepper(batch)
        told += [watch.after_step(skipped=True), watch.after_step(skipped=False)]  # a skipped step does not count
    assert [bool(sentence) for sentence in told] == [False, False, False, True, False, False]
    message = f"2 of 8 new parameters got no gradient but zeros in the first 2 steps, so they do not train: {dead}.a"
    assert told[3].startswith(f"{message}, {dead}.b; ")


def test_a_run_says_what_does_not_train(write: Write) -> None:
    """At a rate of next to nothing B stays zero, so A gets no gradient ever."""
    model = {"image": {"lora": {"rank": 2, "targets": ["v"]}}}
    for rate, times in ((1e-3, 0), (1e-60, 1)):
        shown = view()
        go(write(f"rate-{rate}", model=model, optim={"lr_new": rate}, train={"epochs": 2}), shown=shown)
        words = " ".join(said(shown).split())
        assert words.count("2 of 4 new parameters got no gradient but zeros in the first 2 steps") == times
