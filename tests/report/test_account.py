"""What a reader is told of an account."""

from __future__ import annotations

from math import isclose

import pytest
from tests.report.records import MOVED, account, booking

from roundoff.records import Finding, Kind
from roundoff.report import terminal
from roundoff.report.account import account_view, by_module, percent


def test_the_story_names_the_cause_on_both_sides_and_what_moved_nothing() -> None:
    assert account_view(account()).story == (
        "110 % of the difference comes from matrix products and convolutions, where each kernel adds in its own order and "
        "rounds at every addition (addmm in A, convolution in B). 10 % of it is taken away again by activations and other "
        "functions, each a few units in the last place off (elu in A). The permutations made exactly 0."
    )


def test_the_story_of_the_same_operators_on_both_sides() -> None:
    rows = [booking(side, share=share) for side, share in (("A", 0.3), ("B", 0.7))]
    assert "at every addition (addmm on both sides)." in account_view(account(*rows)).story
    one = account_view(account(booking("B", share=1.0))).story
    assert "at every addition (addmm in B)." in one


def test_the_story_of_a_real_difference_begins_with_it() -> None:
    story = account_view(account(booking(share=0.1), real_share=0.9)).story
    assert story.startswith("90 % of the difference is there in exact arithmetic as well: it is no rounding. 10 % of")
    small = account_view(account(booking(share=0.9), real_share=0.1)).story
    assert small.startswith("90 % of the difference comes from matrix") and "10 % of the difference is there" in small


def test_the_story_of_nothing() -> None:
    assert "there is nothing to take apart" in account_view(account(difference=0.0)).story


def test_the_story_of_many_small_errors_says_at_least_what_is_booked() -> None:
    assert account_view(account(booking(share=0.01), booked=0.01)).story == (
        "1.0 % of the difference is booked, on many small errors."
    )


def test_the_story_tells_of_kinks_and_of_cancelling() -> None:
    bent = account_view(account(booking(share=0.8), booking(op="aten.relu.default", bent_share=0.2))).story
    assert "20 % hangs on kinks or choices that rounding crossed." in bent
    assert "cancel" not in bent
    assert (
        "add up to 5 times the difference" in account_view(account(booking(share=3.0), booking("B", share=-2.0))).story
    )


def test_crossings_are_named_where_they_matter() -> None:
    bent = [
        booking("B", i, "aten.relu.default", bent_share=share) for i, share in enumerate([0.3, 0.009, -0.1, 0.02, 0.04])
    ]
    told = account_view(account(booking(share=0.74), *bent)).crossings
    assert told[0] == "30 % hangs on a kink or a choice that was crossed at step 0 of B, relu, layers.0, net.py:12."
    assert [line.split()[0] for line in told] == ["30", "−10", "6.0"] and told[-1] == "6.0 % hangs on 2 more."
    assert account_view(account()).crossings == ()


def test_data_movement_is_exactly_0() -> None:
    assert account_view(account()).movement == (
        "Data movement: exactly 0. Each of 2 steps (1 t, 1 permute) has a local error of 0."
    )
    assert account_view(account(booking())).movement == "Data movement: no step moves data."


def test_data_movement_that_is_not_0_is_shouted() -> None:
    """It cannot be, so if it is, it must not be told away."""
    view = account_view(
        account(booking(share=1.0), booking("B", 7, "aten.view.default", **{**MOVED, "local_abs": 1e-9}))
    )
    assert "NOT 0: 1 of 1 steps are off, by up to 1e-09 at step 7 of B, view, layers.0, net.py:12." in view.movement
    assert "exactly 0" not in view.story


def test_bounds() -> None:
    assert account_view(account()).bounds == "Local errors: all 3 are within the bound of a correct kernel."
    beyond = account_view(account(booking(share=1.0, local_abs=1e-5), booking("B", bound_abs=None), booking("B")))
    assert (
        beyond.bounds == "Local errors: 1 of 2 are beyond the bound of a correct kernel. Of 1 more no bound is known."
    )
    assert [line.beyond for line in beyond.lines] == [True, False, False]
    assert beyond.lines[1].bound == "unknown"


def test_the_balance_adds_up() -> None:
    view = account_view(account(real_share=-0.0004, booked=0.9996))
    assert view.balance == (
        "Booked: 99.96 % = rounding in A 30 % + rounding in B 70 % + real difference <0.1 %. Left: 1e-16."
    )
    assert isclose(sum(view.shares) + view.real_share + view.left_share, 1.0, abs_tol=1e-3)


def test_the_target() -> None:
    assert account_view(account()).target == "Taken apart: output[3, 1], where A − B is 2.5e-07."
    assert account_view(account(target="8 random directions over all outputs")).target.endswith("(root mean square).")


