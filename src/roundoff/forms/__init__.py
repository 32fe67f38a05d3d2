"""The same network in another form: rewriting, one rule a file."""

from roundoff.conversion import Conversion
from roundoff.forms.rewrite import FORMS, rewrite
from roundoff.forms.second import second_input

__all__ = ["FORMS", "Conversion", "rewrite", "second_input"]
