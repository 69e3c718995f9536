"""Several plans in one run: progressive unfreezing, a head first, a loss that changes."""

import json
import sys
from collections.abc import Callable

import pytest
import torch
import yaml
from safetensors.torch import load_file
from train_runs import Write, go, lines, said, same, stop_after, view, weights, with_stages

from clipft.cli import main
from clipft.config.load import load_config
from clipft.config.schema import Config
from clipft.config.stages import stage_configs
from clipft.errors import ConfigError, InputError
from clipft.model.build import build
from clipft.model.saved import load_saved
from clipft.train.plan_report import report_plans
from clipft.train.prepare import prepare_stages
from clipft.train.rehearsal import dry_run

HEADS = {"image": {"freeze_backbone": True}, "text": {"freeze_backbone": True}}
OPEN = {"image": {"freeze_layers": 1}}


def test_a_stage_has_what_the_run_has_but_for_its_own_keys(write: Write) -> None:
    path = write(model={"image": {"freeze_pattern": "attn", "lr": 1e-4}, "text": {"freeze_backbone": True}})
    stages = ({"epochs": 1}, {"epochs": 2, "model": OPEN, "optim": {"lr_heads": 7e-4}})
    first, second = stage_configs(load_config(with_stages(path, *stages)).config)
    assert (first.model.image.freeze_pattern, first.train.epochs) == ("attn", 1)
    image = second.model.image
    assert (image.freeze_pattern, image.freeze_layers, image.lr) == (None, 1, 1e-4)  # a freeze key clears the run's
    assert second.model.text.freeze_backbone is True
    assert (second.optim.lr_heads, second.optim.lr, second.train.epochs) == (7e-4, 1e-3, 2)


def test_norms_first_and_then_everything(write: Write) -> None:
    path = write(model={"image": {"train_only": ["norms"]}})
    stages = ({"epochs": 1}, {"epochs": 1, "model": {"image": {"freeze_backbone": False}}})
    first, second = stage_configs(load_config(with_stages(path, *stages)).config)
    assert (first.model.image.train_only, second.model.image.train_only) == (("norms",), None)


def test_more_thaws_from_stage_to_stage(write: Write) -> None:
    """Progressive unfreezing: each stage moves what its plan says and nothing else, warms up and reports itself."""
    path = with_stages(
        write(evaluate={"best": "zero_shot_top1"}),
        {"epochs": 2, "model": HEADS},
        {"epochs": 2, "model": {"image": {"freeze_layers": "depth"}, "text": {"freeze_backbone": True}}},
        {"epochs": 1, "optim": {"lr": 1e-4}},
    )
    shown = view()
    finished = go(path, shown=shown)
    steps, evaluations = lines(finished.folder, "step"), lines(finished.folder, "evaluation")
    assert [s["stage"] for s in steps] == [0] * 8 + [1] * 8 + [2] * 4
    assert [s["epoch"] for s in steps[::4]] == [1, 2, 3, 4, 5]
    assert [e["stage"] for e in evaluations] == [0, 0, 0, 1, 1, 2]
    assert steps[0]["lr"].keys() == {"heads"}
    assert steps[16]["lr"].keys() == {"image", "text", "heads"}
    # cosine falls towards nothing in each stage and begins anew in the next
    rates = [s["lr"]["heads"] for s in steps]
    assert 0 < rates[7] < 0.05 * 1e-3
    assert rates[8] == pytest.approx(1e-3)
    plans = json.loads((finished.folder / "plan.json").read_text())["stages"]
    assert [plan["totals"]["trainable"] for plan in plans] == sorted(plan["totals"]["trainable"] for plan in plans)
    text = said(shown)
    assert "1 of 3: 2 epochs" in text
    assert "2 of 3 begins; optimiser as it stands" in text
    assert text.count("part ") >= 3  # a freeze report each
    frozen = json.loads((finished.folder / "result.json").read_text())["frozen_checked"]
    plan_frozen = [sum(not p["trainable"] for p in plan["parameters"]) for plan in plans]
    assert frozen >= sum(plan_frozen)


def test_a_checkpoint_holds_what_earlier_stages_trained(write: Write) -> None:
    thaw = {"image": {"freeze_layers": "depth"}, "text": {"freeze_backbone": True}}
    path = with_stages(write(), {"epochs": 1, "model": thaw}, {"epochs": 1, "model": HEADS})
    finished = go(path)
    saved = load_file(next(iter(sorted((finished.folder / "checkpoints").glob("step-*"))[-1:])) / "model.safetensors")
    assert "visual.ln_post.weight" in saved  # trained in the first stage, frozen in the second
    optimizer = load_file(
        next(iter(sorted((finished.folder / "checkpoints").glob("step-*"))[-1:])) / "optimizer.safetensors"
    )
    assert not any(name.startswith("visual.ln_post") for name in optimizer)
    assert torch.equal(weights(finished.folder)["visual.ln_post.weight"], saved["visual.ln_post.weight"])


