"""What an epoch shows to be wrong: no way, the wrong way, and neither where all is well."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from tiny_files import write_native
from train_runs import Write, go, said, swapped, view

from clipft.config.load import load_config
from clipft.config.schema import Config
from clipft.train.arithmetic import warnings
from clipft.train.omens import going_wrong, not_learning, usual_rates
from clipft.train.prepare import prepare

CHANCE = math.log(10)


def config(**sections: object) -> Config:
    values = {"model": {"name": "V"}, "data": {"train": {"builtin": "hands"}}} | sections
    return Config.model_validate(values)


@pytest.mark.parametrize(
    ("losses", "better", "told"),
    [
        ([2.31] * 9, False, True),
        ([2.31] * 9, True, False),  # validation got better: it passes through chance
        ([2.60, 2.30, 2.02], False, False),  # falls through it
        ([3.10] * 9, False, False),
    ],
)
def test_only_a_loss_that_stays_at_chance_says_that_nothing_was_learnt(
    losses: list[float], better: bool, told: bool
) -> None:
    """P18."""
    assert (not_learning(losses, CHANCE, better=better) is not None) is told


BASE = {"zero_shot_top1": 0.317, "loss": 4.036}


@pytest.mark.parametrize(
    ("losses", "base", "now", "told"),
    [
        ([5.387] * 9, BASE, {"zero_shot_top1": 0.1, "loss": 6.252}, ["0.317 to 0.100", "5.387, well above"]),
        ([2.1] * 9, BASE, {"zero_shot_top1": 0.1, "loss": 2.252}, ["0.317 to 0.100"]),
        ([7.2] * 9, {}, {}, ["7.200, well above chance (3.466)"]),
        ([5.2, 4.8, 4.4], {}, {}, []),  # where nothing says what the base's was, one that falls is no sign
        ([4.3, 3.0, 2.6], BASE, {"zero_shot_top1": 0.3, "loss": 3.9}, []),  # as a base is before it learns
        ([4.4] * 9, BASE, {"zero_shot_top1": 0.33, "loss": 3.9}, []),
        ([4.9] * 9, BASE, {"zero_shot_top1": 0.26, "loss": 4.9}, []),
        ([2.0] * 9, {"zero_shot_top1": 0.06}, {"zero_shot_top1": 0.03}, []),  # a row or two
    ],
)
def test_an_epoch_that_leaves_the_model_much_worse_is_told(
    losses: list[float], base: dict[str, float], now: dict[str, float], told: list[str]
) -> None:
    """P29."""
    words = going_wrong(losses, math.log(32), base, now, config(), {"image": 1e-2})
    assert (words is not None) is bool(told)
    assert all(part in str(words) for part in told)


def test_the_rate_stands_beside_what_is_usual() -> None:
    sick: tuple[list[float], float, dict[str, float], dict[str, float]] = ([9.0], 2.0, {}, {})
    written = config(strategy="last_layers", optim={"lr": 1e-2, "lr_heads": 1e-4})
    assert usual_rates(written) == {"optim.lr": 2e-5, "optim.lr_heads": 1e-4}
    assert "(here optim.lr: 0.01, the strategy's 2e-05)" in str(going_wrong(*sick, written, {}))
    own = config(optim={"lr": 2e-3, "name": "sgd"})  # as a recipe may say: no strategy, nothing to hold it against
    assert "(here new 0.002)" in str(going_wrong(*sick, own, {"new": 2e-3}))
    assert usual_rates(config(strategy="lora")).keys() == {"optim.lr_new"}
    assert "(here image 1e-05, heads 0.0001)" in str(going_wrong(*sick, config(), {"image": 1e-5, "heads": 1e-4}))
    assert usual_rates(config(strategy="differential_lr"))["optim.lr_heads"] == pytest.approx(1e-4)


def test_rates_far_above_the_strategys_are_warned_of_before_the_first_step(write: Write, tmp_path: Path) -> None:
    """P29: each tower's."""
    model = {"name": f"local-dir:{write_native(tmp_path / 'base')}"}
    path = write(model=model, optim={"lr": 1e-2})
    prepared = prepare(load_config(path, ["strategy={name: last_layers, n: 1}"]).config)
    found = warnings(prepared.config, prepared.plan, prepared.arithmetic, loss="contrastive", pretrained=True)
    assert sum("backbone trains at 0.01;" in warning for warning in found) == 2


def test_a_run_that_goes_wrong_is_told_once(write: Write, tmp_path: Path) -> None:
    """P29: after the row that shows it, with what to do; here the classes' pictures are swapped."""
    good = go(write("good")).folder
    lies = swapped(tmp_path / "colours")
    shown = view()
    model, data = {"pretrained": str(good)}, {"train": {"folder": str(lies)}}
    go(write("worse", model=model, data=data, train={"epochs": 3}), shown=shown)
    words = " ".join(said(shown).split())
    assert words.count("the usual cause is a rate far too high (here image 0.001, text 0.001, heads 0.001)") == 1
    assert "zero-shot top-1 fell from the base's" in words
    assert words.index("Stop with Ctrl-C and start anew") > words.index("epoch 1/3")
