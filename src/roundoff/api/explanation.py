"""Where a difference comes from, as the user holds it."""

from __future__ import annotations

import os
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult

from roundoff.order.compared import Compared
from roundoff.records import Account, Booking, Finding
from roundoff.report import json as json_report
from roundoff.report import terminal
from roundoff.report.account import account_view
from roundoff.version import __version__


class Explanation:
    """Where a difference comes from: the ledger of :meth:`Comparison.explain`. Printing it shows the largest shares."""

    def __init__(self, account: Account, orders: tuple[Compared, ...] = ()) -> None:
        self._account = account
        self._orders = orders

    @property
    def target(self) -> str:
        """What was taken apart, in words."""
        return self._account.target

    @property
    def difference(self) -> float:
        """A - B there, in the units of the output; of several directions the root mean square."""
        return self._account.difference

    @property
    def ledger(self) -> tuple[Booking, ...]:
        """Every step of both networks, the largest share first."""
        return self._account.ledger

    @property
    def real_share(self) -> float:
        """The share of the real difference: what is left of the difference in exact arithmetic."""
        return self._account.real_share

    @property
    def booked(self) -> float:
        """The sum of all shares: 1.0 when the whole difference is booked."""
        return self._account.booked

    @property
    def residual_abs(self) -> float:
        """What is left unbooked, in the units of the output."""
        return self._account.residual_abs

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What only the ledger can tell."""
        return self._account.findings

    @property
    def orders(self) -> tuple[Compared, ...]:
        """Of the sums with the largest shares that both sides compute, by different kernels: whether these add in different
        orders, and both orders if they were asked for."""
        return self._orders

    def to_dict(self) -> dict[str, Any]:
        """Plain data: dicts, lists, strings and numbers; ``schema`` names its version."""
        return json_report.account_as_dict(self._account, __version__, self._orders)

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """The same as JSON text; also written to ``path``, whole or not at all, where one is given."""
        return written_json(self.to_dict(), path)

    def __str__(self) -> str:
        return terminal.text(account_view(self._account))

    def __repr__(self) -> str:
        return f"<Explanation of {self.target}: {len(self.ledger)} steps, {self.booked:.2%} booked>"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield terminal.render_account(account_view(self._account))

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, str]:
        shown = account_view(self._account)
        return {"text/plain": terminal.text(shown), "text/html": terminal.notebook(shown)}


def written_json(data: dict[str, Any], path: str | os.PathLike[str] | None) -> str:
    """``data`` as JSON text; also written to ``path``, whole or not at all, where one is given."""
    text = json_report.as_json(data)
    if path is not None:
        json_report.write(text, path)
    return text
