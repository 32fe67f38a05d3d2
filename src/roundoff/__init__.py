"""Two networks that should be the same give different numbers: is it round-off, or a bug?"""

from roundoff import exact
from roundoff.api import Comparison, assert_same, compare, convert, record, reveal_order
from roundoff.errors import NotSame, RoundoffError
from roundoff.exact.making import make_exact
from roundoff.forms import Conversion
from roundoff.order import Order, SumTree
from roundoff.records import Evidence, Finding, Output, Verdict
from roundoff.rules.user import register_rule
from roundoff.tape.record import Tape
from roundoff.version import __version__

__all__ = [
    "Comparison",
    "Conversion",
    "Evidence",
    "Finding",
    "NotSame",
    "Order",
    "Output",
    "RoundoffError",
    "SumTree",
    "Tape",
    "Verdict",
    "__version__",
    "assert_same",
    "compare",
    "convert",
    "exact",
    "make_exact",
    "record",
    "register_rule",
    "reveal_order",
]
