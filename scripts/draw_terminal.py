"""A command's coloured terminal output as an SVG, for the README.

python scripts/draw_terminal.py docs/freeze-report.svg -- clipft freeze-report configs/handclip.yaml
python scripts/draw_terminal.py docs/training.svg --output run.txt --lines 30 -- clipft train configs/quickstart.yaml
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

WIDTH = 80


def main() -> int:
    """Run the command as if on a terminal of 80 columns and draw what it printed."""
    parser = argparse.ArgumentParser(description="Draw a command's terminal output.")
    parser.add_argument("svg", type=Path)
    parser.add_argument("--lines", type=int, help="keep only the last lines")
    parser.add_argument("--output", type=Path, help="what the command printed, where it is not to be run again")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    lines = (options.output.read_text(encoding="utf-8") if options.output else printed(options.command)).splitlines()
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(Text(f"$ {' '.join(options.command)}", style="bold"))
    for line in lines[-(options.lines or len(lines)) :]:
        console.print(Text.from_ansi(line), soft_wrap=True)
    svg = console.export_svg(title="clipft", theme=MONOKAI)
    options.svg.write_text(without_fonts(svg), encoding="utf-8")
    return 0


def printed(command: list[str]) -> str:
    """What a command prints on a coloured terminal of 80 columns."""
    colours = {"FORCE_COLOR": "1", "COLUMNS": str(WIDTH)}
    done = subprocess.run(command, env=os.environ | colours, capture_output=True, text=True, check=True)
    return (done.stdout + done.stderr).rstrip()


def without_fonts(svg: str) -> str:
    """The picture without rich's downloads of a font: the viewer's own monospace serves."""
    kept, inside = [], False
    for line in svg.splitlines():
        inside = inside or "@font-face" in line
        if not inside:
            kept.append(line.replace("Fira Code, monospace", "monospace"))
        elif "}" in line:
            inside = False
    return "\n".join(kept) + "\n"


if __name__ == "__main__":
    sys.exit(main())
