"""What `clipft inspect` shows of five models of five families, as text beside its test.

    python scripts/write_inspect_expected.py

writes tests/report/expected/inspect-NAME.txt anew; look at the difference before you commit it. The test compares the
files with what inspect shows today.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from clipft.config.schema import ModelConfig
from clipft.model.build import build_meta
from clipft.model.subject import without_weights
from clipft.report import inspection

NAMES = ("ViT-B-32", "RN50", "ViT-B-16-SigLIP2", "MobileCLIP2-S0", "coca_ViT-B-32")
FOLDER = Path(__file__).resolve().parent.parent / "tests" / "report" / "expected"


def expected_file(name: str) -> Path:
    """Where the text of a model is."""
    return FOLDER / f"inspect-{name}.txt"


def inspected(name: str) -> str:
    """Summary, walkthrough and folded tree, each below its command, at 80 columns without colour."""
    file = io.StringIO()
    console = Console(file=file, width=80, highlight=False)
    for options, view in _views(name):
        console.print(f"$ clipft inspect --model {name}{options}", markup=False, soft_wrap=True)
        view.show(console)
        console.print()
    return file.getvalue()


def _views(name: str) -> Iterator[tuple[str, inspection.View]]:
    subject = without_weights(build_meta(ModelConfig(name=name)))
    yield "", inspection.summary(subject)
    yield " --walkthrough", inspection.walkthrough(subject, None, None)
    yield " --tree", inspection.tree(subject, None, full=False)


def main() -> None:
    """Write all of them."""
    FOLDER.mkdir(exist_ok=True)
    for name in NAMES:
        expected_file(name).write_text(inspected(name), encoding="utf-8")
        print(expected_file(name))


if __name__ == "__main__":
    main()
