"""A comparison as plain data, with a versioned schema."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from roundoff.files import write as write
from roundoff.judge.verdict import Judgement
from roundoff.order.compared import Compared
from roundoff.records import Account, Booking, Finding, Output

#: Each changes when a field changes its meaning or goes; new fields do not change it.
SCHEMA = "roundoff.comparison/1"
EXPLANATION = "roundoff.explanation/1"


def as_dict(judgement: Judgement, version: str) -> dict[str, Any]:
    """The judgement as dicts, lists, strings and numbers. Sizes that are not finite are the strings "inf" and "nan"."""
    return {
        "schema": SCHEMA,
        "roundoff": version,
        "verdict": str(judgement.verdict),
        "evidence": str(judgement.evidence),
        "reason": judgement.reason,
        "outputs": [_output(o) for o in judgement.outputs],
        "findings": [_finding(f) for f in judgement.findings],
    }


def account_as_dict(account: Account, version: str, orders: Sequence[Compared] = ()) -> dict[str, Any]:
    """The account as dicts, lists, strings and numbers; the ledger in its order, the largest share first; ``orders`` of
    sums that both sides compute."""
    sizes = ("difference", "booked", "residual_abs", "real_share")
    return {
        "schema": EXPLANATION,
        "roundoff": version,
        "target": account.target,
        **{name: _size(getattr(account, name)) for name in sizes},
        "ledger": [_booking(b) for b in account.ledger],
        "findings": [_finding(f) for f in account.findings],
        "orders": [order.to_dict() for order in orders],
    }


def _booking(b: Booking) -> dict[str, Any]:
    sizes = ("local_abs", "inherited_abs", "error_rel", "amplification", "share", "bent_share")
    return {
        "side": b.side,
        "step": b.step,
        "op": b.op,
        "module": b.module,
        "source": b.source,
        "bound_abs": None if b.bound_abs is None else _size(b.bound_abs),
        "order_bound_abs": None if b.order_bound_abs is None else _size(b.order_bound_abs),
        **{name: _size(getattr(b, name)) for name in sizes},
    }


def _finding(f: Finding) -> dict[str, str]:
    return {"kind": str(f.kind), "where": f.where, "text": f.text}


def _output(o: Output) -> dict[str, Any]:
    sizes = ("max_abs", "roundoff_a_abs", "roundoff_b_abs", "real_abs", "floor_abs", "value_abs")
    return {
        "name": o.name,
        "shape": list(o.shape),
        "dtype": str(o.dtype).removeprefix("torch."),
        "identical": o.identical,
        "index": None if o.index is None else list(o.index),
        "max_ulp": o.max_ulp,
        **{name: _size(getattr(o, name)) for name in sizes},
    }


def _size(x: float) -> float | str:
    return x if math.isfinite(x) else str(x)


def as_json(data: dict[str, Any]) -> str:
    """The data as text, the same for the same data."""
    return json.dumps(data, indent=2, allow_nan=False) + "\n"
