"""The tables of architectures and tags: true of the installed open_clip, searched, and asked what fits."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import open_clip
import pytest

from clipft.errors import InputError
from clipft.model.build import build_meta
from clipft.model.catalogue import TABLES, catalogue
from clipft.model.profiles import (
    BATCH_SIZES,
    WAYS,
    Architecture,
    Catalogue,
    Profile,
    Tag,
)
from clipft.model.registry import installed_tags
from clipft.train.cost import StepShape, step_cost
from clipft.train.precision import Precision
from clipft.train.prepare import plan_of
from profile_models import config_of, profile

SHIPPED = {each.name: each for each in catalogue().architectures}
SAMPLE = [
    "coca_ViT-B-32",
    "convnext_large_d",
    "EVA02-B-16",
    "MobileCLIP2-S0",
    "MobileCLIP-B",
    "mt5-base-ViT-B-32",
    "nllb-clip-base",
    "PE-Core-B-16",
    "RN50",
    "roberta-ViT-B-32",
    "swin_base_patch4_window7_224",
    "ViT-B-16-SigLIP2",
    "ViT-L-14-CLIPA",
    "vit_relpos_medium_patch16_cls_224",
    "ViTamin-S",
]


def shipped(name: str) -> Profile:
    found = SHIPPED[name].profile
    assert found is not None
    return found


def plain(profile: Profile) -> object:
    return json.loads(json.dumps(profile.__dict__))


# --- true of open_clip ---------------------------------------------------------------------------


def test_names_and_tags_are_the_installed_ones() -> None:
    assert list(SHIPPED) == open_clip.list_models()
    tags = {
        name: [replace(tag, zero_shot_top1=None, source=None) for tag in each.tags] for name, each in SHIPPED.items()
    }
    assert tags == installed_tags()
    assert {(name, tag.name) for name, each in SHIPPED.items() for tag in each.tags} == set(open_clip.list_pretrained())


@pytest.mark.parametrize("name", ["ViT-B-32", "RN50", "nllb-clip-base"])
def test_sizes_and_operations_are_what_building_shows(name: str) -> None:
    assert plain(profile(name, ())) == plain(replace(shipped(name), peak_mb={}))


@pytest.mark.slow
def test_sizes_and_operations_of_every_architecture() -> None:
    for name in SHIPPED:
        assert plain(profile(name, ())) == plain(replace(shipped(name), peak_mb={})), name


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLE)
def test_memory_too(name: str) -> None:
    """To 2 %: another torch may keep a tensor more or less."""
    found, table = (each.peak_mb["bf16"] for each in (profile(name, ["bf16"]), shipped(name)))
    for way in WAYS:
        assert list(found[way]) == pytest.approx(list(table[way]), rel=0.02)


# docs/model_profile.csv of open_clip at f862f86: millions of parameters, GFLOPs of an image and of a text
PUBLISHED = {
    "ViT-B-32": (151.28, 8.82, 5.96),
    "ViT-B-16": (149.62, 35.13, 5.96),
    "ViT-bigG-14": (2539.57, 967.5, 97.86),
    "convnext_base_w_320": (179.39, 62.67, 9.27),
    "swin_base_patch4_window7_224": (178.56, 30.86, 9.27),
    "coca_ViT-L-14": (638.45, 163.64, 13.3),
    "EVA02-E-14-plus": (5044.89, 2264.33, 97.86),
    "ViT-SO400M-14-SigLIP-384": (877.96, 670.35, 53.13),
    "vit_relpos_medium_patch16_cls_224": (101.94, 16.03, 5.96),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_figures_are_those_that_open_clip_publishes(name: str) -> None:
    table = shipped(name)
    figures = table.parameters / 1e6, table.image_flops / 1e9, table.text_flops / 1e9
    assert figures == pytest.approx(PUBLISHED[name], abs=0.005)


def test_a_resnet_pools_for_less_than_published() -> None:
    """12.22 GFLOPs in open_clip, which pools at every place of the last map and then takes one of them."""
    assert shipped("RN50").image_flops == pytest.approx(11.59e9, abs=0.005e9)


@pytest.mark.parametrize(
    ("way", "precision"),
    [
        ("full", "bf16"),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("full", "fp32"), ("heads", "bf16"))),
    ],
)
def test_a_step_takes_what_the_freeze_report_says(way: str, precision: str) -> None:
    """At a batch size that the table's lines were not measured at."""
    config = config_of("ViT-B-32", {"freeze_backbone": True} if way == "heads" else {})
    meta = build_meta(config.model)
    plan = plan_of(config, meta, "contrastive", ())
    shape = StepShape("contrastive", 256, precision=Precision(precision), device="cuda")
    expected = step_cost(meta, plan, shape).peak / 1e6
    assert shipped("ViT-B-32").peak_mb[precision][way][-1] == pytest.approx(math.ceil(expected), abs=2)


def test_more_rows_and_more_that_trains_take_more() -> None:
    for name in SHIPPED:
        for precision, ways in shipped(name).peak_mb.items():
            assert set(ways) == set(WAYS)
            for way in WAYS:
                assert len(ways[way]) == len(BATCH_SIZES)
                assert all(less <= more for less, more in pairwise(ways[way])), (name, precision, way)
            for full, lora, heads in zip(*(ways[way] for way in WAYS), strict=True):
                assert full >= lora >= heads > shipped(name).parameters * 4 / 1e6, (name, precision)


# --- accuracy ------------------------------------------------------------------------------------


