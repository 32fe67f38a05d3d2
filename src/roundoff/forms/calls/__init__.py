"""Functional calls with a weight, rewritten where they stand: one kind of call a file."""

from roundoff.forms.calls.found import Like, WeightCall
from roundoff.forms.calls.given import name_of
from roundoff.forms.calls.mode import restored
from roundoff.forms.calls.place import Placed, place_calls
from roundoff.forms.calls.rules import PRODUCTS, opened

__all__ = ["PRODUCTS", "Like", "Placed", "WeightCall", "name_of", "opened", "place_calls", "restored"]
