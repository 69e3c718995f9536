"""What `clipft models` prints: a line an architecture in 80 columns, with what there is to know of it."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from clipft.model.catalogue import catalogue
from clipft.model.profiles import Architecture, Catalogue
from clipft.report.models_view import print_fits, print_models

COCA = """\
open_clip 3.3.0 · 1 architecture · 2 tags

 architecture                          M params    px   GFLOPs  tags  top-1
 coca_ViT-L-14                            638.5   224    176.9     2  0.756
   laion2b_s13b_b90k                                                  0.756
   mscoco_finetuned_laion2b_s13b_b90k                                 0.720

 GFLOPs  a forward pass of one image and one text of full length; a multiply-add
         is two
 top-1   of the best tag on ImageNet, zero-shot, as open_clip's documents have
         it; - where they do not
"""
EVERY = catalogue()


def listed(found: Catalogue, *, with_tags: bool = False, width: int = 80) -> str:
    file = io.StringIO()
    print_models(found, Console(file=file, width=width, highlight=False), with_tags=with_tags)
    return file.getvalue()


def fitting(found: Catalogue, size: float, precision: str = "bf16") -> str:
    file = io.StringIO()
    console = Console(file=file, width=80, highlight=False)
    print_fits(found, found.fitting(size, precision), console, size=int(size), precision=precision)
    return file.getvalue()


def row(text: str, name: str) -> list[str]:
    return next(line.split() for line in text.splitlines() if line.split()[:1] == [name])


def test_one_with_its_tags_whole() -> None:
    assert listed(EVERY.search("coca_ViT-L"), with_tags=True) == COCA


def test_it_all_fits() -> None:
    texts = (listed(EVERY), listed(EVERY, with_tags=True), fitting(EVERY, 8e9), fitting(EVERY, 80e9, "fp32"))
    for text in texts:
        assert max(map(len, text.splitlines())) <= 80


def test_a_line_an_architecture_and_its_best_tag_where_there_is_room() -> None:
    assert row(listed(EVERY), "ViT-B-32") == ["ViT-B-32", "151.3", "224", "14.8", "17", "0.692"]
    assert row(listed(EVERY, width=120), "ViT-B-32")[-2:] == ["0.692", "datacomp_xl_s13b_b90k"]
    assert row(listed(EVERY), "ViT-S-16") == ["ViT-S-16", "62.3", "224", "12.6", "-", "-"]


def test_a_tag_of_another_activation_says_where_it_belongs() -> None:
    """P42: no accuracy is shown for a pair that would not have it."""
    text = listed(EVERY.search("RN50x4"), with_tags=True)
    assert row(text, "openai") == ["openai", "belongs", "to", "RN50x4-quickgelu"]


def test_what_trains_in_8_gb() -> None:
    text = fitting(EVERY, 8e9)
    assert text.startswith(f"open_clip 3.3.0 · {len(EVERY.fitting(8e9, 'bf16'))} of 144 architectures train in 8.0 GB")
    assert row(text, "ViT-B-32")[-3:] == ["128", "128", "256+"]
    assert row(text, "ViT-H-14")[-3] == "-"
    assert "EVA02-E-14" not in text


@pytest.mark.parametrize("missing", [(), ("new-model",)])
def test_tables_of_another_version_are_said(missing: tuple[str, ...]) -> None:
    new = tuple(Architecture(name, (), None) for name in missing)
    found = replace(EVERY, tables="3.2.0", architectures=(*EVERY.architectures[:3], *new))
    words = " ".join(listed(found).split())
    assert "note these figures are of open_clip 3.2.0" in words
    if missing:
        assert "which had no new-model: clipft inspect --model new-model" in words
        assert row(listed(found), "new-model") == ["new-model", "-", "-", "-", "-", "-"]
