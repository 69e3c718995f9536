"""What else becomes worse, or better, while a run trains: rows watched for forgetting, and novel classes (P62)."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from train_runs import Write, go, lines, said, stop_after, swapped, view

from clipft.config.load import load_config
from clipft.config.source_schema import FolderSource, HandsSource, TableSource
from clipft.data.sources import read_keep
from clipft.errors import ConfigError, InputError
from clipft.evaluate.compare import evaluate_target
from clipft.evaluate.measure import measure
from clipft.model.build import build
from clipft.report.train_view import TrainView
from clipft.train.evaluation import short_name
from clipft.train.rehearsal import dry_run

CPU = torch.device("cpu")


@pytest.fixture
def others(tmp_path: Path) -> dict[str, str]:
    """Pictures that have nothing to do with the task, with captions."""
    (tmp_path / "others").mkdir()
    captions = ["image,caption"]
    for i in range(7):
        Image.radial_gradient("L").rotate(13 * i).crop((i, 0, 200, 200)).save(tmp_path / "others" / f"{i}.png")
        captions.append(f"{i}.png,a disc turned {i} times")
    (tmp_path / "others" / "discs.csv").write_text("\n".join(captions) + "\n", encoding="utf-8")
    return {"table": str(tmp_path / "others" / "discs.csv"), "caption": "caption"}


def test_what_is_kept_is_measured_at_every_evaluation_and_told(write: Write, others: dict[str, str]) -> None:
    """P62: a line of its own in metrics.jsonl, a column, the end's lines, result.json."""
    shown = view()
    finished = go(write(evaluate={"keep": others, "best": "zero_shot_top1"}, train={"epochs": 2}), shown=shown)
    found = lines(finished.folder, "evaluation")
    assert [(e["epoch"], e["keep"]) for e in found] == [(e, k) for e in range(3) for k in (False, True)]
    kept = [e for e in found if e["keep"]]
    assert kept[0]["data"] == f"table {others['table']}"
    assert kept[0]["counts"]["captions"] == 7
    assert "loss" not in kept[0]["loss"]
    result = json.loads((finished.folder / "result.json").read_text())
    of_best = next(e for e in kept if e["epoch"] == result["best"]["epoch"])
    for side, line in (("base", kept[0]), ("tuned", of_best)):
        got = {name: value for name, value in result[side].items() if name.startswith("keep.")}
        assert got == {f"keep.{name}": value for name, value in line["metrics"].items()}
    text = said(shown)
    assert "kept (discs R@5)" in text
    before, after = (result[side]["keep.image_to_text_r5"] for side in ("base", "tuned"))
    assert f"kept               {before:.3f} -> {after:.3f}   image to text R@5 of table" in text


def test_kept_figures_are_the_bases_own_and_choose_nothing_unless_asked(write: Write, others: dict[str, str]) -> None:
    plain = go(write("plain", train={"epochs": 2}, evaluate={"best": "loss"}))
    watched = go(write("watched", train={"epochs": 2}, evaluate={"best": "loss", "keep": others}))
    ours, theirs = (
        [e["metrics"] for e in lines(run.folder, "evaluation") if not e["keep"]] for run in (plain, watched)
    )
    assert ours == theirs  # to be watched changes nothing
    config = load_config(watched.folder / "config.yaml").config
    assert config.evaluate.keep is not None
    untouched = measure(
        build(config.model, 0), read_keep(config.evaluate.keep, config.data), templates=("{}",), batch_size=8,
        workers=0, device=CPU,
    )  # fmt: skip
    assert lines(watched.folder, "evaluation")[1]["metrics"] == untouched.metrics
    asked = go(write("asked", train={"epochs": 2}, evaluate={"best": "keep.image_to_text_r1", "keep": others}))
    best = json.loads((asked.folder / "checkpoints" / "best.json").read_text())
    assert best["metric"] == "keep.image_to_text_r1"
    assert best["value"] == asked.tuned["keep.image_to_text_r1"]


