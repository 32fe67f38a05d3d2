"""``python -m roundoff.cli`` is ``roundoff``."""

from roundoff.cli import main

main()
