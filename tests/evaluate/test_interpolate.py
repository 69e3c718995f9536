"""Between base and tuned model: the ends are what `evaluate` measures, the chosen point is exported as it was mixed."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from rich.console import Console

import clipft
from clipft.cli.mixing import read_alphas
from clipft.config.source_schema import FolderSource
from clipft.errors import InputError
from clipft.evaluate.compare import evaluate_target
from clipft.evaluate.interpolate import Interpolation, _figures, best_of, interpolate, open_between
from clipft.evaluate.sweep import Compute
from clipft.export.write import export_model
from clipft.model.build import build
from clipft.model.saved import load_saved
from clipft.report.interpolate_curve import write_curve
from clipft.report.interpolate_view import interpolation_view

CPU = torch.device("cpu")
COMPUTE = Compute(CPU, workers=0)


def run_through(run: Path, alphas: list[float], *data: Path, **options: Any) -> Interpolation:
    sources = [FolderSource(folder=str(folder)) for folder in data]
    between = open_between(str(run), None, device=CPU, autocast=COMPUTE.autocast)
    return interpolate(between, alphas, sources, compute=COMPUTE, **options)


@pytest.fixture(scope="module")
def found(three_runs: tuple[Path, ...], colours: Path, tiny_photos: Path) -> Interpolation:
    return run_through(three_runs[2], [0.25, 0.5, 0.75], colours / "val", tiny_photos)


def test_the_ends_are_what_evaluate_measures(
    found: Interpolation, three_runs: tuple[Path, ...], colours: Path, tiny_photos: Path
) -> None:
    assert [point.alpha for point in found.points] == [0.0, 0.25, 0.5, 0.75, 1.0]
    for number, folder in enumerate((colours / "val", tiny_photos)):
        sides = evaluate_target(str(three_runs[2]), FolderSource(folder=str(folder)), device=CPU, workers=0)
        assert found.points[0].measured[number] == sides.base
        assert found.points[-1].measured[number] == sides.tuned


def test_the_best_mean_is_chosen_and_all_of_it_is_said(found: Interpolation) -> None:
    means = found.means()
    assert found.chosen == found.best_mean() == means.index(max(means))
    assert means == [(a + b) / 2 for a, b in zip(found.values(0), found.values(1), strict=True)]
    assert any("report those on other rows" in note for note in found.notes)
    content = json.loads(json.dumps(found.to_json()))
    assert [point["mean"] for point in content["points"]] == means
    assert content["chosen"] == content["best_mean"] == found.points[found.chosen].alpha
    assert [each["figure"] for each in content["data"]] == ["zero_shot_top1", "zero_shot_top1"]


def test_without_data_the_validation_rows_are_taken(three_runs: tuple[Path, ...]) -> None:
    found = run_through(three_runs[0], [], choose=0.3)
    assert [point.alpha for point in found.points] == [0.0, 0.3, 1.0]
    assert found.points[found.chosen].alpha == 0.3
    assert found.why == "as asked"
    assert found.points[0].measured[0].counts["rows"] == 24


def test_what_is_kept_stands_beside_the_data(train_colours: Any, tiny_native: Path, tiny_photos: Path) -> None:
    """P62: evaluate.keep is a column of its own, by its own prompts, as in every table."""
    keep = {"keep": {"folder": str(tiny_photos)}, "keep_templates": ["{} noise"]}
    run = train_colours(tiny_native, evaluate=keep, train={"epochs": 1})
    found = run_through(run, [])
    sides = evaluate_target(str(run), None, device=CPU, workers=0)
    assert found.points[0].measured == (sides.base, sides.kept_base)
    assert found.points[-1].measured == (sides.tuned, sides.kept_tuned)
    assert found.points[0].measured[1].prompts[0] == "blue noise"
    assert len(run_through(run, [], tiny_photos).figures) == 1  # the same rows, asked for by name
    assert [each["kept"] for each in found.to_json()["data"]] == [False, True]
    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        console.print(interpolation_view(found))
    assert any(line.split() == ["alpha", "A", "B", "(keep)", "mean"] for line in capture.get().splitlines())
    alone = run_through(run, [], with_keep=False)
    assert (len(alone.figures), alone.kept) == (1, False)


def test_another_figure_may_choose(three_runs: tuple[Path, ...]) -> None:
    found = run_through(three_runs[0], [0.5], choose="nll")
    values = found.values(0)
    assert found.figures == ("nll",)
    assert found.chosen == values.index(min(values))  # less is better


def test_the_runs_own_choice_chooses_where_it_is_measured(
    train_colours: Any, tiny_native: Path, tiny_photos: Path
) -> None:
    """evaluate.best, unless --choose names another figure; good figures of other rows count with it, losses alone."""
    keep = {"keep": {"folder": str(tiny_photos)}}
    run = train_colours(tiny_native, evaluate=keep | {"best": "mean_per_class"}, train={"epochs": 1})
    found = run_through(run, [0.5])
    assert found.figures == ("mean_per_class", "mean_per_class")
    assert found.why == "best mean (mean_per_class, the run's evaluate.best)"
    assert run_through(run, [0.5], choose="nll").figures == ("nll", "nll")
    measured = found.points[0].measured
    assert _figures(measured, None, "loss") == (("zero_shot_top1",) * 2, (0, 1))  # interpolate measures none
    kept = replace(measured[1], losses={})
    assert _figures((measured[0], kept), None, "nll") == (("nll", "zero_shot_top1"), (0,))


def test_of_equal_points_the_one_nearest_to_the_base_is_best() -> None:
    assert best_of([0.1, 0.9, 0.9], higher=True) == 1
    assert best_of([0.3, 0.2, 0.2], higher=False) == 1


def test_the_mixture_is_exported_as_it_was_measured(
    three_runs: tuple[Path, ...], colours: Path, tmp_path: Path
) -> None:
    """Plain open_clip gets the features of (1 - alpha) base + alpha tuned; clipft.json says where it is from."""
    saved = load_saved(three_runs[1])
    base = build(saved.config.model, 0).model.state_dict()
    state = saved.clip.model.state_dict()
    saved.clip.model.load_state_dict({name: 0.5 * base[name] + 0.5 * state[name] for name in state})

    between = open_between(str(three_runs[1]), None, device=CPU, autocast=COMPUTE.autocast)
    source = FolderSource(folder=str(colours / "val"))
    found = interpolate(between, [0.5], [source], compute=COMPUTE, choose=0.5)
    written = export_model(
        between.at(0.5, found.points[found.chosen].measured), str(three_runs[1]), tmp_path / "out", to="open_clip"
    )
    assert float(written.checked.rpartition(" ")[2]) <= 1e-6
    model = open_clip.create_model(f"local-dir:{tmp_path / 'out'}").eval()
    tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'out'}")(["a photo of a red."])
    pictures = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        for ours, theirs in (
            (
                saved.clip.model.eval().encode_image(pictures, normalize=True),
                model.encode_image(pictures, normalize=True),
            ),
            (saved.clip.model.encode_text(tokens, normalize=True), model.encode_text(tokens, normalize=True)),
        ):
            torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
    facts = json.loads((tmp_path / "out" / "clipft.json").read_text(encoding="utf-8"))
    assert facts["mixed"]["alpha"] == 0.5
    (figures,) = facts["mixed"]["figures"].values()
    assert figures == found.points[found.chosen].measured[0].figures()
    clipft.load(tmp_path / "out")  # checks the fingerprint


def test_what_cannot_be_merged_is_exported_as_much_as_it_counts(
    train_colours: Any, tiny_native: Path, colours: Path, tmp_path: Path
) -> None:
    """Adapters and a feature adapter halfway: the folder for clipft.load answers as the mixture does."""
    image = {"adapter": {"bottleneck": 4}, "feature_adapter": {"ratio": 0.4}, "freeze_backbone": True}
    run = train_colours(tiny_native, model={"name": f"local-dir:{tiny_native}", "image": image})
    between = open_between(str(run), None, device=CPU, autocast=COMPUTE.autocast)
    found = interpolate(between, [0.5], [FolderSource(folder=str(colours / "val"))], compute=COMPUTE, choose=0.5)
    saved = between.at(0.5, found.points[found.chosen].measured)
    pictures = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        mixed = torch.nn.functional.normalize(saved.clip.image.encode(pictures), dim=-1)
    export_model(saved, str(run), tmp_path / "out", to="open_clip")
    facts = json.loads((tmp_path / "out" / "clipft.json").read_text(encoding="utf-8"))
    assert facts["additions"]["image"]["feature_adapter"]["ratio"] == 0.2
    model, _, _ = clipft.load(tmp_path / "out")
    with torch.no_grad():
        torch.testing.assert_close(model.encode_image(pictures, normalize=True), mixed, atol=1e-6, rtol=0)


def test_a_classifier_is_mixed_with_the_zero_shot_one(train_colours: Any, tiny_native: Path, colours: Path) -> None:
    """WiSE-FT, section 3: at 0 the classifier answers as the base's prompts do."""
    run = train_colours(tiny_native, loss={"type": "classifier"}, data={"templates": ["a photo of a {}.", "{}"]})
    between = open_between(str(run), None, device=CPU, autocast=COMPUTE.autocast)
    assert {"classifier.weight", "classifier.bias"} <= between.mixture.names
    tuned = between.saved.clip.model.get_parameter("classifier.weight").clone()
    found = interpolate(between, [0.5], [FolderSource(folder=str(colours / "val"))], compute=COMPUTE)
    assert found.figures == ("classifier_top1",)
    base, _, last = (point.measured[0].figures() for point in found.points)
    assert base["classifier_top1"] == base["zero_shot_top1"]
    assert base["classifier_nll"] == pytest.approx(base["nll"], abs=1e-5)
    assert last == load_figures(run, colours)
    between.mixture.put(1.0)
    assert torch.equal(between.saved.clip.model.get_parameter("classifier.weight"), tuned)


