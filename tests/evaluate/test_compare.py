from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from clipft.config.dump import dump_config
from clipft.config.schema import Config
from clipft.config.source_schema import FolderSource
from clipft.errors import InputError
from clipft.evaluate.compare import Evaluation, evaluate_target
from clipft.evaluate.target import open_target
from clipft.export import export
from clipft.report.evaluation_table import evaluation_table

CPU = torch.device("cpu")


def evaluate(name: object, folder: Path | None = None, **options: Any) -> Evaluation:
    data = None if folder is None else FolderSource(folder=str(folder))
    return evaluate_target(str(name), data, device=CPU, workers=0, **options)


def lines_of(evaluation: Evaluation, width: int = 80) -> list[str]:
    console = Console(width=width, file=None, record=True, color_system=None)
    with console.capture() as capture:
        console.print(evaluation_table(evaluation))
    return capture.get().splitlines()


def test_a_run_is_measured_beside_its_base(tiny_native: Path, tiny_photos: Path, make_run: Any) -> None:
    run = make_run(tiny_native)
    found = evaluate(run, tiny_photos)
    assert found.base is not None
    assert found.tuned is not None
    assert found.base.figures().keys() == found.tuned.figures().keys()
    assert found.base.losses != found.tuned.losses
    alone = evaluate(f"local-dir:{tiny_native}", tiny_photos).base
    assert alone is not None
    assert found.tuned.prompts[0] == "a blue square."
    content = json.loads(json.dumps(found.to_json()))
    assert content["base"]["zero_shot_top1"] == found.base.metrics["zero_shot_top1"]
    assert content["tuned"]["nll"] == found.tuned.losses["nll"]


def test_without_data_the_runs_own_validation_rows_are_taken(tiny_native: Path, make_run: Any) -> None:
    found = evaluate(make_run(tiny_native), with_base=False)
    assert found.base is None
    assert found.tuned is not None
    assert found.tuned.counts["rows"] == 3
    assert "held out" in found.tuned.data


def test_training_rows_are_said_to_be_none_to_judge_by(tiny_native: Path, tiny_photos: Path, make_run: Any) -> None:
    """P56: figures on the rows that the run trained on carry a note."""
    found = evaluate(make_run(tiny_native), tiny_photos, with_base=False)
    assert any("no held-out figures" in note for note in found.notes)


