"""A summation tree in words: runs of equal steps are told once."""

from __future__ import annotations

from itertools import groupby, pairwise

from roundoff.order.tree import SumTree

DEEPEST = 4  # parts of parts of parts: below that only their size is told


def describe(tree: SumTree) -> str:
    """The order of additions in words, from the first addition to the last."""
    if tree.length == 1:
        return "1 summand"
    return _part(tree, _shapes(tree), tree.length + len(tree.nodes) - 1, 0)


def differences(
    a: SumTree, b: SumTree, names: tuple[str, str] = ("the first", "the second"), *, brief: bool = False
) -> str:
    """What differs between two orders, called by ``names``, in words; in brief, where both have been told."""
    if a == b:
        return f"Both add {a.describe()}."
    if a.length != b.length:
        return f"They add {a.length} and {b.length} summands: {a.describe()}; against {b.describe()}."
    same = len(_clusters(a) & _clusters(b))
    shared = f"{same} of {max(len(a.nodes), len(b.nodes))} partial sums are of the same summands."
    if a.bias and b.bias:
        where = [sizes_before_bias(tree) for tree in (a, b)]
        if where[0] != where[1]:
            shared += (
                f" The bias is added to {_products(where[0])} in {names[0]} and to {_products(where[1])} in {names[1]}."
            )
    if brief:
        return shared
    start = f"{names[0][0].upper()}{names[0][1:]} adds {a.describe()} (depth {a.depth}); "
    return f"{start}{names[1]} {b.describe()} (depth {b.depth}). {shared}"


def sizes_before_bias(tree: SumTree) -> int:
    """How many summands are in what the bias is added to."""
    node = tree.parents[tree.length - 1]
    return tree.sizes[node] - 1


def _products(count: int) -> str:
    return "1 product" if count == 1 else f"{count} products"


def _clusters(tree: SumTree) -> set[tuple[int, int, int]]:
    """A fingerprint of the set of summands in each result: how many, and two sums over hashes."""
    found = [(1, hash((i, 1)) & (2**61 - 1), hash((i, 2)) & (2**61 - 1)) for i in range(tree.length)]
    for node in tree.nodes:
        counts, first, second = zip(*(found[i] for i in node), strict=True)
        found.append((sum(counts), sum(first), sum(second)))
    return set(found[tree.length :])


def _shapes(tree: SumTree) -> list[int]:
    """A number for each summand and result, the same for parts that are added in the same way. The bias is no summand."""
    numbers: dict[tuple[int, ...], int] = {}
    found = [0] * tree.length
    if tree.bias:
        found[-1] = -1
    for node in tree.nodes:
        found.append(numbers.setdefault(tuple(found[i] for i in node), len(numbers) + 1))
    return found


def _part(tree: SumTree, shapes: list[int], top: int, level: int) -> str:
    """What happens below ``top``."""
    if top < tree.length:
        return "1"
    if level > DEEPEST:
        return f"{tree.sizes[top]} in some order"
    halves, base = _halvings(tree, shapes, top)
    if halves and (halves > 1 or base >= tree.length):
        if base < tree.length:
            return f"{2**halves} pairwise{_stride(_leaves(tree, top))}"
        return f"{_blocks(2**halves, _part(tree, shapes, base, level + 1))}, {'pairwise' if halves > 1 else 'added'}"
    return _told(tree, shapes, _spine(tree, top), level)


def _blocks(many: int, each: str) -> str:
    each = f"({each})" if "," in each else each
    return f"{many} blocks of {each}" if many > 1 else f"a block of {each}"


def _halvings(tree: SumTree, shapes: list[int], top: int) -> tuple[int, int]:
    """How often the part is a sum of two parts that are added in the same way, and the part that is left."""
    halves = 0
    while top >= tree.length:
        node = tree.nodes[top - tree.length]
        if len(node) != 2 or shapes[node[0]] != shapes[node[1]]:
            break
        halves, top = halves + 1, node[0]
    return halves, top


def _spine(tree: SumTree, top: int) -> list[tuple[int, ...]]:
    """From the first addition to the last on the way of the largest or first part: what each step adds."""
    steps = []
    while top >= tree.length:
        parts = tree.nodes[top - tree.length]
        inner = [i for i in parts if i >= tree.length]
        here = inner[0] if inner else parts[0]
        steps.append(tuple(i for i in parts if i != here))
        top = here
    steps = [(top,), *reversed(steps)]
    if len(steps) > 2 and {len(step) for step in steps[:3]} == {1}:
        first, second, third = (step[0] for step in steps[:3])
        if max(first, second, third) < tree.length and abs(first - third) < abs(second - third):
            steps[:2] = steps[1::-1]  # of the first two either may come first: the one that makes the run even
    return steps