def test_a_metric_of_rows_that_are_not_watched_is_refused(write: Write, others: dict[str, str]) -> None:
    """P59."""
    with pytest.raises(InputError, match=r"evaluate\.best: 'keep\.image_to_text_r5' is not measured"):
        go(write(evaluate={"best": "keep.image_to_text_r5"}))
    with pytest.raises(InputError, match=r"'keep\.loss' is not measured .* keep\.image_to_text_r1,"):
        go(write(evaluate={"best": "keep.loss", "keep": others}))


def test_under_a_classifier_what_is_kept_is_measured_by_prompts(
    write: Write, tiny_photos: Path, tmp_path: Path
) -> None:
    """The classifier has no output for strange classes; `evaluate` measures the same, with the same prompts."""
    keep = {"keep": {"folder": str(tiny_photos)}, "keep_templates": ["a noisy {} thing"]}
    shown = view()
    run = go(write(loss={"type": "classifier"}, evaluate=keep, train={"epochs": 2}), shown=shown)
    assert run.tuned.keys() >= {"classifier_top1", "keep.zero_shot_top1", "keep.nll"}
    assert not any(name.startswith("keep.classifier") for name in run.tuned)
    assert 'prompt: "a noisy blue thing"' in said(shown).replace("'", '"')
    found = evaluate_target(str(run.folder), None, device=CPU, workers=0)
    content = json.loads(json.dumps(found.to_json()))
    for side, figures in (("base", run.base), ("tuned", run.tuned)):
        kept = {name: value for name, value in figures.items() if name.startswith("keep.")}
        assert {n: v for n, v in content[side].items() if n.startswith("keep.")} == pytest.approx(kept, abs=1e-6)
    assert content["keep"]["prompts"] == ["a noisy blue thing", "a noisy green thing", "a noisy red thing"]
    assert evaluate_target(str(run.folder), None, device=CPU, workers=0, with_keep=False).kept is None


def test_rows_that_are_gone_leave_the_rest_to_be_measured(write: Write, others: dict[str, str]) -> None:
    run = go(write(evaluate={"keep": others}, train={"epochs": 1}))
    Path(others["table"]).unlink()
    found = evaluate_target(str(run.folder), None, device=CPU, workers=0)
    assert found.kept is None
    assert found.tuned is not None
    assert any("what is kept is not measured: evaluate.keep.table" in note for note in found.notes)
    with pytest.raises(ConfigError, match=r"evaluate\.keep\.table: .*discs\.csv does not exist"):
        go(run.folder / "config.yaml")


def test_images_that_are_trained_on_too_are_told(write: Write, tmp_path: Path) -> None:
    shown = view()
    go(write(evaluate={"keep": {"folder": str(tmp_path / "colours")}}, train={"epochs": 1}), shown=shown)
    assert "32 of 32 images of evaluate.keep" in " ".join(said(shown).split())