def test_a_path_written_otherwise_is_the_same_data(
    tiny_native: Path, tiny_photos: Path, tmp_path: Path, make_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P56: a relative path, or a link, to what the run trained on."""
    run = make_run(tiny_native)
    monkeypatch.chdir(tiny_photos.parent)
    (tmp_path / "link").symlink_to(tiny_photos)
    for folder in (Path(tiny_photos.name), Path(tiny_photos.name, "red", ".."), tmp_path / "link"):
        found = evaluate(run, folder, with_base=False)
        assert any("no held-out figures" in note for note in found.notes)
    shutil.copytree(tiny_photos / "red", tmp_path / "others" / "red")
    others = evaluate(run, tmp_path / "others", with_base=False)
    assert any("images of" in note and "are in training too, byte for byte" in note for note in others.notes)  # P10


def test_a_config_whose_validation_rows_are_trained_on_is_told(
    tiny_native: Path, tiny_photos: Path, tmp_path: Path
) -> None:
    """P56."""
    data = {"train": {"folder": str(tiny_photos)}, "val": {"folder": str(tiny_photos)}}
    config = Config.model_validate({"model": {"name": f"local-dir:{tiny_native}"}, "data": data})
    (tmp_path / "c.yaml").write_text(dump_config(config), encoding="utf-8")
    assert any("12 of 12 validation images are in training too" in note for note in evaluate(tmp_path / "c.yaml").notes)


@pytest.mark.parametrize("features", ["projected", "pooled"])
def test_a_classifier_run_and_its_base_share_an_accuracy(
    tiny_native: Path, tiny_photos: Path, make_run: Any, features: str
) -> None:
    """P56: the base answers by prompts, so the tuned model is asked that way too, beside its classifier."""
    found = evaluate(make_run(tiny_native, loss="classifier", features=features), tiny_photos)
    assert found.base is not None
    assert found.tuned is not None
    assert found.base.figures().keys() < found.tuned.figures().keys()
    assert {"zero_shot_top1", "nll"} <= found.base.figures().keys()
    only_tuned = found.tuned.figures().keys() - found.base.figures().keys()
    assert "classifier_top1" in only_tuned
    assert all(name.startswith("classifier_") for name in only_tuned)
    lines = lines_of(found)
    assert max(map(len, lines)) <= 80
    (zero_shot,) = [line.split() for line in lines if "zero-shot top-1" in line]
    (classifier,) = [line.split() for line in lines if "classifier top-1" in line]
    assert len(zero_shot) == 5  # its two words, base, tuned, change
    assert classifier[2] == "-"  # at random the base has none


def test_the_base_has_the_classifier_that_a_run_started_from(tiny_native: Path, train_colours: Any) -> None:
    """The base's own column, as epoch 0 of the run measured it: prompts as a linear head."""
    run = train_colours(tiny_native, loss={"type": "classifier"}, train={"epochs": 1})
    found = evaluate(run)
    assert found.base is not None
    assert found.tuned is not None
    assert found.base.figures().keys() == found.tuned.figures().keys()
    assert found.base.metrics["classifier_top1"] == found.base.metrics["zero_shot_top1"]
    first = json.loads((run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert first["metrics"]["classifier_top1"] == found.base.metrics["classifier_top1"]


def test_a_config_gives_its_base_alone(tiny_native: Path, tiny_photos: Path, tmp_path: Path) -> None:
    config = Config.model_validate(
        {"model": {"name": f"local-dir:{tiny_native}"}, "data": {"train": {"folder": str(tiny_photos)}, "val": 0.5}}
    )
    file = tmp_path / "c.yaml"
    file.write_text(dump_config(config), encoding="utf-8")
    found = evaluate(file)
    assert found.tuned is None
    assert found.base is not None
    assert found.to_json()["tuned"] is None

    file.write_text(f"model: {{name: 'local-dir:{tiny_native}'}}\n", encoding="utf-8")
    assert evaluate(file, tiny_photos).base is not None  # --data is data enough
    with pytest.raises(InputError, match="data"):
        evaluate(file)


def test_classes_are_matched_by_name_across_splits(
    tiny_native: Path, tiny_photos: Path, tmp_path: Path, make_run: Any
) -> None:
    """P60: a test folder that lacks a class is measured among all the run's classes, in the run's order."""
    run = make_run(tiny_native, loss="classifier")
    for name in ("red", "green"):
        shutil.copytree(tiny_photos / name, tmp_path / name)
    found = evaluate(run, tmp_path, with_base=False).tuned
    whole = evaluate(run, tiny_photos, with_base=False).tuned
    assert found is not None
    assert whole is not None
    assert found.counts["classes"] == 3
    assert found.counts["classes_measured"] == 2
    target = open_target(str(run))
    assert target.classes == ("blue", "green", "red")
    assert target.classifier is not None

    shutil.copytree(tiny_photos / "red", tmp_path / "purple")
    with pytest.raises(InputError, match="purple"):
        evaluate(run, tmp_path, with_base=False)


def test_other_classes_are_measured_among_themselves_by_prompts(
    tiny_native: Path, tiny_photos: Path, tmp_path: Path, make_run: Any
) -> None:
    shutil.copytree(tiny_photos / "red", tmp_path / "apple")
    shutil.copytree(tiny_photos / "green", tmp_path / "leaf")
    found = evaluate(make_run(tiny_native), tmp_path, with_base=False)
    assert found.tuned is not None
    assert found.tuned.counts["classes"] == 2
    assert any("apple, leaf" in note for note in found.notes)


def test_an_export_measures_as_its_run(tiny_native: Path, tiny_photos: Path, tmp_path: Path, make_run: Any) -> None:
    """P52: the exported model gives the run's figures, classifier included."""
    run = make_run(tiny_native, loss="classifier", features="pooled")
    export(run, tmp_path / "out")
    of_export, of_run = evaluate(tmp_path / "out", tiny_photos), evaluate(run, tiny_photos, with_base=False)
    assert of_export.base is None
    assert of_export.tuned is not None
    assert of_run.tuned is not None
    assert of_export.tuned.figures() == pytest.approx(of_run.tuned.figures(), abs=1e-6)
    assert any("name the run for a comparison" in note for note in of_export.notes)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no/such/run", "does not exist; expected a run"),
        ("{file}", "is a file; expected a run"),
        ("{empty}", "no run of clipft"),
    ],
)
def test_what_is_none_of_these_is_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "a.txt").write_text("", encoding="utf-8")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=message):
        open_target(name.format(file=tmp_path / "a.txt", empty=tmp_path / "empty"))


def test_a_model_without_data_asks_for_some(tiny_native: Path) -> None:
    with pytest.raises(InputError, match=r"--data: .* brings no data of its own"):
        evaluate(f"local-dir:{tiny_native}")


def test_the_table_fits_80_columns_and_tells_what_was_measured(
    tiny_native: Path, tiny_photos: Path, make_run: Any
) -> None:
    lines = lines_of(evaluate(make_run(tiny_native), tiny_photos))
    text = "\n".join(lines)
    assert max(map(len, lines)) <= 80
    for wanted in (
        "12 images · 3 classes · 0 unreadable",
        '"a blue square."',
        "base",
        "tuned",
        "change",
        "zero-shot top-1",
    ):
        assert wanted in text


def test_the_name_of_an_architecture_is_told_apart() -> None:
    with pytest.raises(InputError, match=r"ViT-B-32: is an architecture, .*model\.pretrained"):
        open_target("ViT-B-32")
