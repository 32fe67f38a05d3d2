"""What the orders of two kernels say of a difference: a finding, and bounds by depth in place of length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from roundoff.order.compared import Compared
from roundoff.order.order import Order
from roundoff.records import Account, Booking, Finding, Kind


def with_orders(account: Account, orders: Sequence[Compared]) -> Account:
    """``account`` with the finding ``summation-order`` for each sum that its two sides add in different orders, and the
    bounds that follow from the orders that are known."""
    places: dict[str, list[str]] = {}
    for o in orders:
        if o.differ:
            places.setdefault(o.told, []).append(f"A: {o.sum.where_a}; B: {o.sum.where_b}")
    found = tuple(
        Finding(Kind.SUMMATION_ORDER, first, told + (f" The same at {' and at '.join(more)}." if more else ""))
        for told, (first, *more) in places.items()
    )
    known: dict[tuple[str, int], Order] = {}
    for o in orders:
        for side, steps, order in (("A", o.sum.steps_a, o.a), ("B", o.sum.steps_b, o.b)):
            if order is not None and len(steps) == 1:
                known[side, steps[0]] = order
    ledger = tuple(_tightened(row, known.get((row.side, row.step))) for row in account.ledger)
    return replace(account, ledger=ledger, findings=account.findings + found)


def _tightened(row: Booking, order: Order | None) -> Booking:
    """``row`` with the bound of its order. The bound by length is γ_{n+2}, or larger, times the size of the products, and
    what is lost where products underflow, which stays."""
    if order is None or order.bound is None or order.length_bound is None or row.bound_abs is None:
        return row
    by_order = row.bound_abs * order.bound / order.length_bound + order.length * 2.0**-149
    return replace(row, order_bound_abs=min(by_order, row.bound_abs))
