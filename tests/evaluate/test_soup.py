"""A soup is the plain average of its runs, and a greedy one is never worse than its best run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from rich.console import Console
from torch import Tensor

import clipft
from clipft.config.source_schema import FolderSource
from clipft.data.sources import read_source
from clipft.errors import InputError
from clipft.evaluate.compare import evaluate_target
from clipft.evaluate.measure import measure
from clipft.evaluate.pot import open_pot
from clipft.evaluate.soup import Soup, cook, greedy, serve
from clipft.evaluate.sweep import Compute
from clipft.export.write import export_model
from clipft.model.build import build
from clipft.model.lora import merge_lora
from clipft.model.saved import load_saved
from clipft.report.soup_view import soup_view

CPU = torch.device("cpu")
COMPUTE = Compute(CPU, workers=0)


def names(runs: tuple[Path, ...]) -> list[str]:
    return [str(run) for run in runs]


def weights(run: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = load_saved(run).clip.model.state_dict()
    return tensors


@pytest.mark.parametrize(
    ("table", "higher", "taken"),
    [
        # runs 0, 1, 2, the best first; 1 makes it worse, 2 as good as it was
        ({(0,): 0.8, (1,): 0.7, (2,): 0.6, (0, 1): 0.75, (0, 2): 0.8}, True, (0, 2)),
        ({(0,): 0.8, (1,): 0.7, (2,): 0.6, (0, 1): 0.85, (0, 1, 2): 0.84}, True, (0, 1)),
        ({(0,): 0.2, (1,): 0.3, (2,): 0.4, (0, 1): 0.1, (0, 1, 2): 0.3}, False, (0, 1)),
    ],
)
def test_greedy_takes_what_does_not_make_it_worse(
    table: dict[tuple[int, ...], float], higher: bool, taken: tuple[int, ...]
) -> None:
    """Model soups, algorithm 1."""
    tasted = greedy((0, 1, 2), table.__getitem__, higher=higher)
    assert tuple(each.run for each in tasted if each.taken) == taken
    assert [each.run for each in tasted] == [0, 1, 2]


def test_a_uniform_soup_is_the_plain_mean(three_runs: tuple[Path, ...]) -> None:
    pot = open_pot(names(three_runs), None, CPU)
    found = cook(pot, None, recipe="uniform", compute=COMPUTE)
    assert sorted(found.taken) == [0, 1, 2]
    served = serve(pot, found).clip.model.state_dict()
    runs = [weights(run) for run in three_runs]
    for name, tensor in served.items():
        expected = torch.stack([run[name] for run in runs]).double().mean(dim=0).to(tensor.dtype)
        assert torch.equal(tensor, expected), name
    assert found.measured is not None
    assert all(each.together == found.measured.figures()["zero_shot_top1"] for each in found.tasted)


def test_a_greedy_soup_is_never_worse_than_its_best_run(
    three_runs: tuple[Path, ...], colours: Path, tmp_path: Path
) -> None:
    pot = open_pot(names(three_runs), None, CPU)
    found = cook(pot, None, recipe="greedy", compute=COMPUTE)
    singles = [evaluate_target(str(run), None, device=CPU, workers=0, with_base=False).tuned for run in three_runs]
    alone = {each.run: each.alone for each in found.tasted}
    assert [alone[number] for number in range(3)] == [
        single.metrics["zero_shot_top1"] for single in singles if single is not None
    ]
    assert found.measured is not None
    assert found.figure == "zero_shot_top1"
    assert len(found.taken) > 1
    assert found.measured.metrics["zero_shot_top1"] >= max(alone.values())
    assert any("keep other rows for the figure" in note for note in found.notes)

    written = export_model(serve(pot, found), names(three_runs)[0], tmp_path / "soup", to="open_clip")
    assert float(written.checked.rpartition(" ")[2]) <= 1e-6
    again = evaluate_target(
        str(tmp_path / "soup"), FolderSource(folder=str(colours / "val")), device=CPU, workers=0
    ).tuned
    assert again is not None
    assert again.metrics == found.measured.metrics
    open_clip.create_model(f"local-dir:{tmp_path / 'soup'}")
    clipft.load(tmp_path / "soup")
    mixed = json.loads((tmp_path / "soup" / "clipft.json").read_text(encoding="utf-8"))["mixed"]
    assert mixed["soup"] == "greedy"
    assert mixed["runs"] == [str(three_runs[number]) for number in found.taken]


def test_what_only_one_run_trained_is_averaged_with_the_base(
    train_colours: Any, three_runs: tuple[Path, ...], tiny_native: Path
) -> None:
    frozen = train_colours(tiny_native, model={"text": {"freeze_backbone": True}}, train={"epochs": 1})
    pot = open_pot([str(frozen), str(three_runs[0])], None, CPU)
    pot.put((0, 1))
    base = build(load_saved(frozen).config.model, 0).model.state_dict()
    name = "token_embedding.weight"
    expected = (base[name].double() + weights(three_runs[0])[name]) / 2
    assert torch.equal(pot.saved.clip.model.state_dict()[name], expected.float())
    assert torch.equal(weights(frozen)[name], base[name])


def test_prompt_vectors_of_one_seed_are_averaged_too(train_colours: Any, tiny_native: Path) -> None:
    model = {"image": {"prompt": {"length": 2}}, "text": {"prompt": {"length": 3}}}
    runs = [
        train_colours(tiny_native, model=model, train={"epochs": 1}, optim={"lr": lr, "warmup": 1, "lr_new": "x10"})
        for lr in (1e-3, 5e-3)
    ]
    found = cook(open_pot(names((runs[0], runs[1])), None, CPU), None, recipe="uniform", compute=COMPUTE)
    for each in found.tasted:
        alone = evaluate_target(str(runs[each.run]), None, device=CPU, workers=0, with_base=False).tuned
        assert alone is not None
        assert each.alone == alone.metrics["zero_shot_top1"]


def test_runs_that_do_not_fit_together_are_refused(
    three_runs: tuple[Path, ...], make_run: Any, tiny_native: Path, tiny_timm_bert: Path
) -> None:
    one, other, _ = names(three_runs)
    with pytest.raises(InputError, match=r"cannot be averaged with .*: another architecture"):
        open_pot([one, str(make_run(tiny_timm_bert))], None, CPU)
    onward = {"name": f"local-dir:{tiny_native}", "pretrained": other}
    with pytest.raises(InputError, match="another base"):
        open_pot([one, str(make_run(tiny_native, model=onward))], None, CPU)
    with pytest.raises(InputError, match="another classifier"):
        open_pot([one, str(make_run(tiny_native, loss="classifier"))], None, CPU)
    heads = [str(make_run(tiny_native, loss="classifier", features="pooled", run={"seed": seed})) for seed in (0, 1)]
    with pytest.raises(InputError, match=r"a classifier drawn from another run.seed \(1, not 0\)"):
        open_pot(heads, None, CPU)
    adapted = [
        str(make_run(tiny_native, model={"name": f"local-dir:{tiny_native}", "image": image}, run={"seed": seed}))
        for image, seed in (({"adapter": {}}, 0), ({"adapter": {}}, 1), ({}, 0))
    ]
    with pytest.raises(InputError, match=r"adapters drawn from another run.seed"):
        open_pot(adapted[:2], None, CPU)
    with pytest.raises(InputError, match=r"another form: no new parameters, not model\.image\.adapter; a soup"):
        open_pot([adapted[0], adapted[2]], None, CPU)
    with pytest.raises(InputError, match="is named twice"):
        open_pot([one, other, one], None, CPU)
    with pytest.raises(InputError, match="name at least two runs"):
        open_pot([one], None, CPU)


def test_runs_with_other_validation_rows_need_data(make_run: Any, tiny_native: Path, tiny_photos: Path) -> None:
    """P56: what one held out, another has trained on."""
    runs = [str(make_run(tiny_native, run={"seed": seed})) for seed in (0, 1)]
    pot = open_pot(runs, None, CPU)
    with pytest.raises(InputError, match=r"--data: .* hold out other rows, since run.seed differs"):
        cook(pot, None, recipe="greedy", compute=COMPUTE)
    uniform = cook(pot, None, recipe="uniform", compute=COMPUTE)
    assert uniform.measured is None
    assert "nothing was measured" in uniform.notes[0]
    trained = cook(pot, FolderSource(folder=str(tiny_photos)), recipe="uniform", compute=COMPUTE)
    assert any("no held-out figures" in note for note in trained.notes)


def test_what_is_kept_stands_in_the_table(train_colours: Any, tiny_native: Path, tiny_photos: Path) -> None:
    """P62: of each run alone and of the soup, with the prompts that are its own."""
    watched: dict[str, Any] = {"keep": {"folder": str(tiny_photos)}, "keep_templates": ["a scan of {}"]}
    runs = [
        str(train_colours(tiny_native, evaluate=watched, train={"epochs": 1}, optim={"lr": lr, "warmup": 1}))
        for lr in (1e-3, 5e-3)
    ]
    pot = open_pot(runs, None, CPU)
    found = cook(pot, None, recipe="uniform", compute=COMPUTE)
    for each in found.tasted:
        alone = evaluate_target(runs[each.run], None, device=CPU, workers=0, with_base=False).kept_tuned
        assert alone is not None
        assert each.kept == alone.metrics["zero_shot_top1"]
    assert found.kept is not None
    assert found.kept.data == "folder " + str(tiny_photos)
    pot.put(found.taken)
    rows = read_source(FolderSource(folder=str(tiny_photos)), {}, "keep")
    mixed = measure(pot.saved.clip, rows, templates=watched["keep_templates"], batch_size=64, workers=0, device=CPU)
    assert found.kept.metrics == mixed.metrics
    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        console.print(soup_view(found))
    assert "kept alone" in capture.get()
    assert f"kept    {found.kept.metrics['zero_shot_top1']:.3f}: the best run alone" in capture.get()
    other = train_colours(tiny_native, train={"epochs": 1})
    without = cook(open_pot([runs[0], str(other)], None, CPU), None, recipe="uniform", compute=COMPUTE)
    assert without.kept is None
    assert any("the runs have different evaluate.keep" in note for note in without.notes)
    plain = train_colours(tiny_native, evaluate={"keep": watched["keep"]}, train={"epochs": 1})
    unlike = cook(open_pot([runs[0], str(plain)], None, CPU), None, recipe="uniform", compute=COMPUTE)
    assert unlike.kept is None
    assert any("the runs have different evaluate.keep_templates" in note for note in unlike.notes)


def test_the_table_fits_80_columns(three_runs: tuple[Path, ...]) -> None:
    for recipe in ("greedy", "uniform"):
        found: Soup = cook(open_pot(names(three_runs), None, CPU), None, recipe=recipe, compute=COMPUTE)
        console = Console(width=80, color_system=None)
        with console.capture() as capture:
            console.print(soup_view(found))
        lines = capture.get().splitlines()
        assert max(map(len, lines)) <= 80
        assert sum("taken" in line for line in lines) == len(found.taken)
        if len(found.taken) == 1:
            said = " ".join("".join(lines).split())
            assert f"the soup is {found.names[found.taken[0]]} itself" in said


def test_lora_is_averaged_as_the_product_that_it_makes(tiny_native: Path, tiny_photos: Path, make_run: Any) -> None:
    """Factors drawn from two seeds have no meaningful mean; the matrices that they make have."""
    towers = {"image": {"lora": {"rank": 2}}, "text": {"lora": {"rank": 4, "targets": ["q", "fc"]}}}
    lora = {"name": f"local-dir:{tiny_native}", **towers}
    runs = [make_run(tiny_native, model=lora, run={"seed": seed}) for seed in (0, 1)]
    pot = open_pot([str(run) for run in runs], None, CPU)
    merged = []
    for run in runs:
        clip = load_saved(run).clip
        merge_lora(clip.model, clip.image, clip.text)
        merged.append(clip.model.state_dict())
    found = cook(pot, FolderSource(folder=str(tiny_photos)), recipe="uniform", compute=COMPUTE)
    for name, tensor in serve(pot, found).clip.model.state_dict().items():
        expected = torch.stack([state[name] for state in merged]).double().mean(dim=0).to(tensor.dtype)
        assert torch.equal(tensor, expected), name
    assert "visual.transformer.resblocks.0.attn.in_proj_weight" in pot.varying
