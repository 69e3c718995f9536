"""What a run refuses or warns of before it costs anything."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file
from train_runs import Write, go, said, stop_after, swapped, view, with_stages

from clipft.config.load import load_config
from clipft.config.schema import Config
from clipft.errors import ClipftError, InputError
from clipft.model.saved import load_saved
from clipft.train.arithmetic import scale_in_words, warnings
from clipft.train.folder import resolved
from clipft.train.plan_report import report_plan, report_plans
from clipft.train.prepare import prepare, prepare_stages
from clipft.train.watch import peak_rates


def test_a_metric_that_is_not_measured_is_refused_before_training(write: Write) -> None:
    """P59."""
    with pytest.raises(InputError, match=r"evaluate\.best: 'accuracy' is not measured.*zero_shot_top1"):
        go(write(evaluate={"best": "accuracy"}))
    with pytest.raises(InputError, match=r"under a classifier loss; write evaluate\.best: classifier_top1; this run"):
        go(write(loss={"type": "classifier"}, evaluate={"best": "zero_shot_top1"}))
    with pytest.raises(InputError, match=r"'keep\.zero_shot_top1' is not measured: evaluate\.keep is not written"):
        go(write(evaluate={"best": "keep.zero_shot_top1"}))


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"train": {"batch_size": 64}}, r"train\.batch_size: 64 is more than the 32 training rows"),
        ({"optim": {"warmup": 500}}, r"optim\.warmup: 500 steps, but the run has only 16"),
        ({"loss": {"type": "siglip"}}, r"loss\.type: siglip needs a model with a logit_bias"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(write: Write, sections: dict[str, Any], message: str) -> None:
    """P19, P23, P30."""
    with pytest.raises(InputError, match=message):
        go(write(**sections))


NEW_IMAGE = {"image": {"projection": "reset"}}
NEW_TEXT = {"text": {"projection": "reset"}}


@pytest.mark.parametrize(
    ("model", "which"), [({"embed_dim": 24}, "image and text"), (NEW_IMAGE, "image"), (NEW_TEXT, "text")]
)
def test_a_classifier_does_not_start_from_prompts_beside_a_new_projection(
    write: Write, model: dict[str, Any], which: str
) -> None:
    """init: prompts is the default; a plan tells it already, and random is what to write."""
    path = write(model=model, loss={"type": "classifier"})
    message = f"loss.init: prompts .* the projection of {which} is drawn at random .* write loss.init: random"
    for ask in (prepare, report_plan, report_plans):
        with pytest.raises(InputError, match=message):
            ask(load_config(path).config)
        ask(load_config(path, ["loss.init=random"]).config)


def test_a_classifier_starts_from_prompts_once_a_stage_has_trained_the_projections(write: Write) -> None:
    loss = {"loss": {"type": "classifier"}}
    path = with_stages(write(model={"embed_dim": 24}), {"epochs": 1}, {"epochs": 1, **loss})
    assert [stage.loss for stage in prepare_stages(load_config(path).config)] == ["contrastive", "classifier"]
    assert len(report_plans(load_config(path).config)) == 2


def test_contrastive_with_one_row_is_refused(write: Write) -> None:
    """P19: also where `auto` chose the loss."""
    with pytest.raises(InputError, match=r"train\.batch_size: .*at least 2"):
        go(write(train={"batch_size": 1}))


def test_more_than_one_process_is_refused(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """P33: until it is built, with a sentence."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="WORLD_SIZE is 2"):
        go(write())


def test_a_rate_far_above_the_methods_is_warned_of(write: Write, tmp_path: Path) -> None:
    """P29: by number, where the weights are pretrained."""
    prepared = prepare(load_config(write(optim={"lr": 5e-3, "lr_heads": 0.1})).config)
    warned = warnings(prepared.config, prepared.plan, prepared.arithmetic, loss="contrastive", pretrained=True)
    assert any("image backbone trains at 0.005" in w for w in warned)
    assert any("heads train at 0.1" in w for w in warned)
    assert any("4 distinct captions in batches of 8" in w for w in warned)  # P21


@pytest.mark.parametrize(("name", "told"), [("adamw", True), ("adam", True), ("sgd", False)])
def test_the_backbones_limit_is_one_of_adaptive_optimisers(write: Write, name: str, told: bool) -> None:
    """P29: SGD multiplies its rate by the gradient, so that the published rates of AdamW say nothing about it."""
    prepared = prepare(load_config(write(optim={"name": name, "lr": 5e-3, "weight_decay": 0.0})).config)
    warned = warnings(prepared.config, prepared.plan, prepared.arithmetic, loss="contrastive", pretrained=True)
    assert any("backbone trains at 0.005" in warning for warning in warned) is told


@pytest.mark.parametrize(
    ("group", "usual", "much"), [("lora", 2e-4, 2e-3), ("adapter", 2.5e-3, 2e-2), ("prompt", 0.1, 0.2)]
)
def test_new_parameters_have_rate_limits_of_their_own(write: Write, group: str, usual: float, much: float) -> None:
    """P29, P32: what recipes use for LoRA, adapters and prompts is far above what a backbone bears."""
    prepared = prepare(load_config(write()).config)
    new = next(p for p in prepared.plan.trainable if p.name == "visual.conv1.weight")
    for rate, told in ((usual, []), (much, [f"the {group} parameters train at {much:g}"])):
        plan = replace(prepared.plan, parameters=(replace(new, group=group, lr=rate),))
        found = warnings(prepared.config, plan, prepared.arithmetic, loss="contrastive", pretrained=True)
        assert [warning.split(" (optim.lr_new)")[0] for warning in found if "train at" in warning] == told
        assert peak_rates(replace(prepared, plan=plan)) == {"new": rate}


