"""What does ``roundoff.compare`` cost over the native runs of the two networks?

    python benchmarks/cost.py                        # every network, ten seconds each and three rounds at least
    python benchmarks/cost.py transformer fully      # these two: the beginning of a name is enough
    python benchmarks/cost.py --profile transformer  # where the time of one comparison goes
    python benchmarks/cost.py --explain              # what explain() costs on top, without memory; the goal is 12
    python benchmarks/cost.py --busy                 # one thread and processor time, where others compute as well

Time. In each round three things are timed one after the other: A and B as they are; A and B in float64, by the same
modules in ``.double()`` on the input in float64; and ``compare(a, b, x)``. Each round gives two ratios over its own
native time, R for float64 and one for the comparison, and the median over the rounds is shown: load on the machine that
lasts longer than a round cancels. ± is half the distance of the quartiles. The goal is 2 + 1.3 R: each network runs
natively twice (watched, and once more to see that it repeats), and once in float64, with three tenths of that for
everything else. A network's line is printed as soon as it is measured.

Memory. PyTorch's profiler reports each allocation and release of tensors and of most workspaces, so peaks are exact and
repeatable, and say nothing of the Python interpreter. The goal is 1.2 times the sum of: the peak of the native run and
that of the float64 run (what is alive at once in both, with the workspaces of the kernels; of A or of B, whichever is
larger), one copy of the parameters in their own format, and the operands and results of the widest step in float64.
"""

from __future__ import annotations

import argparse
import copy
import cProfile
import math
import os
import pstats
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from networks import NETWORKS, Pair, make
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

import roundoff
from roundoff.judge.kernels import KernelCheck
from roundoff.replay.wide import WideRun

AT_LEAST = 0.03  # seconds that a timed block lasts, by repetition, so that small networks are measured as well
Clock = Callable[[], float]
_SOURCE = str(Path(roundoff.__file__).parent)


@dataclass(frozen=True)
class Time:
    """Medians over the rounds; ``native`` in seconds, the others relative to it."""

    verdict: str
    native: float
    float64: float
    compare: float
    spread: float  # of the ratio: half the distance of its quartiles

    @property
    def goal(self) -> float:
        return 2 + 1.3 * self.float64


@dataclass(frozen=True)
class Memory:
    """Bytes above what was allocated before the run."""

    compare: int
    activations: int
    parameters: int
    widest: int

    @property
    def goal(self) -> float:
        return 1.2 * (self.activations + self.parameters + self.widest)


# -- time ---------------------------------------------------------------------------------------------------------------


def _block(run: Callable[[], Any], clock: Clock) -> Callable[[], float]:
    """A function that times ``run``, which is warm, repeated to last long enough, in seconds a run."""
    start = clock()
    run()
    count = max(1, round(AT_LEAST / max(clock() - start, 1e-6)))

    def timed() -> float:
        begin = clock()
        for _ in range(count):
            run()
        return (clock() - begin) / count

    return timed


def measure_time(pair: Pair, seconds: float, clock: Clock) -> Time:
    """Rounds for about ``seconds``, and three at least."""
    a, b, x = pair
    end = time.perf_counter() + seconds
    wide = [copy.deepcopy(model).double() for model in (a, b)]
    x_wide = x.double()
    runs = (
        lambda: (a(x), b(x)),
        lambda: [model(x_wide) for model in wide],
        lambda: roundoff.compare(a, b, x),
    )
    verdict = str([run() for run in runs][2].verdict)
    native, float64, compared = (_block(run, clock) for run in runs)
    natives, wides, ratios = [], [], []
    while len(natives) < 3 or time.perf_counter() < end:
        before = native()
        w, c = float64(), compared()
        n = (before + native()) / 2  # on both sides of what is held against it
        natives.append(n)
        wides.append(w / n)
        ratios.append(c / n)
    low, middle, high = statistics.quantiles(ratios, n=4)
    return Time(verdict, statistics.median(natives), statistics.median(wides), middle, (high - low) / 2)


def measure_explain(pair: Pair, seconds: float, clock: Clock) -> tuple[float, float]:
    """The median ratio of ``explain()`` over the native runs, and what share it books."""
    a, b, x = pair
    end = time.perf_counter() + seconds
    comparison = roundoff.compare(a, b, x)
    native, explained = _block(lambda: (a(x), b(x)), clock), comparison.explain
    ratios = []
    while len(ratios) < 3 or time.perf_counter() < end:
        before, start = native(), clock()
        booked = explained().booked
        ratios.append((clock() - start) / ((before + native()) / 2))
    return statistics.median(ratios), booked