def test_two_stages_equal_two_runs(write: Write) -> None:
    """With a fresh optimiser; the second run is told at which epoch it begins, since the order hangs on it."""
    stages = ({"epochs": 2, "model": HEADS}, {"epochs": 2, "model": OPEN, "reset_optimizer": True})
    both = go(with_stages(write("both"), *stages))
    first = go(write("first", model=HEADS, train={"epochs": 2}))
    second = go(write("second", model={"pretrained": str(first.folder), **OPEN}, train={"epochs": 2, "first_epoch": 2}))
    a, b = weights(both.folder), weights(second.folder)
    assert a.keys() == b.keys()
    assert max(float((a[name] - b[name]).abs().max()) for name in a) <= 1e-6


def test_the_optimisers_state_stays_for_what_stays_trainable(write: Write) -> None:
    """Without reset_optimizer the second stage begins with the first one's averages: its weights differ."""
    stages = ({"epochs": 2, "model": HEADS}, {"epochs": 1, "model": HEADS})
    kept = go(with_stages(write("kept"), *stages))
    fresh = go(with_stages(write("fresh"), stages[0], {**stages[1], "reset_optimizer": True}))
    assert not same(weights(kept.folder), weights(fresh.folder))
    ends = [sorted((run.folder / "checkpoints").glob("step-*"))[-1] / "optimizer.safetensors" for run in (kept, fresh)]
    steps = [load_file(end)["visual.proj/step"] for end in ends]
    assert [float(step) for step in steps] == [12.0, 4.0]


def test_that_state_is_kept_by_name_where_other_groups_train(write: Write) -> None:
    """P36: what comes to train begins afresh beside what goes on; a tensor's place in a group does not matter."""
    stages = ({"epochs": 2, "model": HEADS}, {"epochs": 1, "model": {**OPEN, "text": {"freeze_layers": 1}}})
    end = sorted((go(with_stages(write(), *stages)).folder / "checkpoints").glob("step-*"))[-1]
    state = load_file(end / "optimizer.safetensors")
    taken = {name: float(steps) for name, steps in state.items() if name.endswith("/step")}
    heads = {"visual.proj/step", "text_projection/step", "logit_scale/step"}
    assert {taken[name] for name in heads} == {12.0}
    assert {steps for name, steps in taken.items() if name not in heads} == {4.0}


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_a_run_goes_on_in_the_stage_it_stopped_in(write: Write, monkeypatch: pytest.MonkeyPatch, epochs: int) -> None:
    """P36: in the midst of a stage and at its end, to the bit."""
    stages = ({"epochs": 2, "model": HEADS}, {"epochs": 2, "model": OPEN})
    straight = go(with_stages(write("straight"), *stages))
    path = with_stages(write("stopped"), *stages)
    stop_after(epochs, path, monkeypatch)
    resumed = go(path)
    assert same(weights(straight.folder), weights(resumed.folder))
    ours, theirs = (
        [(x["step"], x["stage"], x["loss"], x["lr"]) for x in lines(r.folder, "step")] for r in (straight, resumed)
    )
    assert ours == theirs


def test_a_head_first_and_then_everything(write: Write) -> None:
    """Linear probe, then fine-tuning from that head (LP-FT): the classifier goes on from stage to stage."""
    probe = {"image": {"freeze_backbone": True, "projection": "freeze"}}
    path = with_stages(write(loss={"type": "classifier"}), {"epochs": 2, "model": probe}, {"epochs": 4})
    finished = go(path)
    alone = go(write("alone", loss={"type": "classifier"}, model=probe, train={"epochs": 2}))
    losses = [[step["loss"] for step in lines(run.folder, "step")] for run in (finished, alone)]
    assert losses[0][:8] == losses[1]
    assert sum(losses[0][8:]) < sum(losses[0][:8])  # from that head on
    assert load_saved(finished.folder).clip.model.get_parameter("classifier.weight").shape[0] == 4


def test_a_contrastive_stage_before_a_classifiers(write: Write) -> None:
    path = with_stages(
        write(evaluate={"best": "classifier_top1"}),
        {"epochs": 1, "model": OPEN},
        {"epochs": 2, "model": HEADS, "loss": {"type": "classifier"}},
    )
    shown = view()
    finished = go(path, shown=shown)
    evaluations = lines(finished.folder, "evaluation")
    assert ["classifier_top1" in e["metrics"] for e in evaluations] == [False, False, True, True]
    assert finished.tuned["classifier_top1"] >= 0.75
    assert said(shown).count("train loss") == 2  # the table's head, for each kind of figures


