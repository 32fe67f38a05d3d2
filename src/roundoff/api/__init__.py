"""The public functions: the only place, with the command line, that puts the stages together."""

from roundoff.api.comparison import Comparison, assert_same, compare
from roundoff.api.convert import convert
from roundoff.api.explanation import Explanation
from roundoff.api.order import reveal_order
from roundoff.api.record import record

__all__ = ["Comparison", "Explanation", "assert_same", "compare", "convert", "record", "reveal_order"]
