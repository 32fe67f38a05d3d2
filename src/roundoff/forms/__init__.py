"""The same network in another form: rewriting, one rule a file."""

from roundoff.forms.conversion import Conversion, Converted, Declined
from roundoff.forms.rewrite import FORMS, rewrite
from roundoff.forms.second import second_input

__all__ = ["FORMS", "Conversion", "Converted", "Declined", "rewrite", "second_input"]