def test_every_accuracy_is_of_a_tag() -> None:
    lines = (TABLES / "zero_shot.csv").read_text(encoding="utf-8").splitlines()
    rows = [tuple(line.split(",")) for line in lines if not line.startswith("#")][1:]
    assert len({row[:2] for row in rows}) == len(rows)
    assert {row[:2] for row in rows} <= set(open_clip.list_pretrained())
    results = "docs/openclip_results.csv"
    assert {row[3] for row in rows} == {results, f"{results} (name without -quickgelu)", "README.md"}
    assert all(0 < float(row[2]) < 1 for row in rows)


def test_openai_weights_have_one_accuracy_under_both_names() -> None:
    for name, each in SHIPPED.items():
        if name.endswith("-quickgelu") and "openai" in [tag.name for tag in each.tags]:
            both = (SHIPPED[name], SHIPPED[name.removesuffix("-quickgelu")])
            first, second = (next(tag for tag in one.tags if tag.name == "openai") for one in both)
            assert first.zero_shot_top1 == second.zero_shot_top1 is not None


def test_known_accuracies() -> None:
    best = {name: each.best for name, each in SHIPPED.items()}
    assert best["ViT-B-32"] == Tag("datacomp_xl_s13b_b90k", zero_shot_top1=0.6917, source="docs/openclip_results.csv")
    assert best["PE-Core-bigG-14-448"] == Tag("meta", zero_shot_top1=0.854, source="README.md")
    assert best["ViT-L-14"] == Tag("dfn2b_s39b", zero_shot_top1=0.822, source="README.md")
    assert best["RN50"] is None  # all of its weights want RN50-quickgelu
    assert best["MobileCLIP2-S0"] is None  # no figure in open_clip's documents


def test_weights_of_another_activation_are_told_where_they_belong() -> None:
    """P42."""
    tags = {tag.name: tag for tag in SHIPPED["ViT-B-32"].tags}
    assert (tags["openai"].loads, tags["openai"].instead) == (False, "ViT-B-32-quickgelu")
    assert tags["laion2b_s34b_b79k"].loads


# --- asked ---------------------------------------------------------------------------------------


def test_a_name_brings_all_its_tags_and_a_tag_those_alone() -> None:
    every = catalogue()
    siglip = every.search("siglip2-25").architectures
    assert [each.name for each in siglip][:2] == ["ViT-B-16-SigLIP2-256", "ViT-B-32-SigLIP2-256"]
    assert len(every.search("vit-b-32").search("B-32-quick").architectures[0].tags) == 5
    found = every.search("LAION2B_S34B").architectures
    assert {tag.name for each in found for tag in each.tags} >= {"laion2b_s34b_b79k", "laion2b_s34b_b88k"}
    assert all("laion2b_s34b" in tag.name for each in found for tag in each.tags)


@pytest.mark.parametrize(("words", "near"), [("vit b32", "ViT-B-32"), ("siglpi", "SigLIP"), ("opanai", "openai")])
def test_nothing_found_names_the_nearest(words: str, near: str) -> None:
    with pytest.raises(InputError, match=rf"no architecture or tag .* contains '{words}'; did you mean .*{near}"):
        catalogue().search(words)


def test_the_largest_batch_that_fits() -> None:
    peaks = {way: [1000, 1100, 1300, 1700, 2500, 4100, 7300, 13_700] for way in WAYS}
    each = replace(shipped("ViT-B-32"), peak_mb={"bf16": peaks})
    assert each.largest_batch("full", "bf16", 7.299e9) == 64
    assert each.largest_batch("full", "bf16", 7.3e9) == 128
    assert each.largest_batch("full", "bf16", 1e12) == 256
    assert each.largest_batch("full", "bf16", 999e6) is None


def test_what_fits_nowhere_is_left_out() -> None:
    every = catalogue()
    names = {fit.architecture.name: fit for fit in every.fitting(8e9, "bf16")}
    assert "EVA02-E-14-plus" not in names  # 20 GB of weights
    assert names["ViT-L-14"].full is not None
    assert names["ViT-H-14"].full is None  # 16 GB of weights, gradients and averages
    assert names["ViT-H-14"].heads is not None
    assert len(every.fitting(1e13, "fp32")) == len(SHIPPED)


# --- another open_clip ---------------------------------------------------------------------------


def test_an_architecture_that_the_tables_lack_is_still_listed(tmp_path: Path) -> None:
    """A later open_clip has more names: they come from it, without figures."""
    shutil.copytree(TABLES, tmp_path, dirs_exist_ok=True)
    table = json.loads((TABLES / "profiles.json").read_text())
    table["architectures"] = [row for row in table["architectures"] if row["name"] != "ViT-B-32"]
    (tmp_path / "profiles.json").write_text(json.dumps(table | {"open_clip": "3.2.0"}))
    found = catalogue(tmp_path)
    assert (found.tables, found.installed) == ("3.2.0", open_clip.__version__)
    assert [replace(each, profile=None) for each in found.architectures] == [
        replace(each, profile=None) for each in SHIPPED.values()
    ]
    assert [each.name for each in found.architectures if each.profile is None] == ["ViT-B-32"]
    assert "ViT-B-32" not in {fit.architecture.name for fit in found.fitting(1e13, "bf16")}


def test_an_architecture_as_json() -> None:
    each = Architecture("a", (Tag("t", loads=False, instead="b"),), None)
    tag = {"name": "t", "loads": False, "instead": "b", "zero_shot_top1": None, "source": None}
    assert Catalogue("1", "2", (each,)).to_json() == {
        "open_clip": "2",
        "profiles_of": "1",
        "batch_sizes": list(BATCH_SIZES),
        "architectures": [{"name": "a", "tags": [tag], "profile": None}],
    }