# -- memory -------------------------------------------------------------------------------------------------------------


@contextmanager
def _silence() -> Iterator[None]:
    """Without what the profiler's library writes to the error stream by itself."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def peak(run: Callable[[], Any]) -> int:
    """The most bytes that ``run`` had allocated at once, over those at its start."""
    with _silence(), profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        run()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = highest = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        highest = max(highest, now)
    return highest


class Widest(TorchDispatchMode):
    """Keeps the most elements that one operation had as operands and results; what is expanded counts once."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        leaves = torch.utils._pytree.tree_leaves((args, kwargs, out))
        self.elements = max(self.elements, sum(_distinct(leaf) for leaf in leaves if isinstance(leaf, Tensor)))
        return out


def _distinct(x: Tensor) -> int:
    return math.prod(n for n, stride in zip(x.shape, x.stride(), strict=True) if stride)


def _size(model: nn.Module) -> int:
    return sum(x.numel() * x.element_size() for x in (*model.parameters(), *model.buffers()))


def measure_memory(pair: Pair) -> Memory:
    a, b, x = pair
    activations = widest = 0
    for model in (a, b):
        model(x)  # what kernels keep between calls is kept now
        wide, x_wide = copy.deepcopy(model).double(), x.double()
        activations = max(activations, peak(lambda: model(x)) + peak(lambda: wide(x_wide)))  # noqa: B023
        with Widest() as mode:  # type: ignore[no-untyped-call]
            model(x)
        widest = max(widest, 8 * mode.elements)
    return Memory(peak(lambda: roundoff.compare(a, b, x)), activations, max(_size(a), _size(b)), widest)


# -- what is printed ----------------------------------------------------------------------------------------------------


_COLUMNS = "{:<16}{:>10}{:>8}{:>6}{:>7}{:>9}{:>6}{:>5}  {:>12}{:>12}{:>8}{:>6}{:>9}{:>5}"


def show_head() -> None:
    print(f"{'':<26}{'time: native in ms, the others over native':<51}  memory: peak in MB")
    times = ("network", "verdict", "native", "R", "goal", "compare", "±", "met")
    sizes = ("activations", "parameters", "widest", "goal", "compare", "met")
    print(_COLUMNS.format(*times, *sizes))


def show_row(name: str, t: Time, m: Memory) -> None:
    numbers = [f"{n:.1f}" for n in (t.float64, t.goal, t.compare, t.spread)]
    sizes = [f"{n / 1e6:.3g}" for n in (m.activations, m.parameters, m.widest, m.goal, m.compare)]
    times = (name, t.verdict, f"{t.native * 1e3:.3g}", *numbers, _met(t.compare <= t.goal))
    print(_COLUMNS.format(*times, *sizes, _met(m.compare <= m.goal)), flush=True)


def _table(title: str, columns: tuple[str, ...], first: str = "network") -> Table:
    shown = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    shown.add_column(first, no_wrap=True)
    for name in columns:
        shown.add_column(name, justify="right", no_wrap=True)
    return shown


def wide_console() -> Console:
    """Wide enough for the tables, where the output goes to a file."""
    return Console(width=max(100, Console().width))


def _met(yes: bool) -> str:
    return "yes" if yes else "no"


# -- where the time goes ------------------------------------------------------------------------------------------------


