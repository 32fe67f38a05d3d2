"""Draw docs/compare.svg: a command as a terminal shows it. Run it when the output has changed."""

import os
import re
import shlex
import subprocess
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parents[1]
COMMAND = "roundoff compare examples/digits.py:linear examples/digits.py:conv --args examples/digits.npy"
WIDTH = 112

terminal = os.environ | {"FORCE_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": str(WIDTH)}
done = subprocess.run(
    shlex.split(COMMAND), cwd=ROOT, env=terminal, capture_output=True, text=True, check=True
)

with open(os.devnull, "w") as nowhere:
    console = Console(record=True, width=WIDTH, file=nowhere, force_terminal=True)
    console.print(Text.assemble(("$ ", "bold green"), COMMAND), no_wrap=True, overflow="ignore")
    console.print(Text.from_ansi(done.stdout.rstrip("\n")))
    # The fonts are the reader's own: a picture in a page fetches nothing.
    without_fonts = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    svg = console.export_svg(title="roundoff", code_format=without_fonts)
(ROOT / "docs" / "compare.svg").write_text(svg)
