"""A run that collapses ends with a sentence; one that learns does not (P25)."""

import re
from pathlib import Path

import pytest
from tiny_files import write_native
from train_runs import Write, go, lines, said, stop_after, view

from clipft.errors import ClipftError
from clipft.model.runfiles import open_checkpoint
from clipft.train.checkpoint import committed
from clipft.train.health import collapsed


@pytest.fixture
def pretrained(tmp_path: Path) -> dict[str, str]:
    """A model whose weights are in a file, so that it counts as a base worth keeping."""
    return {"name": f"local-dir:{write_native(tmp_path / 'pretrained')}"}


@pytest.mark.parametrize(
    ("first", "now", "said"),
    [
        ({"image_similarity": 0.8}, {"image_similarity": 0.995}, "two images that say different things"),
        ({"text_similarity": 0.8}, {"text_similarity": 0.995}, "two different texts"),
        ({"image_similarity": 0.8}, {"image_similarity": 0.98}, None),
        ({"image_similarity": 0.96}, {"image_similarity": 0.999}, None),
        ({}, {"image_similarity": 0.999}, None),
    ],
)
def test_a_collapse_is_near_1_where_the_beginning_was_not(
    first: dict[str, float], now: dict[str, float], said: str | None
) -> None:
    """P25."""
    found = collapsed(first, now)
    assert found is None if said is None else found is not None and said in found


def test_a_run_at_an_absurd_rate_is_stopped(write: Write, pretrained: dict[str, str]) -> None:
    """P25: with the figures, the rate and what to change; the collapsed weights are not saved."""
    path = write(model=pretrained, optim={"lr": 1.0, "warmup": 0})
    with pytest.raises(ClipftError, match=r"mean cosine of (0\.99|1\.0).*rate far too high \(here 1\).*base itself"):
        go(path)
    run = next((path.parent / "runs").iterdir())
    assert committed(run) == []
    base, last = lines(run, "evaluation")
    assert base["similarity"]["image_similarity"] < 0.95
    assert last["similarity"]["image_similarity"] > 0.99


def test_the_last_good_checkpoint_is_named(
    write: Write, pretrained: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """P25: of a run that learns for an epoch, then is driven into the ground; after a resume too."""
    path = write(model=pretrained)
    stop_after(1, path, monkeypatch)
    monkeypatch.setattr("clipft.train.optim.Schedule.rate", lambda self, peak, step: 1.0)
    with pytest.raises(ClipftError, match=r"the last good checkpoint is \S+step-000004$"):
        go(path)


def test_a_run_that_learns_goes_on(write: Write, pretrained: dict[str, str]) -> None:
    """P25: and each evaluation tells how alike things are."""
    run = go(write(model=pretrained, train={"epochs": 2})).folder
    told = [line["similarity"] for line in lines(run, "evaluation")]
    assert len(told) == 3
    assert all(set(one) == {"image_similarity", "text_similarity"} for one in told)
    assert told[-1]["text_similarity"] < told[0]["text_similarity"]


def test_vectors_that_make_all_alike_when_drawn_are_no_collapse(write: Write, pretrained: dict[str, str]) -> None:
    """P25: what a run is held against is the model that trains, not its base without vectors."""
    image = {"prompt": {"length": 60, "depth": 2}}
    run = go(write(model=pretrained | {"image": image}, optim={"lr_new": 1e-6}, train={"epochs": 1})).folder
    base, last = (line["similarity"]["image_similarity"] for line in lines(run, "evaluation"))
    assert base < 0.95
    assert last > 0.99
    first = open_checkpoint(run).state["first_similarity"]
    assert first["image_similarity"] == pytest.approx(last, abs=1e-4)


def test_random_weights_are_only_warned_of(write: Write) -> None:
    """What was drawn may begin collapsed and still learn."""
    shown = view()
    go(write(optim={"lr": 1.0, "warmup": 0}, train={"epochs": 2}), shown=shown)
    words = " ".join(said(shown).split())
    assert len(re.findall("From random weights that may pass", words)) == 1
