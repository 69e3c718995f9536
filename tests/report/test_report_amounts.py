"""Numbers as a person reads and writes them."""

from __future__ import annotations

import pytest

from clipft.errors import InputError
from clipft.report.amounts import in_bytes, read_bytes


@pytest.mark.parametrize(
    ("words", "size"),
    [("8GB", 8e9), ("7.5 gb", 7.5e9), ("24GiB", 24 * 2**30), ("8G", 8e9), ("512 MB", 512e6), ("1T", 1e12)],
)
def test_sizes(words: str, size: float) -> None:
    assert read_bytes(words, "--fits") == size


@pytest.mark.parametrize("words", ["8", "GB", "8 apples", "-8GB", "0GB", ""])
def test_no_sizes(words: str) -> None:
    with pytest.raises(InputError, match=r"--fits: expected a size such as 8GB, 7.5GB or 24GiB, found "):
        read_bytes(words, "--fits")


def test_a_size_is_read_as_it_is_written() -> None:
    assert in_bytes(read_bytes("24 GB", "--fits")) == "24 GB"