class Spent(TorchDispatchMode):
    """Seconds by operator: natively, in the wide runs and in the check of the kernels."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.clock = clock
        self.native: Counter[str] = Counter()
        self.wide: Counter[str] = Counter()
        self.check: Counter[str] = Counter()
        self.steps: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        start = self.clock()
        out = func(*args, **(kwargs or {}))
        self.native[str(func)] += self.clock() - start
        self.steps[str(func)] += 1
        return out

    def listen(self) -> AbstractContextManager[Any]:
        """While it lasts, what the wide run and the check spend is booked."""
        after, hold = WideRun.after, KernelCheck.__call__

        def timed_after(run: WideRun, step: Any, out: Any) -> None:
            op, start, checked = str(step.op), self.clock(), self.check[str(step.op)]
            after(run, step, out)
            self.wide[op] += self.clock() - start - (self.check[op] - checked)

        def timed_hold(check: KernelCheck, executed: Any) -> None:
            start = self.clock()
            hold(check, executed)
            self.check[str(executed.step.op)] += self.clock() - start

        stack = ExitStack()
        stack.enter_context(patch.object(WideRun, "after", timed_after))
        stack.enter_context(patch.object(KernelCheck, "__call__", timed_hold))
        return stack

    def table(self, name: str, total: float, again: float) -> Table:
        """Everything over the time of one native run of both networks, which ``native`` adds up to."""
        native = sum(self.native.values())
        shown = _table(
            f"{name}: compare takes {total / native:.1f} times", ("steps", "native", "wide", "check"), "operator"
        )
        each = {op: (self.native[op], self.wide[op], self.check[op]) for op in self.steps}
        for op, times in sorted(each.items(), key=lambda item: -sum(item[1])):
            if sum(times) > native / 200:
                shown.add_row(op.removesuffix(".default"), str(self.steps[op]), *(f"{t / native:.2f}" for t in times))
        sums = [native, sum(self.wide.values()), sum(self.check.values())]
        shown.add_section()
        shown.add_row("every operator", str(self.steps.total()), *(f"{t / native:.2f}" for t in sums))
        shown.add_row("the second native run", "", f"{again / native:.2f}", "", "")
        shown.add_row("watching and judging", "", f"{(total - sum(sums) - again) / native:.2f}", "", "")
        return shown


def show_profile(name: str, lines: int, clock: Clock) -> None:
    """Where one comparison spends its time: by operator and stage, then by function of Python."""
    a, b, x = make(name)
    for _ in range(2):  # kernels and caches warm
        a(x), b(x), roundoff.compare(a, b, x)
    spent = Spent(clock)
    start = clock()
    a(x), b(x)
    again = clock() - start
    with spent:
        a(x), b(x)
    with spent.listen():
        start = clock()
        roundoff.compare(a, b, x)
        total = clock() - start
    wide_console().print(spent.table(name, total, again))
    recorder = cProfile.Profile(clock)
    recorder.runcall(roundoff.compare, a, b, x)
    stats = pstats.Stats(recorder)
    print(f"{name}: functions of roundoff, with what they call")
    stats.sort_stats("cumulative").print_stats(_SOURCE, lines)
    print(f"{name}: every function, by its own time")
    stats.sort_stats("tottime").print_stats(lines)


def full_name(start: str, refuse: Callable[[str], Any]) -> str:
    """The network whose name begins so."""
    found = [name for name in NETWORKS if name.startswith(start)]
    if len(found) != 1:
        refuse(f"{start!r} begins the name of {len(found)} networks; choose from: {', '.join(NETWORKS)}")
    return found[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NETWORK", help=f"the beginning of: {', '.join(NETWORKS)}; all")
    parser.add_argument("--profile", metavar="NETWORK", help="show where its time goes instead")
    parser.add_argument(
        "--seconds", type=float, default=10, help="how long each is measured, three rounds at least (10)"
    )
    parser.add_argument(
        "--busy", action="store_true", help="one thread and processor time: for a machine that others use"
    )
    parser.add_argument("--explain", action="store_true", help="measure explain() instead")
    parser.add_argument("--threads", type=int, default=2, help="threads that PyTorch uses (2)")
    parser.add_argument("--lines", type=int, default=25, help="lines of each part of a profile (25)")
    options = parser.parse_args()
    names = [full_name(name, parser.error) for name in options.names] or list(NETWORKS)
    torch.set_num_threads(1 if options.busy else options.threads)
    clock = time.process_time if options.busy else time.perf_counter
    with torch.no_grad():
        if options.profile:
            show_profile(full_name(options.profile, parser.error), options.lines, clock)
            return
        if options.explain:
            for name in names:
                ratio, booked = measure_explain(make(name), options.seconds, clock)
                print(f"{name:<16}  explain {ratio:5.1f} x native, books {booked:.6f}", flush=True)
            return
        show_head()
        for name in names:
            pair = make(name)
            show_row(name, measure_time(pair, options.seconds, clock), measure_memory(pair))


if __name__ == "__main__":
    main()