def test_a_resumed_run_still_knows_what_the_base_kept(
    write: Write, others: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = go(write("straight", evaluate={"keep": others}, train={"epochs": 2}))
    path = write("stopped", evaluate={"keep": others}, train={"epochs": 2})
    stop_after(1, path, monkeypatch)
    shown = view()
    resumed = go(path, shown=shown)
    assert (resumed.base, resumed.tuned) == (straight.base, straight.tuned)
    assert "kept (discs R@5)" in said(shown)


def test_base_and_novel_classes_are_measured_apart(write: Write) -> None:
    """P54, P62: training never sees the novel ones; their figures stand in the table and may choose the best."""
    shown = view()
    path = write(evaluate={"novel_classes": "half", "best": "harmonic_mean"}, train={"epochs": 3, "batch_size": 4})
    run = go(path, shown=shown)
    text = said(shown)
    assert "16 images in 2 classes (8 each)" in text
    assert "novel classes, in val alone: red, white" in text
    assert re.search(r"epoch +train loss +base top-1 +novel top-1 +harmonic mean", text)
    for e in lines(run.folder, "evaluation"):
        base, novel = e["metrics"]["base_top1"], e["metrics"]["novel_top1"]
        assert e["metrics"]["harmonic_mean"] == pytest.approx(2 * base * novel / (base + novel) if base + novel else 0)
        assert e["metrics"]["zero_shot_top1"] <= (base + novel) / 2  # among all classes no row is easier; equal sides
    best = json.loads((run.folder / "checkpoints" / "best.json").read_text())
    assert best["value"] == max(e["metrics"]["harmonic_mean"] for e in lines(run.folder, "evaluation")[1:])
    found = evaluate_target(str(run.folder), None, device=CPU, workers=0)
    again = evaluate_target(
        str(run.folder), FolderSource(folder=str(path.parent / "val")), device=CPU, workers=0, with_base=False
    )
    for figures in (found.tuned, again.tuned):
        assert figures is not None
        assert figures.metrics["harmonic_mean"] == pytest.approx(run.tuned["harmonic_mean"])


def test_a_classifier_has_no_output_for_novel_classes(write: Write) -> None:
    with pytest.raises(ConfigError, match=r"evaluate\.novel_classes: a classifier has no output"):
        go(write(loss={"type": "classifier"}, evaluate={"novel_classes": ["red"]}))


def test_a_rehearsal_watches_a_batch_of_each(write: Write, others: dict[str, str]) -> None:
    shown = view()
    path = write(evaluate={"keep": others, "novel_classes": ["red"]}, train={"batch_size": 4})
    dry_run(load_config(path), path.stem, shown)
    assert "4 of 12 rows" in said(shown)


def test_the_table_fits_80_columns_with_what_is_kept() -> None:
    figures = {"loss": 1.0, "zero_shot_top1": 0.9, "base_top1": 0.9, "novel_top1": 0.8, "harmonic_mean": 0.85}
    captions = {"loss": 2.5, "image_to_text_r5": 0.4, "text_to_image_r5": 0.4}
    heads = []
    for found in (figures, captions):
        for kept in ("openstax", "a-folder-with-a-very-long-name"):
            shown: TrainView = view()
            metrics = found | {"keep.zero_shot_top1": 0.164, "keep.image_to_text_r5": 0.3}
            shown.table_head(metrics, kept=kept)
            shown.table_row("base", None, metrics)
            shown.table_row("100", 2.1, metrics, mark="best")
            rows = said(shown).splitlines()
            assert all(len(row) <= 80 for row in rows)
            assert rows[2].endswith("0.164  best")
            heads.append(rows[0].rpartition("  ")[2].strip())
    assert heads == ["kept (top-1)", "kept (top-1)", "kept (openstax top-1)", "kept (top-1)"]


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (FolderSource(folder="data/clothing/test"), "clothing"),
        (TableSource(table="/data/openstax/captions.csv", caption="c"), "captions"),
        (HandsSource(builtin="hands"), "hands"),
        (FolderSource(folder="test"), "test"),
    ],
)
def test_a_source_in_a_word(source: FolderSource | TableSource | HandsSource, name: str) -> None:
    assert short_name(source) == name


def test_a_best_that_is_worse_than_the_base_is_not_called_plainly_so(write: Write, tmp_path: Path) -> None:
    """A row that leads the run is still behind its base: marked, explained once, and shown by the figure that chose."""
    good = go(write("good", evaluate={"best": "loss"})).folder
    shown = view()
    lies = swapped(tmp_path / "colours")
    told = {"data": {"train": {"folder": str(lies)}}, "evaluate": {"best": "nll"}, "train": {"epochs": 2}}
    run = go(write("worse", model={"pretrained": str(good)}, **told), shown=shown)
    base, first, second = (line["loss"]["nll"] for line in lines(run.folder, "evaluation"))
    assert base < min(first, second)
    rows = [line for line in said(shown).splitlines() if re.match(r" +[12] +\d\.\d+ ", line)]
    assert rows[0].endswith(f"{first:.3f} (best)")
    assert rows[1].endswith(f"{second:.3f} (best)" if second < first else f"{second:.3f}")
    assert said(shown).count("worse than its base") == 1
    assert f"val NLL            {base:.3f} -> {min(first, second):.3f}" in said(shown)
