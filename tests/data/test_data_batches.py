"""Batches follow from (seed, epoch, row); bad rows are replaced, named and limited."""

from __future__ import annotations

import os
import pickle
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from clipft.config.data_schema import AugmentConfig
from clipft.config.source_schema import FolderSource, HandsSource
from clipft.data.augment import train_transform
from clipft.data.batches import Batch, TrainBatches, eval_batches, resolve_workers, worker_death
from clipft.data.decoding import EvalItems, TrainItems
from clipft.data.hands import HandImages
from clipft.data.sources import Rows, read_source
from clipft.errors import ClipftError, InputError

CFG: dict[str, Any] = {"size": 16}
CHANGES = AugmentConfig(crop_scale=(0.3, 1.0), flip=True, color_jitter=0.3)


def photos(root: Path, count: int = 22, bad: tuple[int, ...] = ()) -> Rows:
    """Pictures of two classes; every colour is its row."""
    for i in range(count):
        path = root / ("even" if i < count // 2 else "odd") / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((20, 20), 10 + i).convert("RGB").save(path)
        if i in bad:
            path.write_bytes(path.read_bytes()[:40])
    return read_source(FolderSource(folder=str(root)), {})


def batches(rows: Rows, augment: AugmentConfig | None = None, **keys: Any) -> TrainBatches:
    keys = {"batch_size": 4, "seed": 0, "workers": 0, "max_bad_fraction": 0.2, **keys}
    return TrainBatches(rows, train_transform(CFG, augment), **keys)


def same(ours: list[Batch], theirs: list[Batch]) -> bool:
    return len(ours) == len(theirs) and all(
        torch.equal(a.images, b.images)
        and torch.equal(a.indices, b.indices)
        and torch.equal(a.labels, b.labels)
        and torch.equal(a.identities, b.identities)
        and a.captions == b.captions
        for a, b in zip(ours, theirs, strict=True)
    )


def test_a_batch_knows_which_rows_show_the_same_image(tmp_path: Path) -> None:
    """P20: so that the loss can take them as positives of each other."""
    numbers = np.arange(22) // 2 + 100
    rows = replace(photos(tmp_path, bad=(3,)), identities=numbers)
    preprocess = image_transform_v2(PreprocessCfg(size=16), is_train=False)
    made = [*batches(rows).epoch(0), *eval_batches(rows, preprocess, batch_size=4, workers=0)]
    assert len(made) == 5 + 6
    for batch in made:
        assert batch.identities.dtype == torch.int64
        assert batch.identities.tolist() == numbers[batch.indices.numpy()].tolist()


def test_an_epoch_is_full_batches_of_different_rows(tmp_path: Path) -> None:
    loader = batches(photos(tmp_path), templates=("a {}",))
    made = list(loader.epoch(0))
    assert len(made) == 5
    seen = torch.cat([batch.indices for batch in made]).tolist()
    assert len(set(seen)) == len(seen) == 20
    for batch in made:
        assert batch.images.shape == (4, 3, 16, 16)
        assert batch.labels.tolist() == [int(i >= 11) for i in batch.indices]
        assert batch.captions == [f"a {'even' if i < 11 else 'odd'}" for i in batch.indices]


def test_tensors_are_the_transform_of_the_row(tmp_path: Path) -> None:
    rows = photos(tmp_path)
    preprocess = image_transform_v2(PreprocessCfg(**CFG), is_train=False)
    for batch in batches(rows).epoch(0):
        for image, index in zip(batch.images, batch.indices, strict=True):
            assert torch.equal(image, preprocess(rows.images.read(int(index))))


def test_fewer_rows_than_a_batch_are_no_steps(tmp_path: Path) -> None:
    loader = batches(photos(tmp_path, 3))
    assert list(loader.epoch(0)) == []


def test_epochs_differ_and_repeat(tmp_path: Path) -> None:
    """P9: each epoch has an order and changes of its own, the same whenever it is asked for."""
    loader = batches(photos(tmp_path), CHANGES)
    first, second, again = (list(loader.epoch(number)) for number in (0, 1, 0))
    assert same(first, again)
    assert [b.indices.tolist() for b in first] != [b.indices.tolist() for b in second]
    looks = [
        {int(row): image for batch in made for row, image in zip(batch.indices, batch.images, strict=True)}
        for made in (first, second)
    ]
    both = looks[0].keys() & looks[1].keys()
    assert all(not torch.equal(looks[0][row], looks[1][row]) for row in both)


def test_two_workers_give_what_none_gives(tmp_path: Path) -> None:
    """P9: workers draw different changes, and their number changes nothing."""
    rows = photos(tmp_path, bad=(3, 17))
    alone, pair = batches(rows, CHANGES), batches(rows, CHANGES, workers=2)
    for epoch in (0, 1):
        assert same(list(alone.epoch(epoch)), list(pair.epoch(epoch)))
    assert alone.bad.keys() == pair.bad.keys()
    pair.close()


def test_equal_pictures_change_differently_in_different_workers(tmp_path: Path) -> None:
    """P9: eight copies of one picture in batches made by two workers come out in eight ways."""
    rows = photos(tmp_path, 8)
    path = rows.images[0]
    for i in range(8):
        Path(rows.images[i]).write_bytes(Path(path).read_bytes())
    loader = batches(rows, CHANGES, workers=2)
    images = torch.cat([batch.images for batch in loader.epoch(0)])
    loader.close()
    assert len({image.numpy().tobytes() for image in images}) == 8


def test_an_epoch_broken_off_leaves_the_next_whole(tmp_path: Path) -> None:
    rows = photos(tmp_path)
    loader = batches(rows, CHANGES, workers=2)
    for _ in loader.epoch(0):
        break
    assert same(list(loader.epoch(1)), list(batches(rows, CHANGES).epoch(1)))
    loader.close()


def test_starting_workers_draws_nothing_from_the_global_generator(tmp_path: Path) -> None:
    loader = batches(photos(tmp_path), CHANGES, workers=2)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    list(loader.epoch(0))
    loader.close()
    assert torch.equal(torch.rand(2), expected)


def test_rows_and_transforms_work_under_spawn(tmp_path: Path) -> None:
    """P8: spawned workers, as on Windows and macOS, give the same batches."""
    rows = photos(tmp_path)
    loader = batches(rows, CHANGES, workers=1, start_method="spawn")
    assert same(list(loader.epoch(0)), list(batches(rows, CHANGES).epoch(0)))
    loader.close()


@pytest.mark.parametrize("kind", ["folder", "hands"])
def test_what_workers_get_pickles(tmp_path: Path, kind: str) -> None:
    """P8: every dataset crosses a process border, for training and for evaluation."""
    rows = photos(tmp_path) if kind == "folder" else read_source(HandsSource(builtin="hands", count=8, size=20), {})
    train = TrainItems(rows, train_transform(CFG, CHANGES), 0)
    evaluation = EvalItems(rows, image_transform_v2(PreprocessCfg(**CFG), is_train=False))
    copies: list[Any] = pickle.loads(pickle.dumps([train, evaluation]))
    assert torch.equal(copies[0].__getitems__([(1, 2)]).images, train.__getitems__([(1, 2)]).images)
    assert torch.equal(copies[1].__getitems__([2]).images, evaluation.__getitems__([2]).images)


def test_a_bad_row_is_named_once_and_replaced_in_its_epoch(tmp_path: Path) -> None:
    """P3: one truncated image costs no step; it is named with its reason, and another row stands in."""
    rows = photos(tmp_path, bad=(5,))
    loader = batches(rows, batch_size=11)
    faults = []
    for epoch in range(3):
        for batch in loader.epoch(epoch):
            assert len(set(batch.indices.tolist())) == 11  # never a row that the batch has already
            assert 5 not in batch.indices
            faults += batch.faults
    assert [(fault.index, fault.path) for fault in faults] == [(5, rows.images[5])]
    assert str(faults[0]).startswith(f"{rows.images[5]}: ")
    assert list(loader.bad) == [5]


def test_too_many_bad_rows_end_the_run(tmp_path: Path) -> None:
    """P3: above data.max_bad_fraction the run stops, with count, share, limit and files."""
    rows = photos(tmp_path, bad=(1, 4, 8, 12, 15))
    with pytest.raises(InputError) as caught:
        list(batches(rows, max_bad_fraction=0.15).epoch(0))
    message = str(caught.value)
    assert "4 of 22 training images (18 %) cannot be decoded, more than the 15 % of data.max_bad_fraction" in message
    assert message.count(".png: ") == 3


def test_up_to_the_limit_the_run_goes_on(tmp_path: Path) -> None:
    loader = batches(photos(tmp_path, 20, bad=(1, 4)), max_bad_fraction=0.1)
    assert sum(len(batch.indices) for batch in loader.epoch(0)) == 20
    assert len(loader.bad) == 2


def test_a_batch_of_all_rows_shrinks_rather_than_repeat_one(tmp_path: Path) -> None:
    batch = next(batches(photos(tmp_path, 6, bad=(2,)), batch_size=6, max_bad_fraction=0.5).epoch(0))
    assert sorted(batch.indices.tolist()) == [0, 1, 3, 4, 5]


def test_nothing_but_bad_rows_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="4 of 4 training images"):
        list(batches(photos(tmp_path, 4, bad=(0, 1, 2, 3)), max_bad_fraction=1.0).epoch(0))


