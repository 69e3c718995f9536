"""The config that `clipft init` prints: it loads, fits the size, and tells what it found."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from clipft.advise.base import Machine
from clipft.advise.draft import Data, draft, look_at
from clipft.advise.page import WIDTH
from clipft.advise.rules import Goal
from clipft.config.load import load_config
from clipft.config.schema import Config
from clipft.errors import InputError

MACHINE = Machine("cpu", "fp32", 16 * 10**9)


@pytest.fixture(scope="module")
def photos(tiny_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos that tables of any length point to."""
    folder = tmp_path_factory.mktemp("tables")
    shutil.copytree(tiny_photos, folder / "photos")
    return folder


def table(photos: Path, count: int) -> str:
    """So many rows that point to twelve files."""
    path = photos / f"{count}.csv"
    kinds = ("red", "green", "blue")
    rows = (f"photos/{kinds[i % 3]}/{i // 3 % 4}.png,{kinds[i % 3]},photo {i}" for i in range(count))
    path.write_text("\n".join(["image,label,caption", *rows]) + "\n", encoding="utf-8")
    return str(path)


def cheap(config: Config) -> int:
    return 10**9


def loaded(tmp_path: Path, text: str) -> Config:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return load_config(path).config


def text_for(data: Data, model: Path | None = None) -> str:
    return draft(data, MACHINE, cheap, None if model is None else f"local-dir:{model}", None)


@pytest.mark.parametrize(
    ("count", "goal", "image", "text"),
    [
        (4_999, "classify", "depth - 1", None),
        (4_999, "retrieve", "depth - 1", "depth - 1"),
        (5_000, "classify", "depth - 6", "depth - 2"),
        (5_000, "retrieve", "depth - 6", "depth - 4"),
        (49_999, "classify", "depth - 6", "depth - 2"),
        (50_000, "classify", None, None),
    ],
)
def test_the_size_rules_what_stands_still(
    photos: Path, tmp_path: Path, count: int, goal: Goal, image: str | None, text: str | None
) -> None:
    printed = text_for(look_at(table(photos, count), goal))
    config = loaded(tmp_path, printed)
    assert (config.model.image.freeze_layers, config.model.text.freeze_layers) == (image, text)
    whole = count >= 50_000
    assert config.model.image.freeze_backbone is (False if whole else None)
    assert config.model.text.freeze_backbone is (False if whole else True if text is None else None)
    assert image is None or f"freeze_layers: {image})" in " ".join(printed.replace("#", " ").split())
    assert (config.model.name, config.model.pretrained) == ("ViT-B-32", "laion2b_s34b_b79k")
    assert config.evaluate.best == ("zero_shot_top1" if goal == "classify" else "text_to_image_r5")
    for commented in re.findall(r"^ *# ((?:strategy|optim|loss|  augment): .*)$", printed, re.M):
        key = commented.split(":")[0]
        once = re.sub(rf"^{key}: .*\n", "", printed, flags=re.M)
        loaded(tmp_path, f"{once}\n{commented}\n")
    assert max(map(len, (line for line in printed.splitlines() if "#" in line))) <= WIDTH


def test_no_key_is_a_default(tiny_photos: Path, tiny_native: Path, tmp_path: Path) -> None:
    """Each key stands there for a reason: what goes without saying is left out, but for what a beginner changes."""
    printed = text_for(look_at(str(tiny_photos), None), tiny_native)
    keys = re.findall(r"^ *(\w+):", printed, re.M)
    assert keys == [
        *("strategy", "model", "name", "data", "train", "val", "templates"),
        *("train", "epochs", "batch_size", "evaluate", "best"),
    ]


def test_a_step_that_does_not_fit_goes_in_pieces(photos: Path, tiny_native: Path, tmp_path: Path) -> None:
    """P64: the knob that helps is turned."""

    def peak(config: Config) -> int:
        return (config.train.micro_batch_size or config.train.batch_size) * 10**9

    def printed(gigabytes: int | None) -> str:
        free = None if gigabytes is None else gigabytes * 10**9
        return draft(data, Machine("cpu", "fp32", free), peak, f"local-dir:{tiny_native}", None)

    data = look_at(table(photos, 400), "classify")
    assert loaded(tmp_path, printed(None)).train.batch_size == 32
    assert loaded(tmp_path, printed(41)).train.micro_batch_size is None
    assert loaded(tmp_path, printed(39)).train.micro_batch_size == 16
    assert loaded(tmp_path, printed(5)).train.micro_batch_size == 4
    with pytest.raises(InputError, match="does not train on this cpu, not even 4 rows at once"):
        printed(4)


def test_what_does_not_fit_gives_way_to_what_does(photos: Path, tmp_path: Path) -> None:
    def peak(config: Config) -> int:
        return 10**12 if config.model.image.freeze_layers is None else 10**9

    printed = draft(look_at(table(photos, 50_000), "classify"), MACHINE, peak, None, None)
    assert loaded(tmp_path, printed).model.image.freeze_layers == "depth - 6"
    assert "For so many images strategy: full would be the choice" in printed