def test_what_makes_no_sense_is_refused_with_the_stage(write: Write) -> None:
    path = with_stages(write(), {"epochs": 1, "loss": {"type": "classifier"}}, {"epochs": 1})
    with pytest.raises(InputError, match=r"stages\[1\]: loss.type: contrastive comes after a stage with a classifier"):
        prepare_stages(load_config(path).config)
    path = with_stages(write(), {"epochs": 1}, {"epochs": 1, "model": {"image": {"freeze_layers": 9}}})
    with pytest.raises(InputError, match=r"stages\[1\]: model.image.freeze_layers: 9 is out of range"):
        prepare_stages(load_config(path).config)
    config = yaml.safe_load(path.read_text())
    for epochs in (7, 10):  # 10 is the default, which nobody would write to say nothing
        path.write_text(yaml.safe_dump({**config, "train": {"epochs": epochs}}))
        with pytest.raises(ConfigError, match=f"train.epochs: {epochs}, but the stages have 2 together; leave it out"):
            load_config(path)


@pytest.mark.parametrize(("key", "value"), [("cosine", True), ("bias", False), ("features", "pooled")])
def test_a_classifier_goes_on_as_it_was_made(write: Write, key: str, value: object) -> None:
    """P52: another form of head in a later stage would be trained and never load again."""
    loss = {"type": "classifier", "init": "random"}
    path = with_stages(write(loss=loss), {"epochs": 1}, {"epochs": 1, "loss": {**loss, key: value}})
    with pytest.raises(InputError, match=rf"stages\[1\]: loss.{key}: .* the stage before has made its classifier with"):
        prepare_stages(load_config(path).config)


def test_a_projection_is_drawn_anew_for_all_stages(write: Write) -> None:
    """`projection: reset` is the run's; what a stage says of it does not bring the base's back."""
    model = {"image": {"projection": "reset"}}
    path = with_stages(write(model=model), {"epochs": 1, "model": {"image": {"projection": "train"}}})
    finished = go(path, "optim.lr=1e-12", "optim.weight_decay=0")
    config = load_config(finished.folder / "config.yaml").config
    base = build(
        config.model.model_copy(update={"image": config.model.image.model_copy(update={"projection": "train"})}), 0
    )
    assert not torch.allclose(weights(finished.folder)["visual.proj"], base.model.get_parameter("visual.proj"))


def test_early_stopping_waits_for_the_stage_that_measures_its_metric(write: Write) -> None:
    path = with_stages(
        write(train={"early_stop": {"metric": "classifier_top1", "patience": 1}}),
        {"epochs": 3, "model": OPEN},
        {"epochs": 1, "model": HEADS, "loss": {"type": "classifier"}},
    )
    finished = go(path)
    assert len(lines(finished.folder, "evaluation")) == 5


HEAD_RATE = {"groups": [{"pattern": "classifier", "lr": 5e-3}]}
THEN_HEAD = ({"epochs": 1, "model": HEADS}, {"epochs": 1, "model": HEADS, "loss": {"type": "classifier"}})


def test_a_pattern_may_be_meant_for_another_stage(write: Write) -> None:
    """P32: what matches nothing is judged over all stages; each says what it is there."""
    config = load_config(with_stages(write(optim=HEAD_RATE), *THEN_HEAD)).config
    for stages in (prepare_stages(config), report_plans(config)):
        first, second = (stage.plan for stage in stages)
        assert "optim.groups[0].pattern: 'classifier' matches nothing in this stage" in first.notes
        assert not any("optim.groups" in note for note in second.notes)
        assert {p.lr for p in second.trainable if p.group == "classifier"} == {5e-3}
        assert (first.warnings, second.warnings) == ((), ())


