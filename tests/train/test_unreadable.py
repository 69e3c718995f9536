"""Images to measure on that cannot be read (P3)."""

import pytest
from train_runs import said, view

from clipft.data.decoding import RowFault
from clipft.errors import InputError
from clipft.train.unreadable import tell_unreadable


def test_each_is_named_once_and_too_many_end_the_run() -> None:
    """P3: at the limit the run goes on."""
    faults = [RowFault(i, f"val/{i}.png", f"val/{i}.png", "is empty") for i in range(3)]
    shown, named = view(), set[str]()
    for seen in (faults[:1], faults[:2]):
        tell_unreadable(seen, "folder val", 20, 0.1, shown, named)
    text = " ".join(said(shown).split())
    assert text == "warning val/0.png: is empty; it is left out warning val/1.png: is empty; it is left out"
    with pytest.raises(InputError, match=r"3 of 20 images of folder val cannot .* 10\.00% .* first is val/0\.png: is"):
        tell_unreadable(faults, "folder val", 20, 0.1, shown, named)
