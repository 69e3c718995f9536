"""What a person sees while a model trains."""

import io
from collections.abc import Iterator
from dataclasses import replace

import pytest
from rich.console import Console
from rich.text import Text

from clipft.report.run_table import columns
from clipft.report.train_view import Pulse, TrainView, in_time


def view(*, terminal: bool) -> TrainView:
    return TrainView(Console(file=io.StringIO(), width=80, force_terminal=terminal, highlight=False))


def text(shown: TrainView) -> str:
    assert isinstance(shown.console.file, io.StringIO)
    return shown.console.file.getvalue()


PULSE = Pulse(loss=2.3123, chance=4.1589, rates={"image": 8.4e-6}, scale=71.2, memory=2_000_000_000)


def test_off_a_terminal_lines_are_plain_and_end_each_epoch() -> None:
    """P18, P24: the loss stands beside chance, the scale as exp(logit_scale)."""
    shown = view(terminal=False)
    shown.begin(epochs=3, steps_per_epoch=2)
    shown.epoch(1)
    for _ in range(2):
        shown.step(PULSE, rows=64, seconds=0.5, waited=0.01)
    assert "epoch 1/3  step 2/2  loss 2.31 (chance 4.16) · lr 8.4e-06 · scale 71 · 128 pairs/s" in text(shown)
    assert "wait 2% · 2 GB · 0:02 left" in text(shown)
    assert "\x1b" not in text(shown)


def test_the_live_line_fits_80_columns() -> None:
    shown = view(terminal=True)
    shown.begin(epochs=100, steps_per_epoch=12345)
    shown.epoch(100)
    shown.step(PULSE, rows=64, seconds=0.5, waited=0.3)
    with shown.console.capture() as drawn:
        shown.console.print(shown._picture(PULSE))
    shown.stop()
    assert all(Text.from_ansi(line).cell_len <= 80 for line in drawn.get().splitlines())
    assert len(drawn.get().splitlines()) == 2


def test_rates_of_several_parts_get_a_line_of_their_own_where_they_must() -> None:
    shown = view(terminal=True)
    shown.begin(epochs=10, steps_per_epoch=10)
    rates = {"image": 1e-5, "text": 2e-5, "heads": 1e-4}
    pulse = replace(PULSE, rates=rates, added=0.00149, whole_process=True)
    with shown.console.capture() as drawn:
        shown.console.print(shown._picture(pulse))
    shown.stop()
    lines = [Text.from_ansi(line) for line in drawn.get().splitlines()]
    assert all(line.cell_len <= 80 for line in lines)
    assert lines[1].plain.strip() == "lr 1.0e-05 image, 2.0e-05 text, 1.0e-04 heads · process 2 GB"
    assert lines[2].plain.strip().startswith("loss 2.31 + pull 0.0015 (chance 4.16) · scale 71")
    assert len(lines) == 3


@pytest.mark.parametrize("terminal", [True, False])
def test_long_work_passes_whole_through_the_watch(terminal: bool) -> None:
    shown = view(terminal=terminal)
    shown.begin(epochs=1, steps_per_epoch=1)
    shown._printed_at = -1e9  # as if the last line were long ago
    assert list(shown.watch([7, 8, 9], 3, "counting")) == [7, 8, 9]
    shown.stop()
    if not terminal:
        assert text(shown) == " counting: 1 of 3\n"  # the others come too soon after it


def test_what_is_said_before_there_is_a_folder_reaches_the_log(tmp_path) -> None:  # type: ignore[no-untyped-def]
    shown = view(terminal=False)
    shown.say("first")
    shown.log_to(tmp_path / "log.txt")
    shown.warn("second")
    assert [line.split() for line in (tmp_path / "log.txt").read_text().splitlines()] == [
        ["first"],
        ["warning", "second"],
    ]


def test_a_table_of_evaluations_fits_80_columns() -> None:
    shown = view(terminal=False)
    figures = {"loss": 2.5, "zero_shot_top1": 0.9, "image_to_text_r5": 0.4, "text_to_image_r5": 0.4, "nll": 1.0}
    shown.table_head(figures)
    shown.table_row("base", None, figures)
    shown.table_row("100", 2.123, figures, mark="best")
    rows = text(shown).splitlines()
    assert all(len(row) <= 80 for row in rows)
    assert " ".join(rows[0].split()) == "epoch train loss val loss zero-shot top-1 image to text R@5"
    assert rows[2].endswith("  best")


def _tables() -> Iterator[tuple[str, dict[str, float]]]:
    """What chooses the best, among figures with it: of captions, classes, a classifier, base and novel classes."""
    losses, k = {"loss": 2.5, "nll": 1.0}, (1, 5, 10)
    sure = ("mean_per_class", "ece", "confident_wrong")
    captions = {f"{way}_r{at}": 0.4 for way in ("image_to_text", "text_to_image") for at in k}
    classes = {"zero_shot_top1": 0.9, "zero_shot_top5": 0.9, **dict.fromkeys(sure, 0.1)}
    head = {"classifier_top1": 0.9, "loss": 2.5, "classifier_nll": 1.0, **{f"classifier_{s}": 0.1 for s in sure}}
    novel = dict.fromkeys(("base_top1", "novel_top1", "harmonic_mean"), 0.8)
    for metrics in (losses | captions, losses | classes, losses | classes | captions, losses | classes | novel, head):
        for name in metrics:
            yield name, metrics
            yield name, metrics | {"keep.zero_shot_top1": 0.2, "keep.nll": 1.5}
    yield "keep.nll", losses | classes | {"keep.zero_shot_top1": 0.2, "keep.nll": 1.5}


def test_what_chooses_the_best_always_has_its_column_within_80() -> None:
    for name, metrics in _tables():
        shown = view(terminal=False)
        shown.table_head(metrics, kept="a-long-name", chooses=name)
        shown.table_row("100", 2.123, metrics, mark="(best)")
        head, row = text(shown).splitlines()
        assert name in columns(metrics, chooses=name)
        assert "kept" in head or "keep.nll" not in metrics
        assert len(row) <= 80
        assert row.endswith(" (best)")
        assert len(head.split("  ")) >= len(row.split()) - 1  # headings stand apart


@pytest.mark.parametrize(("seconds", "words"), [(41, "0:41"), (61.4, "1:01"), (3723, "1:02:03")])
def test_time_in_words(seconds: float, words: str) -> None:
    assert in_time(seconds) == words
