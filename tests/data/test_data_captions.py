"""The words beside the images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from clipft.data.captions import (
    all_texts,
    caption_report,
    class_prompts,
    example_prompts,
    fill,
    repeats,
    training_text,
)
from clipft.data.columns import TextColumn
from clipft.data.rows import FileImages, Rows

TEMPLATES = ("a photo of a {}.", "{}", "art of a {}")


def rows(captions: list[str] | None = None, labels: list[int] | None = None, classes: tuple[str, ...] = ()) -> Rows:
    count = len(captions if captions is not None else labels or [])
    numbers = np.arange(count)
    return Rows(
        "rows",
        FileImages("", TextColumn.of(f"{i}.png" for i in range(count))),
        None if captions is None else TextColumn.of(captions),
        None if labels is None else np.array(labels),
        classes,
        identities=numbers,
        groups=numbers,
    )


def test_a_caption_is_the_text() -> None:
    assert training_text(rows(["one", "two"]), 1, TEMPLATES, seed=0, epoch=0) == "two"


def test_templates_are_drawn_by_seed_epoch_and_row_alone() -> None:
    labelled = rows(labels=[0, 1] * 150, classes=("cat", "dog"))
    drawn = [training_text(labelled, i, TEMPLATES, seed=5, epoch=2) for i in range(300)]
    assert drawn == [training_text(labelled, i, TEMPLATES, seed=5, epoch=2) for i in range(300)]
    assert drawn != [training_text(labelled, i, TEMPLATES, seed=5, epoch=3) for i in range(300)]
    assert drawn != [training_text(labelled, i, TEMPLATES, seed=6, epoch=2) for i in range(300)]
    share = [sum(text == fill(template, "cat") for text in drawn) / 150 for template in TEMPLATES]
    assert all(0.2 < each < 0.47 for each in share)
    assert set(drawn) == set(all_texts(labelled, TEMPLATES))


def test_a_row_without_a_label_has_no_text() -> None:
    assert training_text(rows(labels=[-1], classes=("cat",)), 0, TEMPLATES, seed=0, epoch=0) == ""


def test_braces_in_a_class_name_stay() -> None:
    assert fill("a {} {x}", "{} {0}") == "a {} {0} {x}"


def test_evaluation_takes_all_templates() -> None:
    assert class_prompts(("cat",), TEMPLATES) == (("a photo of a cat.", "cat", "art of a cat"),)


def test_three_finished_prompts() -> None:
    """P61: a person sees finished prompts, with each template in turn."""
    assert example_prompts(("cat", "dog", "cow", "hen"), TEMPLATES) == ("a photo of a cat.", "dog", "art of a cow")
    assert example_prompts(("cat",), TEMPLATES) == ("a photo of a cat.", "cat", "art of a cat")
    assert example_prompts((), TEMPLATES) == ()


def words(text: str) -> int:
    return len(text.split()) + 2


def test_captions_beyond_the_context_are_counted() -> None:
    """P6: how many captions are cut, the longest one, and examples."""
    texts = ["short", "a b c d e f", "a b c d e f", "a b c d e f g h"]
    report = caption_report(texts, words, context_length=7)
    assert (report.captions, report.cut, report.longest) == (4, 3, 10)
    assert report.examples == ((10, "a b c d e f g h"), (8, "a b c d e f"))
    assert str(report).splitlines() == [
        "3 of 4 captions (75.0 %) are cut at 7 tokens; the longest has 10",
        "10 tokens: 'a b c d e f g h'",
        "8 tokens: 'a b c d e f'",
    ]


def test_cut_captions_are_shown_shortened_and_at_most_three() -> None:
    """P6."""
    shown = str(caption_report(["word " * n for n in (20, 30, 40, 50)], words, context_length=7)).splitlines()[1:]
    assert [line.split()[0] for line in shown] == ["52", "42", "32"]
    assert all(line.endswith("...'") and len(line) < 70 for line in shown)


def test_captions_that_fit() -> None:
    """P6: nothing is cut and the longest is still said."""
    report = caption_report(["a b", "c"], words, context_length=77)
    assert (report.cut, report.examples) == (0, ())
    assert str(report) == "longest caption 4 of 77 tokens"


def test_repeated_captions_are_counted() -> None:
    """P20: the share of rows whose caption occurs again, and how many such rows a batch will hold."""
    report = repeats(rows(["a", "a", "a", "b", "c"]))
    assert (report.rows, report.distinct, report.what) == (5, 3, "captions")
    assert report.repeated == 3 / 5
    assert report.companions == 6 / 5  # three rows with two others each
    assert report.in_batch(5) == 6 / 5
    assert report.in_batch(3) == 6 / 5 / 2


def test_few_classes_are_few_captions() -> None:
    """P21: a folder of two classes is seen to have two distinct texts, far fewer than a batch."""
    report = repeats(rows(labels=[0] * 50 + [1] * 50 + [-1], classes=("cat", "dog")))
    assert (report.distinct, report.what) == (3, "classes")
    assert report.in_batch(101) == 100 * 49 / 101


def test_rows_of_one_image_belong_together() -> None:
    """P20: an image with several captions is a positive of all of them, and is counted so."""
    twice = replace(rows(["a", "b", "c", "d"]), identities=np.array([5, 5, 9, 7]))
    report = repeats(twice)
    assert (report.distinct, report.repeated, report.companions) == (4, 2 / 4, 2 / 4)


def test_company_is_the_positives_of_a_batch_of_everything() -> None:
    """P20: rows that share a caption, a class and an image at once are counted once."""
    rng = np.random.default_rng(3)
    captions, labels, images = rng.integers(0, 12, (3, 60))
    mixed = rows([f"caption {i}" for i in captions], (labels - 1).tolist(), tuple(map(str, range(11))))
    report = repeats(replace(mixed, identities=images))
    together = np.zeros((60, 60), bool)
    for codes in (captions, np.where(labels == 0, -np.arange(60) - 1, labels), images):
        together |= codes[:, None] == codes
    assert report.companions == together.sum() / 60 - 1
    assert report.in_batch(60) == report.companions


def test_expected_company_matches_drawn_batches() -> None:
    """P20: the arithmetic equals what random batches hold."""
    labels = np.repeat([0, 1, 2], [5, 15, 30])
    report = repeats(rows(labels=labels.tolist(), classes=("a", "b", "c")))
    rng = np.random.default_rng(0)
    seen = []
    for _ in range(3000):
        batch = rng.permutation(labels)[:16]
        seen.append((batch[:, None] == batch).sum() / 16 - 1)
    assert abs(np.mean(seen) - report.in_batch(16)) < 0.06
