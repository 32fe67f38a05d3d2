"""The page: what it says, that it escapes what others wrote, and that it needs nothing else."""

from __future__ import annotations

import builtins
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.report.records import FINDING, account, booking, judgement, output

from roundoff import RoundoffError
from roundoff.records import Finding, Kind, Verdict
from roundoff.report.account import account_view
from roundoff.report.heat import heat_map
from roundoff.report.html import page, waterfall, write_page
from roundoff.report.tapes import TapeRow
from roundoff.report.view import HEADLINES

EVIL = '<script>alert("x")</script>\'"><img src=x onerror=alert(1)>{{ 7 * 7 }}&'
VOID = {"meta", "br", "img", "use", "image", "path"}


class Reader(HTMLParser):
    """What a browser makes of a page: its elements, their attributes, and the text that is not style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def made(verdict: Verdict = Verdict.ROUNDOFF, **parts: Any) -> str:
    everything: dict[str, Any] = {
        "account": account(),
        "heat": heat_map("['logits']", torch.rand(16, 4), torch.rand(16, 4)),
        "tapes": (TapeRow("addmm", "convolution", True), TapeRow("elu", "gelu", False, parting=True)),
        "names": ("net.py:Linear", "net.py:Conv"),
    }
    return page(judgement(verdict=verdict), "1.2.3", **{**everything, **parts})


@pytest.mark.parametrize("verdict", Verdict)
def test_the_verdict_comes_first(verdict: Verdict) -> None:
    reader = Reader(made(verdict))
    body = reader.text.partition("net.py:Conv ")[2]
    word, _, rest = HEADLINES[verdict].partition(": ")
    assert body.startswith(f"{word} : {rest} This is why. Evidence:")
    assert ("header", {"class": f"verdict {verdict}"}) in reader.tags


def test_everything_is_there() -> None:
    text = Reader(made()).text
    for words in (
        "Outputs", "['logits']", "float32[16, 4]", "2.5e-07", "[3, 1]", "1,234", "1e-16", "3e-15",
        "A is closer to the exact result",
        "magnitude", "The values are large.",
        "What made the difference", account_view(account()).story, "Taken apart: output[3, 1]",
        "Data movement: exactly 0.", "Local errors: all 3 are within", "Booked: 100 %",
        "By kind of operator", "Error against depth", "The difference over the output",
        "1 steps have the same values on both sides, 1 are of A alone, 1 of B alone. They part at the marked place.",
        "here the networks part", "The ledger", "net.py:12: x = self.layer(x)", "Made by roundoff 1.2.3.",
    ):  # fmt: skip
        assert words in text, words


def test_what_has_no_data_is_left_out() -> None:
    bare = page(replace(judgement(), outputs=(), findings=()), "1", no_account="A no longer gives the same bits.")
    text = Reader(bare).text
    assert "A no longer gives the same bits." in text
    for words in ("Outputs", "Findings", "ledger", "tapes", "How the error grows", "module by module"):
        assert words not in text, words
    assert "The difference was not taken apart." in Reader(page(judgement(), "1")).text


def test_no_difference_has_no_waterfall() -> None:
    text = Reader(made(Verdict.IDENTICAL, account=account(difference=0.0))).text
    assert "there is nothing to take apart" in text and "module by module" not in text


@pytest.mark.parametrize("size", [nan, inf, 0.0])
def test_sizes_that_are_odd(size: float) -> None:
    rows = tuple(replace(b, error_rel=size, local_abs=size) for b in account().ledger)
    j = judgement(output(max_abs=size, real_abs=size, index=None, max_ulp=None))
    assert "The ledger" in Reader(page(j, "1", account=account(*rows))).text


def test_one_element_and_no_element() -> None:
    one = made(heat=heat_map("loss", torch.tensor(1.0), torch.tensor(1.5)))
    assert "loss has one element. It differs by 0.5." in Reader(one).text
    assert "loss is the same on both sides." in Reader(made(heat=heat_map("loss", torch.ones(3), torch.ones(3)))).text
    assert "loss is the same on both sides." in Reader(made(heat=heat_map("loss", torch.ones(0), torch.ones(0)))).text


@cache
def evil_page() -> str:
    """Names, lines and sentences that would be markup, a script or a template."""
    rows = tuple(replace(b, module=EVIL, source=EVIL, op=EVIL, bent_share=0.1) for b in account().ledger)
    finding = Finding(Kind.MAGNITUDE, EVIL, EVIL)
    j = replace(judgement(output(name=EVIL), findings=(finding,)), reason=EVIL)
    return page(
        j,
        "1",
        account=account(*rows, target=EVIL, findings=(finding,)),
        heat=heat_map(EVIL, torch.rand(3, 3), torch.rand(3, 3)),
        tapes=(TapeRow(EVIL, EVIL, False, parting=True),),
        names=(EVIL, EVIL),
    )


def test_what_others_wrote_is_text() -> None:
    html = evil_page()
    reader = Reader(html)
    assert reader.text.count('<script>alert("x")</script>') > 10
    assert "{{ 7 * 7 }}" in reader.text
    assert not [tag for tag, _ in reader.tags if tag in ("script", "img", "iframe", "object", "link", "base", "form")]
    assert not [name for _, attrs in reader.tags for name in attrs if name.startswith("on")]
    assert "<script" not in html
    assert "<script>" in Reader(page(judgement(), "1", no_account=EVIL)).text


@pytest.mark.parametrize("make", [made, evil_page])
def test_nothing_is_loaded_from_elsewhere(make: Callable[[], str]) -> None:
    html = make()
    reader = Reader(html)
    for _, attrs in reader.tags:
        for name, value in attrs.items():
            if name in ("src", "href", "xlink:href", "srcset", "data", "action", "poster"):
                assert value is not None and value.startswith(("#", "data:image/png;base64,")), (name, value)
    assert not re.search(r"https?:|@import|url\((?!#)", html)
    policy = dict(reader.tags)["meta"]["content"]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def test_names_are_used_once_and_what_they_name_is_there() -> None:
    tags = Reader(made()).tags
    ids = [attrs["id"] for _, attrs in tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    named = [name for _, attrs in tags for name in (attrs.get("aria-labelledby") or "").split()]
    assert len(named) == 5 and set(named) <= set(ids)
    assert all(
        attrs.get("tabindex") == "0" and attrs.get("aria-label") for _, attrs in tags if attrs.get("role") == "region"
    )


def test_the_waterfall_starts_at_0_and_ends_at_the_whole() -> None:
    bars = waterfall(account_view(account(booking(share=0.5), booking("B", share=0.4, module="conv"), real_share=0.1)))
    assert [(b.side, b.name, b.left, b.width, b.told) for b in bars] == [
        ("a", "layers.0", 0.0, 50.0, "50 %"),
        ("b", "conv", 50.0, 40.0, "40 %"),
        ("real", "real difference", 90.0, 10.0, "10 %"),
        ("left", "kinks crossed, and what is left", 100.0, 0.0, "0 %"),
        ("total", "A − B", 0.0, 100.0, "100 %"),
    ]


def test_bars_that_take_away_go_to_the_left_and_stay_in_the_plot() -> None:
    bars = waterfall(account_view(account(booking(share=-1.0), booking("B", share=1.9))))
    assert [(b.side, b.left, b.width, b.told) for b in bars] == [
        ("a", 0.0, 50.0, "−100 %"),
        ("b", 0.0, 95.0, "190 %"),
        ("real", 95.0, 0.0, "0 %"),
        ("left", 95.0, 5.0, "10 %"),
        ("total", 50.0, 50.0, "100 %"),
    ]


def test_long_lists_are_cut_and_what_is_left_out_is_said() -> None:
    many = account(*(booking("A", i, share=0.001) for i in range(1200)))
    outputs = [output(name=f"n{i}") for i in range(60)]
    html = page(judgement(*outputs, findings=(FINDING,) * 60), "1", account=many)
    text = Reader(html).text
    assert "1000 more steps, together 100 %." in text
    assert "And 10 more outputs." in text and "And 10 more findings." in text
    assert len(html) < 500_000


def test_tapes_are_opened_where_they_part() -> None:
    rows = [TapeRow(f"a{i}", f"b{i}", True) for i in range(100)]
    rows[60] = TapeRow("a60", "c60", False, parting=True)
    html = made(tapes=tuple(rows))
    folded = re.findall(r"<details>.*?</details>", html, flags=re.DOTALL)
    assert ["a51" in folded[0], "a52" in folded[0], "a68" in folded[1], "a69" in folded[1]] == [
        True,
        False,
        False,
        True,
    ]
    assert "52 more steps" in html and "31 more steps" in html


def test_tapes_that_part_nowhere_are_not_said_to() -> None:
    html = made(tapes=tuple(TapeRow(f"a{i}", f"b{i}", True) for i in range(100)))
    assert "They part nowhere." in html and "here the networks part" not in html
    assert "a0" not in "".join(re.findall(r"<details>.*?</details>", html, flags=re.DOTALL))


def test_a_beyond_is_marked() -> None:
    assert 'class="n beyond"' not in made()
    assert 'class="n beyond"' in made(account=account(booking(share=1.0, local_abs=1.0)))


def test_it_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    write_page(tmp_path / "c.html", judgement(), "1", account=account())
    assert (tmp_path / "c.html").read_text(encoding="utf-8") == page(judgement(), "1", account=account())
    with pytest.raises(RoundoffError, match=r"^Cannot write .*\. Give a path in a folder that exists"):
        write_page(tmp_path / "missing" / "c.html", judgement(), "1")
    assert [p.name for p in tmp_path.iterdir()] == ["c.html"]


@pytest.mark.parametrize("missing", ["jinja2", "matplotlib"])
def test_a_missing_package_is_named_with_the_command(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    load = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == missing:
            raise ImportError(f"No module named {name!r}", name=name)
        return load(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(RoundoffError, match=rf"needs {missing}, .*: pip install 'roundoff\[html\]'$"):
        page(judgement(), "1")
