"""Draw docs/compare.svg: two commands as a terminal shows them. Run it when what they print has changed."""

import os
import re
import shlex
import subprocess
import tempfile
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parents[1]
WIDTH = 120
COMMANDS = (
    "roundoff compare examples/digits.py:linear examples/digits.py:conv --args digits.npy",
    "roundoff compare examples/digits.py:flat examples/digits.py:mistaken --args digits.npy",
)


def run(command: str, folder: str) -> str:
    """What ``command`` prints in a terminal."""
    terminal = os.environ | {"FORCE_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": str(WIDTH)}
    return subprocess.run(shlex.split(command), cwd=folder, env=terminal, stdout=subprocess.PIPE, text=True).stdout


with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere:
    (Path(folder) / "examples").symlink_to(ROOT / "examples")
    run("python examples/digits.py --images digits.npy", folder)
    console = Console(record=True, width=WIDTH, file=nowhere, force_terminal=True)
    for command in COMMANDS:
        console.print(Text.assemble(("$ ", "bold green"), command))
        console.print(Text.from_ansi(run(command, folder)))
    # The fonts are the reader's own: a picture in a page fetches nothing.
    without_fonts = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    svg = console.export_svg(title="roundoff", code_format=without_fonts)
(ROOT / "docs" / "compare.svg").write_text(svg)