def test_a_network_of_stages_has_no_lora(tiny_photos: Path, tiny_timm_bert: Path, tmp_path: Path) -> None:
    printed = text_for(look_at(str(tiny_photos), None), tiny_timm_bert)
    loaded(tmp_path, printed)
    assert "strategy: lora" not in printed


# --- what was found ------------------------------------------------------------------------------


def copied(tiny_photos: Path, tmp_path: Path, **names: str) -> Path:
    """The photos with other class names."""
    for old, new in names.items():
        shutil.copytree(tiny_photos / old, tmp_path / "found" / new)
    return tmp_path / "found"


def words(text: str) -> str:
    """The text without its line breaks."""
    return " ".join(text.replace("\n#", " ").split())


def test_digits_get_words(tiny_photos: Path, tiny_native: Path, tmp_path: Path) -> None:
    folder = copied(tiny_photos, tmp_path, red="0", green="1", blue="2")
    printed = text_for(look_at(str(folder), None), tiny_native)
    assert loaded(tmp_path, printed).data.class_names == {"0": "zero", "1": "one", "2": "two"}
    assert "If they do not mean the numbers" in words(printed)
    assert '"a photo of a zero."' in printed


def test_faults_copies_and_few_images_are_told(tiny_photos: Path, tiny_native: Path, tmp_path: Path) -> None:
    """P3, P10, P61: what spoils a run is told before it."""
    folder = copied(tiny_photos, tmp_path, red="red_ball", green="green", blue="blue")
    shutil.copy(folder / "red_ball" / "0.png", folder / "green" / "copy.png")
    (folder / "blue" / "broken.png").write_bytes(b"no picture")
    (folder / "blue" / "empty.png").touch()
    for number in range(50):
        shutil.copy(folder / "green" / "1.png", folder / "green" / f"more{number}.png")
    printed = text_for(look_at(str(folder), None), tiny_native)
    told = words(printed)
    assert "1 of 65 images are missing or empty" in told.replace("1 of 65 images missing", "")
    assert "broken.png: not a JPEG" in told
    assert "One image lies in two classes, byte for byte the same" in told
    assert re.search(r"51 are copies, byte for byte: \S+ = \S+, \S+ = \S+, \S+ = \S+ and 48 more\. Resized", told)
    assert "Fewer than 16 images: 2 of 3 classes (red_ball 4, blue 6)" in told
    assert "The classes are very unequal: green has 55 images, red_ball 4" in told
    assert "# loss: {type: classifier, class_weights: balanced}" in printed
    config = loaded(tmp_path, printed)
    assert config.evaluate.best == "mean_per_class"
    assert config.data.class_names == {"red_ball": "red ball"}


def test_long_and_repeated_captions_are_told(photos: Path, tiny_native: Path, tmp_path: Path) -> None:
    """P6, P20: cut and repeated captions are counted."""
    path = tmp_path / "long.csv"
    rows = [f"{photos}/photos/red/{i % 4}.png,{'word ' * 100 if i == 0 else 'a photo'}" for i in range(8)]
    path.write_text("\n".join(["image,caption", *rows]) + "\n", encoding="utf-8")
    printed = text_for(look_at(str(path), None), tiny_native)
    assert "1 of 8 captions (12.5 %) are cut at 77 tokens" in words(printed)
    assert "Only 2 of 8 captions are different" in words(printed)
    loaded(tmp_path, printed)


def test_a_table_with_both_says_what_it_leaves(photos: Path) -> None:
    path = table(photos, 30)
    assert "the table has captions too, in column caption; --goal retrieve trains on them" in look_at(path, None).said
    assert (
        "the table has classes too, in column label; --goal classify trains on them" in look_at(path, "retrieve").said
    )


def test_a_goal_that_the_data_cannot_serve(tiny_photos: Path) -> None:
    """P21: classes are no captions."""
    with pytest.raises(InputError, match="--goal retrieve: needs captions, and these data have classes only"):
        look_at(str(tiny_photos), "retrieve")


def test_data_beside_it_that_do_not_fit_are_left(tiny_photos: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_photos, tmp_path / "train")
    shutil.copytree(tiny_photos / "red", tmp_path / "val" / "purple")
    shutil.copytree(tiny_photos / "red", tmp_path / "val" / "red")
    data = look_at(str(tmp_path), None)
    assert data.val == 0.1
    assert "could not be taken to measure on" in data.said[-1]


@pytest.mark.parametrize("name", ["# no comment: {x}", 'it\'s [odd], "very"', "- a", "true", "1e3", "ünï cødé"])
def test_odd_names_survive(tiny_photos: Path, tiny_native: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    shutil.copytree(tiny_photos / "red", folder / "x_y #1: {z}")
    shutil.copytree(tiny_photos / "green", folder / "null")
    config = loaded(tmp_path, text_for(look_at(str(folder), None), tiny_native))
    assert config.data.train.model_dump() == {"folder": str(folder)}
    assert config.data.class_names == {"x_y #1: {z}": "x y #1: {z}"}