def load_figures(run: Path, colours: Path) -> dict[str, float]:
    source = FolderSource(folder=str(colours / "val"))
    tuned = evaluate_target(str(run), source, device=CPU, workers=0, with_base=False).tuned
    assert tuned is not None
    return tuned.figures()


def test_a_classifier_is_not_asked_about_strange_classes(
    train_colours: Any, tiny_native: Path, colours: Path, tiny_photos: Path, tmp_path: Path
) -> None:
    run = train_colours(tiny_native, loss={"type": "classifier"}, train={"epochs": 1})
    (tmp_path / "strange").mkdir()
    for name in ("red", "green"):
        (tmp_path / "strange" / f"dark {name}").symlink_to(tiny_photos / name)
    found = run_through(run, [], colours / "val", tmp_path / "strange")
    assert found.figures == ("classifier_top1", "zero_shot_top1")


def test_what_cannot_be_mixed_is_refused(
    train_colours: Any, tiny_native: Path, make_run: Any, three_runs: tuple[Path, ...], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"its classifier started at random \(loss.init: random\)"):
        run_through(make_run(tiny_native, loss="classifier"), [])
    prompted = {"name": f"local-dir:{tiny_native}", "image": {"prompt": {"length": 2}}}
    with pytest.raises(InputError, match=r"model.image.prompt: a base without prompt vectors has nothing"):
        run_through(make_run(tiny_native, model=prompted), [])
    drawn = {"name": f"local-dir:{tiny_native}", "embed_dim": 20}
    with pytest.raises(InputError, match=r"its projections were drawn anew \(model.embed_dim, projection: reset\)"):
        run_through(make_run(tiny_native, model=drawn), [])
    with pytest.raises(InputError, match="an exported model does not bring its base"):
        run_through(tiny_native, [])
    with pytest.raises(InputError, match="no such run"):
        run_through(tmp_path / "none", [])
    with pytest.raises(InputError, match=r"--choose: 'zero_shot_top5' is not measured on this data; .* zero_shot_top1"):
        run_through(three_runs[0], [], choose="zero_shot_top5")