def test_a_line() -> None:
    line = account_view(account()).lines[0]
    assert (line.side, line.step, line.op, line.module, line.place) == ("B", "3", "convolution", "conv", "net.py:12")
    assert (line.local, line.bound, line.inherited, line.error) == ("1e-07", "2e-06", "3e-08", "4e-07")
    assert (line.amplification, line.share, line.beyond) == ("1.5", "70 %", False)
    assert account_view(account(booking(source=""))).lines[0].place == ""


@pytest.mark.parametrize("side", ["A", "B"])
def test_modules_keep_the_order_in_which_they_ran(side: str) -> None:
    ledger = [booking(side, i, module=f"m{i % 3}", share=0.1 * i) for i in (5, 4, 3, 2, 1, 0)]
    parts = by_module([*ledger, booking("other", share=9.0)], side)
    assert [(p.name, p.steps) for p in parts] == [("m0", 2), ("m1", 2), ("m2", 2)]
    assert [round(p.share, 9) for p in parts] == [0.3, 0.5, 0.7]


def test_deep_modules_are_put_together_by_their_parents() -> None:
    ledger = [booking("A", i, module=f"encoder.{i // 10}.{i % 10}", share=0.01) for i in range(40)]
    assert [(p.name, p.steps) for p in by_module(ledger, "A", most=4)] == [(f"encoder.{i}", 10) for i in range(4)]
    assert [p.name for p in by_module(ledger, "A", most=3)] == ["encoder"]


def test_many_modules_of_one_level_keep_the_largest_and_nothing_is_lost() -> None:
    ledger = [booking("A", i, module=f"m{i}", share=0.01 * i) for i in range(20)]
    parts = by_module(ledger, "A", most=4)
    assert [p.name for p in parts] == ["m17", "m18", "m19", "17 other modules"]
    assert isclose(sum(p.share for p in parts), sum(b.share for b in ledger), rel_tol=1e-12)
    assert sum(p.steps for p in parts) == 20


@pytest.mark.parametrize(
    ("share", "told"),
    [(1.0, "100 %"), (0.0995, "10 %"), (0.0994, "9.9 %"), (0.001, "0.1 %"), (0.0009, "<0.1 %"), (-0.5, "−50 %")],
)
def test_percent(share: float, told: str) -> None:
    assert percent(share) == told


DEEP = "encoder.layer.11.attention.self.query"
LONG = tuple(
    booking("AB"[i % 2], i, share=0.01, bent_share=0.01, module=DEEP, source="modeling.py:123: x") for i in range(100)
)


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("ledger", [LONG, ()])
def test_it_fits_a_screen(width: int, ledger: tuple[object, ...]) -> None:
    lines = terminal.text(account_view(account(*ledger)), width).splitlines()  # type: ignore[arg-type]
    assert max(map(len, lines)) <= width and len(lines) <= 40


def test_findings_follow_and_are_cut() -> None:
    findings = tuple(Finding(Kind.AMPLIFICATION, f"A: layers.{i}", "It grows.") for i in range(9))
    lines = terminal.text(account_view(account(findings=findings))).splitlines()
    assert lines[-3:-1] == ["amplification  A: layers.3", "  It grows."]
    assert lines[-1] == "and 5 more findings; to_dict() has them all"


def test_the_table_has_the_largest_shares_and_says_what_is_left_out() -> None:
    text = terminal.text(account_view(account(*(booking("A", i, share=0.2 - 0.01 * i) for i in range(15)))))
    rows = [line.split() for line in text.splitlines() if " A " in line and "addmm" in line and "net.py" in line]
    assert [row[3] for row in rows] == [str(i) for i in range(10)]
    assert "40 %" in text and "5 more steps" in text  # 0.10 + 0.09 + ... + 0.06


def test_steps_that_made_nothing_are_not_listed() -> None:
    text = terminal.text(account_view(account()))
    assert "2 more steps" in text and not any("permute" in line for line in text.splitlines() if "net.py" in line)
    assert "operator" not in terminal.text(account_view(account(booking(), difference=0.0)))


def test_next_to_nothing_is_not_listed_and_a_real_difference_is() -> None:
    text = terminal.text(account_view(account(booking(share=1e-5), booking("B", 7, share=-1e-6), real_share=1.0)))
    assert "100 %" in text and "real difference, in exact arithmetic" in text and "2 more steps" in text
    assert "addmm " not in text and "modules: none made 0.1 %" in text and "kinds: none made 0.1 %" in text


def test_markup_in_names_is_printed_as_it_is() -> None:
    module = "[bold]x[/bold] :smile:"
    text = terminal.text(account_view(account(booking(module=module, share=1.0), target="[red]y[/]")))
    assert text.count(module) == 2 and "[red]y[/]" in text


def test_a_notebook_gets_escaped_html() -> None:
    html = terminal.notebook(account_view(account(booking(module="<script>", share=1.0))))
    assert "<script" not in html and "&lt;script&gt;" in html
