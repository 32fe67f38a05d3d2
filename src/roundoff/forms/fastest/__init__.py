"""The form and memory layout in which a network runs fastest on this machine, measured."""

from roundoff.forms.fastest.measure import Fastest, Found, fastest
from roundoff.forms.fastest.plan import Layer
from roundoff.forms.fastest.race import Race

__all__ = ["Fastest", "Found", "Layer", "Race", "fastest"]