def _told(tree: SumTree, shapes: list[int], steps: list[tuple[int, ...]], level: int) -> str:
    bias = tree.length - 1 if tree.bias else -1
    if len(steps) > 1 and steps[1] == (bias,):  # whichever of the first two comes first, the sum is the same
        steps[:2] = [(bias,), steps[0]]
    steps = _with_first_parts(tree, shapes, steps)
    told = []
    for kind, run in groupby(steps, key=lambda step: tuple(shapes[i] for i in step)):
        parts = list(run)
        step = parts[0]
        if step == (bias,):
            told.append("+ bias")
        elif kind == (0,):
            told.append(f"{len(parts)} sequential{_stride([p[0] for p in parts])}")
        elif set(kind) == {0}:
            told.append(f"{len(parts)} times {len(step)} at once" if len(parts) > 1 else f"{len(step)} at once")
        elif len(step) == 1:
            each = _blocks(len(parts), _part(tree, shapes, step[0], level + 1))
            told.append(f"{each}, one after another" if len(parts) > 1 else each)
        else:
            mixed = " and ".join(_part(tree, shapes, i, level + 1) if i != bias else "bias" for i in step)
            told.append(f"{len(parts)} times ({mixed}) at once")
    if told[0] == "+ bias":
        told[0] = "bias"
    first, *rest = _repeats(told)
    return ", ".join([first, *(text if text.startswith("+") else f"then {text}" for text in rest)])


def _repeats(told: list[str]) -> list[str]:
    """The same words over and over, told once. What follows the first is the same if only its places differ."""
    found: list[str] = []
    at = 0
    while at < len(told):
        best, period = 1, 1
        for length in range(2, 5):
            times = 1
            while told[at : at + length] == told[at + times * length : at + (times + 1) * length]:
                times += 1
            if times > 1 and times * length > best * period:
                best, period = times, length
        if best > 1:
            found.append(f"{best} times ({', then '.join(told[at : at + period])})")
        else:
            found.append(told[at])
        at += best * period
    return found


def _with_first_parts(tree: SumTree, shapes: list[int], steps: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Where equal parts are added to a first one that is equal to them, the first is a part as well."""
    for at in range(len(steps) - 1, 0, -1):
        step = steps[at]
        below = _result(tree, steps, at - 1)
        if below >= tree.length and len(step) == 1 and step[0] >= tree.length and shapes[step[0]] == shapes[below]:
            return [(below,), *steps[at:]]
        if len(step) > 1 and at == 1 and shapes[steps[0][0]] == 0 and {shapes[i] for i in step} == {0}:
            return [(*steps[0], *step), *steps[2:]]  # the first of several at once
    return steps


def _result(tree: SumTree, steps: list[tuple[int, ...]], at: int) -> int:
    """The result of the steps up to ``at``."""
    return tree.parents[steps[at][-1]] if at else steps[0][0]


def _leaves(tree: SumTree, top: int) -> list[int]:
    """The summands of a part, in order of their numbers."""
    work, found = [top], []
    while work:
        i = work.pop()
        if i < tree.length:
            found.append(i)
        else:
            work.extend(tree.nodes[i - tree.length])
    return sorted(found)


def _stride(summands: list[int]) -> str:
    """Which ones they are, where they do not follow each other."""
    steps = [j - i for i, j in pairwise(summands)]
    gap = steps[0] if steps else 1
    if set(steps) <= {1}:
        return ""
    if set(steps) == {gap}:
        return " (backwards)" if gap == -1 else f" (every {abs(gap)}{_ending(abs(gap))})"
    run = next(at for at, step in enumerate(steps, start=1) if step != gap)
    rounds = [at for at, step in enumerate(steps, start=1) if step != gap]
    if len(summands) % run == 0 and rounds == list(range(run, len(summands), run)):
        return f" ({len(rounds) + 1} rounds of every {abs(gap)}{_ending(abs(gap))})"
    return " (in an order of their own)"


def _ending(n: int) -> str:
    if n % 100 in (11, 12, 13):
        return "th"
    return {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
