"""Several sets of weights at once are measured as one after the other, with each image decoded once."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from clipft.config.schema import ModelConfig
from clipft.config.source_schema import FolderSource
from clipft.data.rows import Images, Rows
from clipft.data.sources import read_source
from clipft.evaluate.measure import measure
from clipft.evaluate.sweep import Compute, Variants, batches_of, first_difference, sweep
from clipft.model.build import build
from clipft.model.classifier import Classifier
from clipft.model.clip_model import ClipModel

CPU = torch.device("cpu")


class Counted:
    """Images that count how often each is read."""

    def __init__(self, images: Images, reads: Counter[str]) -> None:
        self.images, self.reads = images, reads

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> str:
        return self.images[index]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.images, name)

    def take(self, indices: Any) -> Counted:
        return Counted(self.images.take(indices), self.reads)

    def read(self, index: int) -> Image.Image:
        self.reads[self[index]] += 1
        return self.images.read(index)


def model(folder: Path, *, classes: int = 0) -> ClipModel:
    clip = build(ModelConfig(name=f"local-dir:{folder}"), seed=0)
    if classes:
        torch.manual_seed(0)
        clip.model.classifier = Classifier(classes, clip.image.embed_dim, cosine=False, bias=True)
    return clip


def variants(clip: ClipModel, names: list[str]) -> Variants:
    """Three sets of weights that differ in these tensors."""
    state = clip.model.state_dict()
    sets: list[dict[str, Tensor]] = [
        {name: state[name] + 0.05 * number * torch.randn(state[name].shape).abs() for name in names}
        for number in range(3)
    ]

    def put(number: int) -> None:
        for name, tensor in sets[number].items():
            state[name].copy_(tensor)

    return Variants(clip, frozenset(names), 3, put)


def photos(folder: Path, *, captions: bool = False) -> Rows:
    rows = read_source(FolderSource(folder=str(folder)), {})
    if captions:
        from clipft.data.columns import TextColumnBuilder

        column = TextColumnBuilder()
        for index in range(len(rows)):
            column.append(f"picture {index % 5}")
        rows = replace(rows, captions=column.build())
    return rows


def some_names(clip: ClipModel, what: str) -> list[str]:
    names = [name for name, tensor in clip.model.state_dict().items() if tensor.is_floating_point()]
    return {
        "everything": names,
        "image": [name for name in names if name.startswith("visual.")],
        "last blocks": [*clip.image.parts[-3].names, *clip.text.parts[-3].names, "logit_scale"],
        "projections": [*clip.image.parts[-1].names, *clip.text.parts[-1].names],
        "logit_scale": ["logit_scale"],
        "classifier": [name for name in names if name.startswith("classifier.")],
        "statistics": [name for name in names if "running_" in name][-4:],
    }[what]


@pytest.mark.parametrize(
    ("base", "what"),
    [
        *(("tiny_native", what) for what in ("everything", "last blocks", "projections", "logit_scale", "classifier")),
        *(("tiny_timm_bert", what) for what in ("image", "last blocks", "statistics")),
    ],
)
def test_the_figures_are_those_of_measure_one_by_one(
    base: str, what: str, request: pytest.FixtureRequest, tiny_photos: Path
) -> None:
    clip = model(request.getfixturevalue(base), classes=3)
    rows = photos(tiny_photos, captions=True)
    sets = variants(clip, some_names(clip, what))
    found = sweep(
        sets, rows, ("a {} square.",), Compute(CPU, batch_size=5, workers=0), by_classifier=True, pooled=False
    )
    assert len(found) == 3
    for number, each in enumerate(found):
        sets.put(number)
        alone = measure(clip, rows, templates=("a {} square.",), batch_size=5, workers=0, device=CPU, texts_too=True)
        assert {"zero_shot_top1", "classifier_top1", "image_to_text_r5", "nll"} <= each.figures().keys()
        assert each.figures() == pytest.approx(alone.figures(), abs=1e-6)
        assert replace(each, metrics={}, losses={}) == replace(alone, metrics={}, losses={})
    if what != "classifier":
        assert len({each.losses["nll"] for each in found}) == 3  # the sets do differ


def test_each_image_is_decoded_once(tiny_native: Path, tiny_photos: Path) -> None:
    clip, rows = model(tiny_native), photos(tiny_photos)
    reads: Counter[str] = Counter()
    rows = replace(rows, images=Counted(rows.images, reads))
    ticks: list[int] = []
    compute = Compute(CPU, batch_size=5, workers=0, tick=lambda: ticks.append(1))
    sweep(variants(clip, some_names(clip, "everything")), rows, ("{}",), compute, by_classifier=False, pooled=False)
    assert set(reads.values()) == {1}
    assert len(reads) == 12
    assert len(ticks) == 3 * batches_of(rows, compute) == 9


@pytest.mark.parametrize(
    ("names", "image", "text"),
    [
        (["visual.conv1.weight", "logit_scale"], 0, 5),
        (["visual.transformer.resblocks.1.ln_1.weight", "text_projection"], 2, 4),
        (["visual.ln_post.bias", "visual.proj", "ln_final.weight"], 3, 3),
        (["visual.proj", "token_embedding.weight"], 4, 0),
        (["classifier.weight", "transformer.resblocks.0.ln_2.bias"], 5, 1),
        ([], 5, 5),
    ],
)
def test_how_far_a_tower_stays_the_same(tiny_native: Path, names: list[str], image: int, text: int) -> None:
    clip = model(tiny_native)
    assert (first_difference(clip, clip.image, names), first_difference(clip, clip.text, names)) == (image, text)


def test_statistics_belong_where_their_norm_is(tiny_timm_bert: Path) -> None:
    clip = model(tiny_timm_bert)
    name = some_names(clip, "statistics")[-1]
    sibling = f"{name.rpartition('.')[0]}.weight"
    assert first_difference(clip, clip.image, [name]) == first_difference(clip, clip.image, [sibling]) > 0
    assert first_difference(clip, clip.text, [name]) == clip.text.depth + 3
