"""Every recipe runs, trains exactly what its head says, and says what a reader needs."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console
from tiny_files import write_native

from clipft.config.load import Loaded, load_config
from clipft.report.train_view import TrainView
from clipft.train.plan_report import report_plans
from clipft.train.rehearsal import dry_run

CONFIGS = Path(__file__).parents[1] / "configs"
RECIPES = sorted((CONFIGS / "recipes").glob("*.yaml"))
HEAD = ("Title", "Trains", "Loss", "Published", "Run", "Departures")

IMAGE = r"visual\..*"
CLASSIFIER = r"classifier\.(weight|bias)"
PROJECTIONS = r"visual\.proj|text_projection"
IMAGE_NORMS = r"visual\.(ln_pre|ln_post|transformer\.resblocks\.\d+\.ln_[12])\.(weight|bias)"
TEXT_NORMS = r"(ln_final|transformer\.resblocks\.\d+\.ln_[12])\.(weight|bias)"


def last_blocks(first: int) -> str:
    """The blocks of both towers from this one on, with norm and projection."""
    blocks = "|".join(str(block) for block in range(first, 12))
    return rf"(visual\.)?transformer\.resblocks\.({blocks})\..*|visual\.ln_post\..*|ln_final\..*|{PROJECTIONS}"


TRAINS: dict[str, tuple[str, ...]] = {
    "clip-adapter": (r"image_feature_adapter\.(down|up)\.weight",),
    "clip-lora": (r"(visual\.)?transformer\.resblocks\.\d+\.attn\.lora\.[qkv]\.[ab]",),
    "clipfit": (rf"transformer\.resblocks\.\d+\.mlp\.c_proj\.bias|{IMAGE_NORMS}",),
    "coop": (r"text_prompt\.vectors\.0",),
    "deep-prompts": (r"(image|text)_prompt\.vectors\.\d+",),
    "flyp": (r".*",),
    "last-blocks-and-prompt": (rf"{last_blocks(9)}|text_prompt\.vectors\.0",),
    "lp-ft": (CLASSIFIER, rf"{IMAGE}|{CLASSIFIER}"),
    "progressive": (
        rf"{PROJECTIONS}|logit_scale",
        rf"{last_blocks(10)}|logit_scale",
        rf"{last_blocks(6)}|logit_scale",
        r".*",
    ),
    "prolip": (r"visual\.proj",),
    "two-stage": (rf"{IMAGE_NORMS}|{TEXT_NORMS}", r"classifier\.weight"),
    "visual-prompt": (r"image_prompt\.vectors\.\d+",),
    "wise-ft": (rf"{IMAGE}|{CLASSIFIER}",),
}
"""Of each stage, what all names of what trains match, and no other."""

COUNTS: dict[str, tuple[int, ...]] = {
    "clip-adapter": (2 * 512 * 128,),
    "clip-lora": (184_320,),
    "clipfit": (6_144 + 39_936,),
    "coop": (16 * 512,),
    "deep-prompts": (12 * 2 * (512 + 768),),
    "flyp": (149_620_737,),
    "last-blocks-and-prompt": (3 * 7_087_872 + 1_536 + 393_216 + 3 * 3_152_384 + 1_024 + 262_144 + 3 * 512,),
    "lp-ft": (0, 86_192_640),
    "progressive": (655_361, 21_138_433, 62_099_457, 149_620_737),
    "prolip": (393_216,),
    "two-stage": (39_936 + 25_600, 0),
    "visual-prompt": (12 * 8 * 768,),
    "wise-ft": (86_192_640,),
}
"""Parameters that train on ViT-B/16 in each stage, a classifier left out."""

DASSL = ("clip-adapter", "clipfit", "coop", "deep-prompts", "visual-prompt")
"""Of projects on Dassl.pytorch, whose weight decay of 5e-4 spares neither norms nor prompt vectors."""

every_recipe = pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)


@pytest.fixture(scope="session")
def own_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/ and val/: a folder a class of one-coloured pictures, enough for 16 shots."""
    root = tmp_path_factory.mktemp("photos")
    for split, each in (("train", 16), ("val", 2)):
        for number, colour in enumerate(("red", "green", "blue")):
            folder = root / split / colour
            folder.mkdir(parents=True)
            for i in range(each):
                pixel = [10 * (split == "val")] * 3
                pixel[number] = 255 - i
                Image.new("RGB", (36, 32), tuple(pixel)).save(folder / f"{i}.png")
    return root


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A native ViT of ViT-B/16's depth, and little else of it."""
    vision = {"image_size": 32, "layers": 12, "width": 32, "head_width": 16, "patch_size": 16}
    text = {"context_length": 32, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 12}
    folder = tmp_path_factory.mktemp("model") / "tiny"
    return write_native(folder, embed_dim=16, vision_cfg=vision, text_cfg=text)


