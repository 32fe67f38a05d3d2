"""Watch a run: every executed ATen operation with its operands, module and source line."""

from __future__ import annotations
