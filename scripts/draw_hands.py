"""Write a sheet of `builtin: hands` for the README: python scripts/draw_hands.py [docs/hands.png]."""

from __future__ import annotations

import sys
from pathlib import Path

from clipft.data.hands import sheet


def main() -> None:
    """Draw 8 x 4 hands; colours in steps of five, which nobody sees, halve the file."""
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/hands.png")
    out.parent.mkdir(parents=True, exist_ok=True)
    page = sheet(columns=8, rows=4, size=96).point(lambda value: round(value / 5) * 5)
    page.save(out, optimize=True)
    print(f"{out}: {out.stat().st_size / 1000:.0f} KB")


if __name__ == "__main__":
    main()