def test_evaluation_keeps_order_and_the_tail_and_leaves_bad_rows_out(tmp_path: Path) -> None:
    rows = photos(tmp_path, bad=(5,))
    preprocess = image_transform_v2(PreprocessCfg(**CFG), is_train=False)
    for workers in (0, 2):
        made = list(eval_batches(rows, preprocess, batch_size=8, workers=workers))
        assert torch.cat([batch.indices for batch in made]).tolist() == [i for i in range(22) if i != 5]
        assert [len(batch.images) for batch in made] == [7, 8, 6]
        assert [fault.index for batch in made for fault in batch.faults] == [5]
        assert all(batch.captions == [] for batch in made)
        assert torch.cat([batch.labels for batch in made]).tolist() == [int(i >= 11) for i in range(22) if i != 5]


def test_evaluation_has_captions_where_rows_do() -> None:
    rows = read_source(HandsSource(builtin="hands", count=5, size=16, label=None), {})
    preprocess = image_transform_v2(PreprocessCfg(**CFG), is_train=False)
    (batch,) = eval_batches(rows, preprocess, batch_size=8, workers=0)
    assert batch.captions == list(rows.captions or ())
    assert batch.labels.tolist() == [-1] * 5


def test_pages_of_rows_are_not_held_by_workers_twice(tmp_path: Path) -> None:
    """P7: what a worker is given has no captions, labels or Python object a row."""
    rows = photos(tmp_path)
    many = rows.take(np.zeros(100_000, np.int64))
    size = len(pickle.dumps(TrainItems(many, train_transform(CFG, None), 0)))
    assert size < 100_000 * (len("even/000.png") + 8 + 8 + 8) + 20_000


class Killer(HandImages):
    """Images whose reader is killed, as the system does when memory is short."""

    def read(self, index: int) -> Image.Image:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("unreachable")


def test_a_dead_worker_is_a_sentence() -> None:
    """P8: the message names shared memory and data.workers."""
    rows = read_source(HandsSource(builtin="hands", count=8, size=16), {})
    rows = replace(rows, images=Killer(0, 16, np.arange(8)))
    loader = batches(rows, workers=1)
    with pytest.raises(ClipftError, match=r"a data worker died .*(Killed|exited).*shared memory.*data\.workers"):
        list(loader.epoch(0))
    loader.close()


def test_other_errors_stay_what_they_are() -> None:
    assert worker_death(RuntimeError("shapes differ")) is None


def test_auto_leaves_a_core_to_training() -> None:
    assert resolve_workers(3) == 3
    assert resolve_workers(0) == 0
    assert 1 <= resolve_workers("auto") <= 8
