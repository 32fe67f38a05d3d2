"""Layout flow: what is held moves only where an operator needs it. One rule a file."""

from roundoff.forms.flow.program import without_programs
from roundoff.forms.flow.regions import Flowed, flow

__all__ = ["Flowed", "flow", "without_programs"]