def test_l2sp_beside_weight_decay_is_warned_of(write: Write) -> None:
    """P31: two pulls to two places."""
    pull = {"regularize": {"type": "l2sp", "weight": 0.1}}
    for decay, told in ((0.1, True), (0.0, False)):
        prepared = prepare(load_config(write(train=pull, optim={"weight_decay": decay})).config)
        found = warnings(prepared.config, prepared.plan, prepared.arithmetic, loss="contrastive", pretrained=True)
        assert any("l2sp pulls them to the base" in warning for warning in found) is told


def test_a_loss_at_chance_is_said(write: Write) -> None:
    """P18: with its causes."""
    shown = view()
    go(write(optim={"lr": 1e-12}, model={"logit_scale": {"init": 1.0}}, train={"epochs": 1}), shown=shown)
    assert "within 2 % of chance" in said(shown)


def test_a_warning_is_told_once_a_run(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not once a stage, nor after a resume; one of some stages names them."""
    rates = [{"epochs": 1}, {"epochs": 1, "optim": {"weight_decay": 0.2}}, {"epochs": 1}]
    path = with_stages(write(optim={"name": "adam", "lr": 1e-3, "weight_decay": 0.0}), *rates)
    first, second = view(), view()
    stop_after(1, path, monkeypatch, first)
    go(path, shown=second)
    words = " ".join(said(first).split())
    assert words.count("4 distinct captions in batches of 8") == 1
    assert "stage 2: optim.weight_decay: 0.2 is added to the gradient" in words
    assert "1 of 3: 1 epoch, " in words
    assert "distinct captions" not in said(second)


def test_a_run_that_is_worse_than_its_base_says_what_to_try(write: Write, tmp_path: Path) -> None:
    """A smaller rate, fewer blocks, or a mix of both, which comes before what uses the run, in place of its export."""
    good = go(write("good")).folder
    lies = swapped(tmp_path / "colours")
    shown = view()
    data, model = {"train": {"folder": str(lies)}}, {"pretrained": str(good)}
    run = go(write("worse", model=model, data=data, train={"epochs": 2}), shown=shown).folder
    words = " ".join(said(shown).split())
    assert "after it. Try smaller rates, or strategy: heads, which trains less, or a mix of both, as clipft" in words
    commands = [line.split()[1] for line in said(shown).splitlines() if line.startswith("   clipft ")]
    assert commands == ["interpolate", "evaluate", "predict"]
    assert f"clipft interpolate {run}" in words

    shown = view()  # between a base and prompt vectors lies nothing
    model |= {"image": {"freeze_backbone": False}, "text": {"prompt": {"length": 2}, "freeze_backbone": False}}
    go(write("worse", model=model, data=data, train={"epochs": 2}), shown=shown)
    commands = [line.split()[1] for line in said(shown).splitlines() if line.startswith("   clipft ")]
    assert "the base was better" in said(shown)
    assert commands == ["evaluate", "predict", "export"]


@pytest.mark.parametrize("place", ["file.txt", "file.txt/run"])
def test_a_run_that_can_be_no_folder_is_refused_at_once(write: Write, tmp_path: Path, place: str) -> None:
    (tmp_path / "file.txt").touch()
    with pytest.raises(InputError, match=r"run.dir: .*file.txt is a file"):
        go(write(), f"run.dir={tmp_path / place}")


def test_a_tag_stays_a_tag_where_a_folder_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "openai").mkdir()
    config = Config.model_validate(
        {"model": {"name": "ViT-B-32", "pretrained": "openai"}, "data": {"train": {"builtin": "hands"}}}
    )
    assert resolved(config).model.pretrained == "openai"


def test_a_tower_that_is_not_finite_is_named_before_anything_is_trained(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P27."""
    first = go(write("first", train={"epochs": 1}))
    weights_file = tmp_path / "damaged.safetensors"
    clip = load_saved(first.folder).clip
    state = {name: t.clone() for name, t in clip.model.state_dict().items()}
    state["visual.ln_post.bias"][0] = float("nan")
    save_file(state, weights_file)
    with pytest.raises(ClipftError, match=r"the image tower of .* not finite in fp32"):
        go(write("second", model={"pretrained": str(weights_file)}))


def test_the_scale_in_words() -> None:
    """P24: said when it leaves a sane range, not where a trained CLIP has been all along."""
    assert scale_in_words(100.0, 100.0, 1.0, 100.0) is None
    assert "rose from 14.3 to its cap" in (scale_in_words(100.0, 14.3, 1.0, 100.0) or "")
    assert "sunk to its floor" in (scale_in_words(1.0, 14.3, 1.0, 100.0) or "")
    assert "far below the usual" in (scale_in_words(3.0, 14.3, 1.0, 100.0) or "")
    assert scale_in_words(20.0, 14.3, 1.0, 100.0) is None


def test_unknown_class_weights_are_refused_before_any_weight(write: Write) -> None:
    with pytest.raises(InputError, match=r"loss\.class_weights: 'rde' is not a class"):
        prepare(load_config(write(loss={"type": "classifier", "class_weights": {"rde": 2.0}})).config)