@pytest.fixture
def on_tiny(own_photos: Path, tiny_base: Path, tmp_path: Path) -> list[str]:
    """The `--set` options that put a recipe on a tiny model and tiny pictures."""
    changes = {
        "model.name": f"local-dir:{tiny_base}",
        "model.pretrained": "null",
        "data.train.folder": own_photos / "train",
        "data.val.folder": own_photos / "val",
        "data.workers": 0,
        "train.batch_size": 32,
        "train.device": "cpu",
        "train.precision": "fp32",
        "run.dir": tmp_path / "run",
    }
    return [f"{key}={value}" for key, value in changes.items()]


def head_of(path: Path) -> dict[str, str]:
    """The comment at the top: each of its parts without line breaks."""
    _, *lines = path.read_text(encoding="utf-8").split("\nmodel:")[0].splitlines()
    parts: dict[str, str] = {}
    for line in lines:
        name, colon, rest = line.removeprefix("# ").partition(": ")
        if colon and name in HEAD:
            parts[name] = rest
        else:
            assert line.startswith("#   "), line
            parts[next(reversed(parts))] += " " + line.removeprefix("#   ")
    return parts


@every_recipe
def test_a_recipe_rehearses(path: Path, on_tiny: Sequence[str], tmp_path: Path) -> None:
    """`clipft train --dry-run`: real weights and pictures, one step, one evaluation, nothing frozen moved."""
    console = Console(file=(told := io.StringIO()), width=1000)
    dry_run(load_config(path, on_tiny), path.stem, TrainView(console))
    assert "a step took" in told.getvalue()
    assert not (tmp_path / "run").exists()
    assert "; published " not in told.getvalue()  # no warning of a rate that was published


@every_recipe
def test_a_recipe_trains_what_it_says_and_nothing_else(path: Path, own_photos: Path) -> None:
    """By name and by number, on its own model without weights; the numbers stand in its head."""
    folder = f"data.train.folder={own_photos / 'train'}"  # where a classifier gets its classes
    reports = report_plans(load_config(path, [folder], need_data=False).config, with_cost=False)
    said = head_of(path)["Trains"]
    for report, pattern, count in zip(reports, TRAINS[path.stem], COUNTS[path.stem], strict=True):
        trainable = report.plan.trainable
        every = {p.name for p in report.plan.parameters}
        assert {p.name for p in trainable} == {name for name in every if re.fullmatch(pattern, name)}
        assert sum(p.numel for p in trainable if p.group != "classifier") == count
        parts = (6_144, 39_936) if path.stem == "clipfit" else (count,)
        assert all(f"{part:,}" in said for part in parts if part)
        if path.stem in DASSL:
            assert {p.weight_decay for p in trainable} == {5e-4}


@every_recipe
def test_a_recipes_head_has_all_its_parts(path: Path) -> None:
    assert path.read_text(encoding="utf-8").startswith("# yaml-language-server: $schema=../clipft.schema.json\n")
    assert tuple(head_of(path)) == HEAD


@every_recipe
def test_a_recipes_commands_are_right(path: Path) -> None:
    """Each `--set` that its head proposes is taken."""
    head = path.read_text(encoding="utf-8").split("\nmodel:")[0].replace("\n#   ", " ")
    run = f"clipft train configs/recipes/{path.name} --set data.train.folder=photos/train"
    assert run in head_of(path)["Run"]
    for change in re.findall(r"--set (\S+=(?:'[^']+'|[^\s;,]+))", head):
        assert isinstance(load_config(path, [change.replace("'", "").rstrip(".:)")], need_data=False), Loaded)


def test_the_table_names_every_recipe() -> None:
    readme = (CONFIGS / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"\]\(recipes/([\w-]+)\.yaml\)", readme) == [path.stem for path in RECIPES]
