"""What a reader is told of an account: which steps made the difference, in words and numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from roundoff.records import Account, Booking, Finding, Kind
from roundoff.report.families import MOVEMENT, WHY, family, name_of
from roundoff.report.view import number

#: A share below this is next to nothing: it is not told in numbers.
SMALL = 0.001
#: A share below this is not worth a sentence of its own.
_WORTH = 0.05
#: How many modules of one side are told apart; deeper ones are put together by their parents.
_MOST_MODULES = 12


@dataclass(frozen=True)
class Line:
    """One booking as it is shown; ``place`` is the file and line without the code."""

    side: str
    step: str
    op: str
    module: str
    source: str
    place: str
    local: str
    bound: str
    order_bound: str
    inherited: str
    error: str
    amplification: str
    share: str
    beyond: bool


@dataclass(frozen=True)
class Part:
    """Several bookings together: of a module, or of a kind of operator; ``side`` is empty for both."""

    side: str
    name: str
    steps: int
    share: float

    @property
    def told(self) -> str:
        """The share in words."""
        return percent(self.share)


@dataclass(frozen=True)
class AccountView:
    """An account as it is shown. ``story`` is for those who read nothing else."""

    story: str
    target: str
    lines: tuple[Line, ...]
    modules: tuple[Part, ...]
    families: tuple[Part, ...]
    movement: str
    bounds: str
    balance: str
    crossings: tuple[str, ...]
    real_share: float
    left_share: float
    findings: tuple[Finding, ...]
    shares: tuple[float, ...]


def account_view(account: Account) -> AccountView:
    """What to show of ``account``."""
    ledger = account.ledger
    families = _families(ledger)
    return AccountView(
        story=_story(account, families),
        target=_target(account),
        lines=tuple(map(_line, ledger)),
        modules=tuple(part for side in ("A", "B") for part in by_module(ledger, side)),
        families=families,
        movement=_movement(ledger),
        bounds=_bounds(ledger),
        balance=_balance(account),
        crossings=_crossings(ledger),
        real_share=account.real_share,
        left_share=1.0 - account.booked,
        findings=account.findings,
        shares=tuple(b.share for b in ledger),
    )


def percent(share: float) -> str:
    """A share in per cent, as short as it can be read.

    >>> percent(0.9612), percent(-0.0234), percent(1e-9), percent(-1e-9), percent(0.0), percent(123.0)
    ('96 %', '−2.3 %', '<0.1 %', '<0.1 %', '0 %', '12,300 %')
    """
    sign, size = "−" if share < 0 else "", abs(share) * 100
    if abs(share) < SMALL:
        return "<0.1 %" if share else "0 %"
    return f"{sign}{size:.1f} %" if size < 9.95 else f"{sign}{size:,.0f} %"


def by_module(ledger: Iterable[Booking], side: str, most: int = _MOST_MODULES) -> tuple[Part, ...]:
    """The shares of one side's modules in the order in which they ran first, at most ``most`` of them.

    Where there are more, modules are put together by their parents; where that does not do, the smallest are.
    """
    rows = sorted((b for b in ledger if b.side == side), key=lambda b: b.step)
    paths = [tuple(b.module.split(".")) if b.module else () for b in rows]
    depth = max(map(len, paths), default=0)
    while depth > 1 and len({path[:depth] for path in paths}) > most:
        depth -= 1
    shares: dict[str, float] = {}
    steps: Counter[str] = Counter()
    for booking, path in zip(rows, paths, strict=True):
        name = ".".join(path[:depth]) or "outside its modules"
        shares[name] = shares.get(name, 0.0) + booking.share
        steps[name] += 1
    parts = [Part(side, name, steps[name], share) for name, share in shares.items()]
    if len(parts) <= most:
        return tuple(parts)
    kept = sorted(parts, key=lambda part: -abs(part.share))[: most - 1]
    rest = [part for part in parts if part not in kept]
    together = Part(side, f"{len(rest)} other modules", sum(p.steps for p in rest), sum(p.share for p in rest))
    return (*(part for part in parts if part in kept), together)


def _families(ledger: Sequence[Booking]) -> tuple[Part, ...]:
    shares: dict[str, float] = {}
    steps: Counter[str] = Counter()
    for b in ledger:
        name = family(b.op)
        shares[name] = shares.get(name, 0.0) + b.share
        steps[name] += 1
    parts = (Part("", name, steps[name], share) for name, share in shares.items())
    return tuple(sorted(parts, key=lambda part: (-abs(part.share), part.name)))


def _line(b: Booking) -> Line:
    return Line(
        side=b.side,
        step=str(b.step),
        op=name_of(b.op),
        module=b.module,
        source=b.source,
        place=_place(b),
        local=number(b.local_abs),
        bound="unknown" if b.bound_abs is None else number(b.bound_abs),
        order_bound="" if b.order_bound_abs is None else number(b.order_bound_abs),
        inherited=number(b.inherited_abs),
        error=number(b.error_rel),
        amplification=number(b.amplification),
        share=percent(b.share),
        beyond=_beyond(b),
    )


def _place(b: Booking) -> str:
    """``file:line`` of ``file:line: code``."""
    file, _, rest = b.source.partition(":")
    line = rest.partition(":")[0]
    return f"{file}:{line}" if line else file


def _where(b: Booking) -> str:
    return f"step {b.step} of {b.side}, {name_of(b.op)}" + "".join(f", {x}" for x in (b.module, _place(b)) if x)


def _beyond(b: Booking) -> bool:
    return b.bound_abs is not None and b.local_abs > b.bound_abs


def _target(account: Account) -> str:
    mean = " (root mean square)" if "directions" in account.target else ""
    return f"Taken apart: {account.target}, where A − B is {number(account.difference)}{mean}."


def _story(account: Account, families: tuple[Part, ...]) -> str:
    if account.difference == 0:
        return f"At {account.target} the two sides do not differ: there is nothing to take apart."
    told = [_cause(account, part) for part in families if abs(part.share) >= _WORTH][:3]
    if abs(account.real_share) >= _WORTH:
        unfollowed = any(f.kind is Kind.OPAQUE_OPERATOR for f in account.findings)
        end = ", or was made where the network could not be followed." if unfollowed else ": it is no rounding."
        real = f"{percent(account.real_share)} of the difference is there in exact arithmetic as well{end}"
        told.insert(0 if abs(account.real_share) >= 0.5 else len(told), real)
    bent = sum(b.bent_share for b in account.ledger)
    if abs(bent) >= _WORTH:
        told.append(f"{percent(bent)} hangs on kinks or choices that rounding crossed.")
    moves = [b for b in account.ledger if family(b.op) == MOVEMENT]
    if moves and not any(b.local_abs for b in moves):
        turned = any(name_of(b.op) in ("permute", "transpose", "t") for b in moves)
        told.append(f"{'The permutations' if turned else 'The steps that move data'} made exactly 0.")
    total = sum(abs(b.share) for b in account.ledger)
    if total > 2:
        told.append(
            f"Errors of both signs cancel: without their signs they add up to {total:.2g} times the difference."
        )
    return " ".join(told) or f"{percent(account.booked)} of the difference is booked, on many small errors."


def _cause(account: Account, part: Part) -> str:
    """One kind of operator as a sentence, with the operators of each side that made most of it."""
    makers = {}
    for side in ("A", "B"):
        made: dict[str, float] = {}
        for b in account.ledger:
            if b.side == side and b.share and family(b.op) == part.name:
                made[name_of(b.op)] = made.get(name_of(b.op), 0.0) + abs(b.share)
        makers[side] = sorted(made, key=lambda name: -made[name])[:2]
    sides = [f"{' and '.join(names)} in {side}" for side, names in makers.items() if names]
    if sorted(makers["A"]) == sorted(makers["B"]):
        sides = [f"{' and '.join(makers['A'])} on both sides"]
    end = f"{part.name}, {WHY[part.name]} ({', '.join(sides)})."
    if part.share < 0:
        return f"{percent(-part.share)} of it is taken away again by {end}"
    return f"{percent(part.share)} of the difference comes from {end}"


def _movement(ledger: Sequence[Booking]) -> str:
    moves = [b for b in ledger if family(b.op) == MOVEMENT]
    if not moves:
        return "Data movement: no step moves data."
    counts = Counter(name_of(b.op) for b in moves).most_common()
    names = ", ".join(f"{count} {name}" for name, count in counts[:5]) + (", …" if len(counts) > 5 else "")
    wrong = [b for b in moves if b.local_abs]
    if wrong:
        worst = max(wrong, key=lambda b: b.local_abs)
        return (
            f"Data movement: NOT 0: {len(wrong)} of {len(moves)} steps are off, by up to {number(worst.local_abs)} at "
            f"{_where(worst)}."
        )
    return f"Data movement: exactly 0. Each of {len(moves)} steps ({names}) has a local error of 0."


def _bounds(ledger: Sequence[Booking]) -> str:
    known = [b for b in ledger if b.bound_abs is not None and (b.local_abs or b.bound_abs)]
    unknown = sum(b.bound_abs is None for b in ledger)
    beyond = sum(map(_beyond, known))
    words = (
        f"Local errors: {beyond} of {len(known)} are beyond the bound of a correct kernel."
        if beyond
        else f"Local errors: all {len(known)} are within the bound of a correct kernel."
    )
    ordered = [b for b in ledger if b.order_bound_abs is not None and b.order_bound_abs < 0.99 * (b.bound_abs or 0)]
    if ordered:
        most = min(ordered, key=lambda b: (b.order_bound_abs or 0) / (b.bound_abs or 1))
        words += (
            f" By the depth of its order, which is known, the bound is smaller at {len(ordered)} of them, the most at "
            f"{_where(most)}: {number(most.order_bound_abs or 0)} in place of {number(most.bound_abs or 0)}."
        )
    return words + (f" Of {unknown} more no bound is known." if unknown else "")


def _balance(account: Account) -> str:
    sides = {side: sum(b.share for b in account.ledger if b.side == side) for side in ("A", "B")}
    return (
        f"Booked: {100 * account.booked:.6g} % = rounding in A {percent(sides['A'])} + rounding in B "
        f"{percent(sides['B'])} + real difference {percent(account.real_share)}. Left: {number(account.residual_abs)}."
    )


def _crossings(ledger: Sequence[Booking], most: int = 2) -> tuple[str, ...]:
    bent = sorted((b for b in ledger if abs(b.bent_share) >= 0.01), key=lambda b: -abs(b.bent_share))
    told = [
        f"{percent(b.bent_share)} hangs on a kink or a choice that was crossed at {_where(b)}." for b in bent[:most]
    ]
    if len(bent) > most:
        rest = sum(b.bent_share for b in bent[most:])
        told.append(f"{percent(rest)} hangs on {len(bent) - most} more.")
    return tuple(told)
