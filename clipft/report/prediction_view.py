"""`clipft predict` in the terminal: an image a line, its classes with their probabilities beside it."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from clipft.predict import ClassProbability, Nearest, Predictions

_BAR = 10  # cells of a probability of 1


def prediction_view(predictions: Predictions) -> RenderableType:
    """Every image with its classes, the most probable first, and those that could not be read."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column("image", overflow="fold")
    table.add_column("class", overflow="fold")
    table.add_column("probability", justify="right", no_wrap=True)
    table.add_column("bar", no_wrap=True)
    for prediction in predictions.predictions:
        if not prediction.classes:
            table.add_row(prediction.image, Text("none reaches the threshold", style="dim"), "", "")
        for rank, choice in enumerate(prediction.classes):
            table.add_row(prediction.image if rank == 0 else "", *_cells(choice, rank))
    return Group(Text(f"among {predictions.among}", style="dim"), table)


def nearest_view(nearest: Nearest) -> RenderableType:
    """The images nearest to a text, nearest first."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column("cosine", justify="right", no_wrap=True)
    table.add_column("image", overflow="fold")
    for image, cosine in nearest.images:
        table.add_row(f"{cosine:.3f}", image)
    head = f'nearest to "{nearest.query}" among {nearest.searched:,} images, by cosine'
    return Group(Text(head, style="dim"), table)


def _cells(choice: ClassProbability, rank: int) -> tuple[Text, Text, Text]:
    style = "bold" if rank == 0 else ""
    filled = round(choice.probability * _BAR)
    return Text(choice.name, style), Text(f"{choice.probability:.3f}", style), Text("━" * filled, "cyan")