def test_a_tree_is_drawn_of_a_config_whose_pattern_is_for_a_later_stage(
    write: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = with_stages(write(optim=HEAD_RATE), *THEN_HEAD)
    monkeypatch.setattr(sys, "argv", ["clipft", "inspect", "--config", str(path), "--tree"])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code, capsys.readouterr().err


@pytest.mark.parametrize("read", [prepare_stages, report_plans])
def test_a_pattern_meant_for_no_stage_is_an_error(write: Write, read: Callable[[Config], object]) -> None:
    """P14: and so is one of a stage's own that matches nothing there."""
    mistake = {"groups": [{"pattern": "clasifier", "lr": 5e-3}]}
    config = load_config(with_stages(write(optim=mistake), *THEN_HEAD)).config
    with pytest.raises(InputError, match=r"stages\[0\]: optim.groups\[0\].pattern: 'clasifier' matches none of the"):
        read(config)
    own = ({**THEN_HEAD[0], "optim": HEAD_RATE}, THEN_HEAD[1])
    with pytest.raises(InputError, match=r"stages\[0\]: optim.groups\[0\].pattern: 'classifier' matches none of the"):
        read(load_config(with_stages(write(), *own)).config)


def test_a_pattern_over_what_is_frozen_in_every_stage_is_warned_of(write: Write) -> None:
    """P32: where it trains in another stage, it is a note."""
    groups = [{"pattern": "visual.conv1", "lr": 5e-4}, {"pattern": "visual.ln_post", "lr": 5e-4}]
    thaw = {"image": {"freeze_layers": "depth"}, "text": {"freeze_backbone": True}}
    path = with_stages(write(optim={"groups": groups}), {"epochs": 1, "model": HEADS}, {"epochs": 1, "model": thaw})
    first, second = (stage.plan for stage in prepare_stages(load_config(path).config))
    conv = "optim.groups[0].pattern: 'visual.conv1' matches one parameter, which is frozen; visual.conv1.weight has no"
    assert [words.startswith(conv) for words in (*first.warnings, *second.warnings)] == [True, True]
    assert any("'visual.ln_post' matches 2 parameters, all of them frozen" in note for note in first.notes)
    assert not any("optim.groups" in note for note in second.notes)


STANDING = {"optim": {"lr": 1e-12}, "train": {"early_stop": {"metric": "zero_shot_top1", "patience": 1}}}


def test_early_stopping_ends_its_stage_and_the_next_begins(write: Write) -> None:
    """P34: with the epochs that the plan gives it, and patience of its own."""
    shown = view()
    path = with_stages(write(**STANDING), {"epochs": 4, "model": HEADS}, {"epochs": 4, "model": OPEN})
    finished = go(path, shown=shown)
    steps = lines(finished.folder, "step")
    assert [(x["stage"], x["epoch"]) for x in steps[::4]] == [(0, 1), (0, 2), (1, 5), (1, 6)]
    assert [x["step"] for x in steps] == [*range(1, 9), *range(17, 25)]
    assert [e["epoch"] for e in lines(finished.folder, "evaluation")] == [0, 1, 2, 5, 6]
    text = " ".join(said(shown).split())
    tired = "zero_shot_top1 has not improved for 1 evaluation:"
    assert f"{tired} stage 1 of 2 ends here (train.early_stop); the next begins with epoch 5" in text
    assert f"{tired} the run ends here (train.early_stop)" in text
    assert json.loads((finished.folder / "result.json").read_text())["stopped_early"]


@pytest.mark.parametrize(("epochs", "every"), [(2, "epoch"), (5, "epoch"), (1, 3)])
def test_a_run_goes_on_behind_a_stage_that_was_stopped_early(
    write: Write, monkeypatch: pytest.MonkeyPatch, epochs: int, every: str | int
) -> None:
    """P36: stopped at the end of the stage, in the midst of the next, and where the stage ended within an epoch."""
    stages = ({"epochs": 4, "model": HEADS}, {"epochs": 2, "model": OPEN, "optim": {"lr": 1e-3}})
    sections = {**STANDING, "evaluate": {"every": every}}
    straight = go(with_stages(write("straight", **sections), *stages))
    path = with_stages(write("stopped", **sections), *stages)
    shown = view()
    stop_after(epochs, path, monkeypatch)
    resumed = go(path, shown=shown)
    assert same(weights(straight.folder), weights(resumed.folder))
    ours, theirs = (
        [(x["step"], x["epoch"], x["stage"], x["loss"], x["lr"]) for x in lines(r.folder, "step")]
        for r in (straight, resumed)
    )
    assert ours == theirs
    assert {stage for _, _, stage, _, _ in ours} == {0, 1}
    assert ("early stopping has ended its stage" in " ".join(said(shown).split())) == (epochs == 2)


def test_a_loss_that_changes_cannot_choose_the_best(write: Write) -> None:
    path = with_stages(
        write(evaluate={"best": "loss"}),
        {"epochs": 1, "model": OPEN},
        {"epochs": 1, "model": HEADS, "loss": {"type": "classifier"}},
    )
    with pytest.raises(
        InputError, match=r"evaluate.best: loss is another one in each stage \(contrastive, classifier\)"
    ):
        go(path)


def test_a_rehearsal_of_an_unfinished_run_begins_with_its_first_stage(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = ({"epochs": 1, "model": HEADS}, {"epochs": 2, "model": HEADS, "loss": {"type": "classifier"}})
    path = with_stages(write(), *stages)
    stop_after(2, path, monkeypatch)
    shown = view()
    dry_run(load_config(path), path.stem, shown)
    text = " ".join(said(shown).split())
    assert "holds an unfinished run; this rehearsal begins with the base" in text
    assert "epoch train loss val loss zero-shot top-1" in text  # there is no classifier yet
