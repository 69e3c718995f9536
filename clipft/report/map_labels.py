"""Names beside points in a matplotlib panel, each where it hides little."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from clipft.embed.maps import Points

_Box = tuple[float, float, float, float]  # left, bottom, right, top in pixels

_FEW = 30  # names that there is room for in large letters
_MOST = 200  # names that a picture can hold at all
_OFFSETS = ((7, 4), (7, -12), (-7, 4), (-7, -12), (0, 11), (0, -19))  # in points from the star; left ones end there


def name_points(panel: Any, points: Points, names: Sequence[str], colours: Sequence[str]) -> None:
    """A star at each point and, unless there are too many, its name beside it, on white to be read over dots.

    Args:
        panel: axes whose limits are set.
        points: (C, 2).
        names: C texts, taken as they are.
        colours: C colours of the stars.
    """
    from matplotlib.patheffects import withStroke

    few = len(names) <= _FEW
    panel.scatter(*points.T, s=170 if few else 50, marker="*", c=colours, edgecolors="black", linewidths=0.7, zorder=5)
    if len(names) > _MOST:
        return
    renderer, unit = panel.figure.canvas.get_renderer(), panel.figure.dpi / 72
    stars = panel.transData.transform(points)
    around = unit * (6 if few else 3)  # pixels from a star's middle to its tips
    taken = [(x - around, y - around, x + around, y + around) for x, y in stars]
    for name, point, (x, y) in zip(names, points, stars, strict=True):
        text = panel.annotate(
            name,
            point,
            textcoords="offset points",
            xytext=(0, 0),
            fontsize=11 if few else 7,
            fontweight="bold" if few else "normal",
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
            zorder=6,
            parse_math=False,
        )
        size = text.get_window_extent(renderer)
        boxes = [_box(x, y, dx * unit, dy * unit, size.width, size.height) for dx, dy in _OFFSETS]
        hidden = [_hidden(box, taken, panel.bbox.extents) for box in boxes]
        best = hidden.index(min(hidden))
        text.xyann = _OFFSETS[best]
        text.set_horizontalalignment(
            "center" if not _OFFSETS[best][0] else "left" if _OFFSETS[best][0] > 0 else "right"
        )
        taken.append(boxes[best])


def _box(x: float, y: float, dx: float, dy: float, width: float, height: float) -> _Box:
    """Where a name lies that begins, ends or is centred (dx above, below or at 0) at an offset from (x, y)."""
    left = x + dx - (0 if dx > 0 else width if dx < 0 else width / 2)
    return left, y + dy, left + width, y + dy + height


def _hidden(box: _Box, taken: Sequence[_Box], frame: _Box) -> float:
    """Square pixels of the box that lie on stars, on other names, or outside of the frame."""
    whole = (box[2] - box[0]) * (box[3] - box[1])
    return whole - _common(box, frame) + sum(_common(box, other) for other in taken)


def _common(one: _Box, other: _Box) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return float(max(width, 0) * max(height, 0))