@pytest.mark.parametrize(
    ("words", "alphas"),
    [
        ("0:1:0.1", [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1]),
        ("0.2:0.8:0.3", [0.2, 0.5, 0.8]),
        ("0:1:0.4", [0, 0.4, 0.8]),
        ("0.25,0.5", [0.25, 0.5]),
        ("0.7", [0.7]),
    ],
)
def test_alphas_are_read_as_written(words: str, alphas: list[float]) -> None:
    assert read_alphas(words) == alphas


@pytest.mark.parametrize("words", ["", "a", "0:1", "0:1:0", "0:2:0.1", "-1:1:0.5", "1.5", "nan", "0:1:nan", "0:1:1e-9"])
def test_what_is_no_alpha_is_refused(words: str) -> None:
    with pytest.raises(InputError, match=r"--alpha: expected numbers from 0 to 1 as FROM:TO:STEP"):
        read_alphas(words)


def test_the_table_fits_80_columns_and_marks_the_ends(found: Interpolation) -> None:
    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        console.print(interpolation_view(found))
    lines = capture.get().splitlines()
    assert max(map(len, lines)) <= 80
    (base,) = [line for line in lines if re.match(r" +0  base", line)]
    (tuned,) = [line for line in lines if re.match(r" +1  tuned", line)]
    assert f"{found.values(0)[0]:.3f}" in base
    assert f"{found.values(1)[-1]:.3f}" in tuned
    assert sum("chosen" in line and "alpha" not in line for line in lines) == 1
    assert sum(line.count("*") for line in lines) == 3  # the best of A, of B and of the mean


def test_the_curve_has_a_line_a_data_set(found: Interpolation, tmp_path: Path) -> None:
    odd = replace(found, run='runs/<"&>')
    write_curve(odd, tmp_path / "c.svg")
    root = ElementTree.parse(tmp_path / "c.svg").getroot()
    lines = root.findall("{http://www.w3.org/2000/svg}polyline")
    assert [len(line.attrib["points"].split()) for line in lines] == [5, 5]
    words = [text.text or "" for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert 'runs/<"&> mixed with its base' in words
    for expected in ("0 base", "1 tuned", "alpha: share of the tuned weights"):
        assert expected in words
    height = float(root.attrib["height"])
    for line in lines:
        assert all(0 < float(pair.split(",")[1]) < height for pair in line.attrib["points"].split())
