"""Compare two networks: the judgement, and what can be asked of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult

from roundoff.api.explanation import Explanation, written_json
from roundoff.api.record import as_tuple
from roundoff.api.summation import with_orders
from roundoff.errors import NotSame, RoundoffError
from roundoff.judge.ledger import at_element, in_directions, open_account
from roundoff.judge.matching import matched_weights
from roundoff.judge.parting import align
from roundoff.judge.verdict import Judgement, judge
from roundoff.order.compared import compare_orders
from roundoff.order.seen import Watcher
from roundoff.records import Evidence, Finding, Kind, Output, Verdict
from roundoff.replay.run import Side
from roundoff.report import html, terminal
from roundoff.report import json as json_report
from roundoff.report.heat import heat_of
from roundoff.report.tapes import aligned_rows
from roundoff.report.view import view
from roundoff.tape.modes import PLAIN, Modes, current_modes
from roundoff.tape.trace import random_state
from roundoff.version import __version__

Progress = Callable[[int, int, str], None]


class Comparison:
    """What :func:`compare` found. True for ``identical`` and ``roundoff``; printing it tells the story."""

    def __init__(self, judgement: Judgement, matched: Callable[[], AbstractContextManager[None]], modes: Modes) -> None:
        self._judgement = judgement
        self._matched = matched  # a context in which the networks have the weights that were compared
        self._modes = modes

    @property
    def verdict(self) -> Verdict:
        """``identical``, ``roundoff``, ``different`` or ``undecided``."""
        return self._judgement.verdict

    @property
    def evidence(self) -> Evidence:
        """``proved`` or ``statistical``."""
        return self._judgement.evidence

    @property
    def reason(self) -> str:
        """Why, in a sentence that a person can act on."""
        return self._judgement.reason

    @property
    def outputs(self) -> tuple[Output, ...]:
        """One for each output leaf that both networks have in the same shape and format."""
        return self._judgement.outputs

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What explains the verdict."""
        return self._judgement.findings

    def __bool__(self) -> bool:
        return self.verdict in (Verdict.IDENTICAL, Verdict.ROUNDOFF)

    def explain(
        self,
        output: str | None = None,
        index: Sequence[int] | None = None,
        *,
        directions: int = 0,
        orders: bool = False,
        memory: float | None = None,
        progress: Progress | None = None,
    ) -> Explanation:
        """Take the difference apart: every step of both networks, and what of the difference it made.

        By default the largest difference of all outputs is taken apart, or of ``output``, or the one at ``index`` of it;
        with ``directions`` that many random weightings of all output numbers. Both networks run again, in the modes in
        which they were compared. With ``orders``, of the sums with the largest shares that both compute, by different
        kernels, the orders of additions are revealed and held against the kernels' bits, which takes seconds; without it
        these kernels are only asked, in a few calls, whether they add in different orders. ``memory`` is how many bytes may
        be kept meanwhile (half of what is free): above it, steps are computed again rather than kept.

        Raises RoundoffError when there is no such output or element, and when the networks no longer give the bits that
        were compared.

        >>> import torch
        >>> linear, x = torch.nn.Linear(64, 8), torch.randn(3, 64)
        >>> e = compare(linear, lambda x: torch.nn.functional.conv1d(x.T[None], linear.weight[:, :, None],
        ...                                                          linear.bias)[0].T, x).explain()
        >>> abs(e.booked - 1) < 1e-3
        True
        """
        case, say = self._judgement.case, progress or _silent
        unfollowed = tuple(f for f in self.findings if f.kind is Kind.OPAQUE_OPERATOR)
        with self._matched(), PLAIN.again():
            pairs = case.comparable
            target = in_directions(pairs, directions) if directions else at_element(pairs, output, index)
            # The rounding of a verified fold is no step's: the difference is taken apart with the parameters as they are.
            as_they_are = [replace(side, values=()) for side in self._sides]
            sides = list(zip(as_they_are, (case.ran_a, case.ran_b), strict=True))
            seen = {"A": Watcher(), "B": Watcher()}
            account = open_account(sides, target, memory or _half_of_free(), say, seen)
            shares = {(row.side, row.step): row.share for row in account.ledger}
            found = compare_orders(seen["A"].found, seen["B"].found, shares, whole=orders, say=say)
        account = with_orders(replace(account, findings=account.findings + unfollowed), found)
        return Explanation(account, found)

    @property
    def _sides(self) -> tuple[Side, Side]:
        """Both sides, to be run in the modes in which they were compared."""
        case = self._judgement.case
        return replace(case.a, modes=self._modes), replace(case.b, modes=self._modes)

    def to_dict(self) -> dict[str, Any]:
        """Plain data: dicts, lists, strings and numbers; ``schema`` names its version."""
        return json_report.as_dict(self._judgement, __version__)

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """The same as JSON text; also written to ``path``, whole or not at all, where one is given."""
        return written_json(self.to_dict(), path)

    def to_html(
        self,
        path: str | os.PathLike[str],
        *,
        names: tuple[str, str] = ("", ""),
        explanation: Explanation | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Write one self-contained page to ``path``, whole or not at all: the verdict, and where the difference comes from.

        It holds the outputs, the findings, an ``explanation`` (by default that of the largest difference, for which both
        networks run again; its orders of additions are drawn if it has them) and the two tapes beside each other; it loads
        nothing. ``names`` are what A and B are called.

        Raises RoundoffError where the packages of the extra ``html`` are missing and where ``path`` cannot be written.
        """
        html.check_packages()
        no_account = ""
        if explanation is None:
            try:
                explanation = self.explain(progress=progress)
            except RoundoffError as error:
                no_account = str(error)
        with self._matched():
            alignment = align(*self._sides)
        pairs = {name or "output": (x.native, y.native) for name, x, y in self._judgement.case.comparable}
        html.write_page(
            path,
            self._judgement,
            __version__,
            account=None if explanation is None else explanation._account,
            no_account=no_account,
            orders=() if explanation is None else explanation.orders,
            heat=heat_of(self.outputs, pairs),
            tapes=aligned_rows(alignment),
            names=names,
        )

    def __str__(self) -> str:
        return terminal.text(view(self._judgement))

    def __repr__(self) -> str:
        return f"<Comparison {self.verdict} ({self.evidence}): {self.reason}>"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield terminal.render(view(self._judgement))

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, str]:
        shown = view(self._judgement)
        return {"text/plain": terminal.text(shown), "text/html": terminal.notebook(shown)}


def compare(
    a: Callable[..., Any],
    b: Callable[..., Any],
    args: Any,
    kwargs: dict[str, Any] | None = None,
    *,
    match_weights: bool = False,
    prove: bool = False,
    progress: Progress | None = None,
) -> Comparison:
    """Are ``a`` and ``b`` the same function at this input, up to round-off?

    ``a`` and ``b`` are modules or any callables; ``args`` is a tensor or a tuple of positional arguments, of any shapes
    and dtypes, ``kwargs`` the keyword arguments. Outputs may be any nesting of tuples, lists, mappings, dataclasses and
    objects that hold tensors. Both run as they are, in the caller's grad, inference and autocast mode, and beside them
    the same operations run in float64; nothing is changed by it, whatever happens.

    ``match_weights`` first gives ``b`` the parameters of ``a``, in order, where they fit up to reshape or transpose, for
    this comparison only. ``prove`` runs both once more and holds the verdict against rigorous bounds for every element:
    ``evidence`` is then ``proved``, or ``reason`` says what stood in the way; the verdict stays. ``progress(done, total,
    text)`` is told what is being done.

    Raises RoundoffError when a network raises (the message names which), when no output holds a tensor, and when
    ``match_weights`` finds parameters that do not fit.

    >>> import torch
    >>> linear = torch.nn.Linear(8, 4)
    >>> c = compare(linear, lambda x: x @ linear.weight.T + linear.bias, torch.randn(3, 8))
    >>> bool(c)
    True
    >>> compare(torch.nn.GELU(), torch.nn.GELU("tanh"), torch.randn(100)).verdict
    <Verdict.DIFFERENT: 'different'>

    Source: the real difference of the float64 runs is held against their own rounding, and each step's local error
    against the error bound of its kernel; see Higham, Accuracy and Stability of Numerical Algorithms (2002).
    """
    for name, model in (("A", a), ("B", b)):
        if not callable(model):
            raise RoundoffError(f"{name} is a {type(model).__name__}, not callable. Give a module or a function.")
    args = as_tuple(args)
    kwargs = dict(kwargs or {})
    say = progress or _silent
    randomness = random_state()

    def matched() -> AbstractContextManager[None]:
        return matched_weights(a, b) if match_weights else nullcontext()

    with matched():
        sides = [Side(name, model, args, kwargs, randomness) for name, model in (("A", a), ("B", b))]
        judgement = judge(sides[0], sides[1], say, prove)
    return Comparison(judgement, matched, current_modes())


def assert_same(a: Callable[..., Any], b: Callable[..., Any], args: Any, kwargs: dict[str, Any] | None = None,
                **options: Any) -> None:  # fmt: skip
    """Raise :class:`NotSame`, with the whole story, unless :func:`compare` says ``identical`` or ``roundoff``.

    >>> import torch
    >>> assert_same(torch.sin, torch.sin, torch.ones(3))
    """
    comparison = compare(a, b, args, kwargs, **options)
    if not comparison:
        raise NotSame(str(comparison))


def _silent(done: int, total: int, text: str) -> None:
    """No progress is shown."""


def _half_of_free() -> float:
    """Half of the memory that is free, in bytes; 4 GB where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES") / 2
    except (AttributeError, ValueError, OSError):
        return 4e9
