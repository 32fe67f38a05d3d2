"""The public functions and what they promise."""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from tests.judge.pairs import Perceptron, backwards, product
from torch import Tensor, nn

import roundoff
from roundoff import Comparison, Evidence, NotSame, RoundoffError, Verdict

X = torch.randn(9, 40, generator=torch.Generator().manual_seed(1))
W = torch.randn(40, 6, generator=torch.Generator().manual_seed(2))


def undecided() -> Comparison:
    return roundoff.compare(lambda x: (x, 0.5), lambda x: (x, 0.25), X)


def different() -> Comparison:
    return roundoff.compare(torch.sin, torch.cos, X)


def same() -> Comparison:
    return roundoff.compare(product, backwards, (X, W))


def identical() -> Comparison:
    return roundoff.compare(torch.sin, torch.sin, X)


ALL: list[tuple[Callable[[], Comparison], Verdict, bool]] = [
    (identical, Verdict.IDENTICAL, True),
    (same, Verdict.ROUNDOFF, True),
    (different, Verdict.DIFFERENT, False),
    (undecided, Verdict.UNDECIDED, False),
]


@pytest.mark.parametrize(("make", "verdict", "true"), ALL)
def test_a_comparison(make: Callable[[], Comparison], verdict: Verdict, true: bool) -> None:
    c = make()
    assert c.verdict is verdict and c.verdict == str(verdict)
    assert c.evidence is (Evidence.PROVED if verdict is Verdict.IDENTICAL else Evidence.STATISTICAL)
    assert bool(c) is true
    assert c.reason.endswith((".", ")"))
    assert all(isinstance(o, roundoff.Output) for o in c.outputs) and isinstance(c.outputs, tuple)
    assert all(isinstance(f, roundoff.Finding) for f in c.findings) and isinstance(c.findings, tuple)
    assert repr(c).startswith(f"<Comparison {verdict} (")


@pytest.mark.parametrize(("make", "verdict", "true"), ALL)
def test_printing_shows_the_verdict_first_within_120_columns(
    make: Callable[[], Comparison], verdict: Verdict, true: bool
) -> None:
    text = str(make())
    assert text.startswith(f"{verdict}: ")
    assert max(len(line) for line in text.splitlines()) <= 120


def test_rich_and_notebooks_render_it() -> None:
    c = same()
    console = Console(record=True, width=120, file=StringIO())
    console.print(c)
    assert console.export_text().startswith("roundoff: ")
    bundle = c._repr_mimebundle_(include=None, exclude=None)
    assert bundle.keys() == {"text/plain", "text/html"}
    assert bundle["text/plain"] == str(c) and "roundoff: the same function" in bundle["text/html"]


def test_json_on_paper_and_on_disk(tmp_path: Path) -> None:
    c = different()
    text = c.to_json(tmp_path / "c.json")
    assert (tmp_path / "c.json").read_text() == text == c.to_json()
    data = json.loads(text)
    assert data == c.to_dict()
    assert data["schema"] == "roundoff.comparison/1" and data["roundoff"] == roundoff.__version__
    assert data["verdict"] == "different" and data["outputs"][0]["name"] == "output"


# -- what compare takes -----------------------------------------------------------------------------------------------


def test_arguments_as_a_tensor_a_tuple_a_list_and_keywords() -> None:
    def net(x: Tensor, w: Tensor, *, shift: Tensor | float = 0.0) -> Tensor:
        return x @ w + shift

    assert roundoff.compare(torch.sin, torch.sin, X)
    for args in ((X, W), [X, W]):
        assert roundoff.compare(net, net, args).verdict == "identical"
    assert roundoff.compare(net, net, (X,), {"w": W, "shift": torch.ones(6)}).verdict == "identical"
    assert roundoff.compare(net, lambda x, w, shift: x @ w, (X, W), {"shift": 2.0}).verdict == "different"


def test_a_dictionary_is_one_argument() -> None:
    def net(batch: dict[str, Tensor]) -> Tensor:
        return batch["x"].sin()

    assert roundoff.compare(net, net, {"x": X}).verdict == "identical"


def test_the_caller_s_arguments_are_not_changed() -> None:
    kwargs: dict[str, Any] = {"w": W}
    x = X.clone()

    def greedy(x: Tensor, **kwargs: Tensor) -> Tensor:
        y = x @ kwargs.pop("w")
        x.zero_()
        return y

    c = roundoff.compare(greedy, lambda x, w: backwards(x, w), (x,), kwargs)
    assert c.verdict == "roundoff", c.reason
    assert torch.equal(x, X) and kwargs == {"w": W}


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_caller_s_mode_is_the_truth(mode: Callable[[], Any]) -> None:
    seen: list[tuple[bool, bool]] = []
    net = Perceptron()

    def watched(x: Tensor) -> Tensor:
        seen.append((torch.is_grad_enabled(), torch.is_inference_mode_enabled()))
        return net(x)

    with mode():
        here = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        assert roundoff.compare(watched, net, torch.randn(3, 16)).verdict == "identical"
    assert set(seen) == {here}


def test_nothing_is_left_behind() -> None:
    net = nn.Sequential(nn.Linear(40, 8), nn.BatchNorm1d(8), nn.Dropout()).train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    state = torch.get_rng_state()
    roundoff.compare(net, net, X)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in net.parameters())


def test_what_is_not_callable_is_refused() -> None:
    for a, b, side in ((3, torch.sin, "A"), (torch.sin, "net", "B")):
        with pytest.raises(RoundoffError, match=rf"^{side} is a (int|str), not callable"):
            roundoff.compare(a, b, X)  # type: ignore[arg-type]


def test_progress_is_told() -> None:
    told: list[tuple[int, int, str]] = []
    roundoff.compare(torch.sin, torch.cos, X, progress=lambda *what: told.append(what))
    assert len(told) >= 3
    for done, total, text in told:
        assert isinstance(done, int) and isinstance(total, int) and text
    assert any("A" in text for _, _, text in told) and any("B" in text for _, _, text in told)


def test_progress_can_stop_it() -> None:
    def stop(done: int, total: int, text: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        roundoff.compare(torch.sin, torch.cos, X, progress=stop)


def test_a_page_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    linear = torch.nn.Linear(64, 8)
    c = roundoff.compare(linear, lambda x: x @ linear.weight.T + linear.bias, torch.randn(3, 64))
    c.to_html(tmp_path / "page.html", names=("old", "new"))
    page = (tmp_path / "page.html").read_text()
    assert "the same function" in page and "old" in page and page.rstrip().endswith("</html>")
    with pytest.raises(RoundoffError, match="Cannot write"):
        c.to_html(tmp_path / "nowhere" / "page.html")
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]


def test_a_page_without_an_explanation_says_why(tmp_path: Path) -> None:
    c = roundoff.compare(lambda x: x, lambda x: x[:1], torch.ones(3))
    c.to_html(tmp_path / "page.html")
    assert "no output of the same place, shape and format" in (tmp_path / "page.html").read_text()


def test_an_explanation_prints_and_is_plain_data(tmp_path: Path) -> None:
    linear = torch.nn.Linear(64, 8)
    e = roundoff.compare(linear, lambda x: x @ linear.weight.T + linear.bias, torch.randn(3, 64)).explain()
    assert "Taken apart: output[" in str(e) and "exactly 0" in str(e)
    assert repr(e).startswith("<Explanation of output[")
    data = json.loads(e.to_json(tmp_path / "e.json"))
    assert data == json.loads((tmp_path / "e.json").read_text()) == json.loads(json.dumps(e.to_dict()))
    assert data["schema"] == "roundoff.explanation/1" and len(data["ledger"]) == len(e.ledger)
    assert set(e._repr_mimebundle_()) == {"text/plain", "text/html"}


# -- assert_same ------------------------------------------------------------------------------------------------------


def test_assert_same_is_silent_where_they_are() -> None:
    assert roundoff.assert_same(torch.sin, torch.sin, X) is None
    assert roundoff.assert_same(product, backwards, (X, W)) is None


@pytest.mark.parametrize(
    ("a", "b", "verdict"),
    [(torch.sin, torch.cos, "different"), (lambda x: (x, 0.5), lambda x: (x, 0.25), "undecided")],
)
def test_assert_same_raises_with_the_whole_story(a: Any, b: Any, verdict: str) -> None:
    with pytest.raises(NotSame) as caught:
        roundoff.assert_same(a, b, X)
    assert isinstance(caught.value, AssertionError) and isinstance(caught.value, RoundoffError)
    assert str(caught.value) == str(roundoff.compare(a, b, X))
    assert str(caught.value).startswith(f"{verdict}: ")


def test_assert_same_takes_the_options_of_compare() -> None:
    a, b, x = Perceptron(), Perceptron(), torch.randn(5, 16)
    with pytest.raises(NotSame, match="match_weights=True"):
        roundoff.assert_same(a, b, x)
    roundoff.assert_same(a, b, x, match_weights=True)
    with pytest.raises(NotSame, match="evidence: proved"):
        roundoff.assert_same(a, b, x, prove=True)
    with pytest.raises(TypeError, match="tolerance"):
        roundoff.assert_same(a, b, x, tolerance=1e-3)


# -- register_rule ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs either bound=... or exact=True, and got neither"),
        ({"bound": 1, "exact": True}, "needs either bound=... or exact=True, and got both"),
        ({"bound": -1}, "a bound is not negative, and -1 was given"),
        ({"bound": float("nan")}, "a bound is not negative, and nan was given"),
    ],
)
def test_rules_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RoundoffError, match=rf"register_rule\('my.op'\).*{message}"):
        roundoff.register_rule("my::op", **options)


def test_the_public_names() -> None:
    assert all(hasattr(roundoff, name) for name in roundoff.__all__)
    assert {"compare", "assert_same", "record", "register_rule", "RoundoffError", "NotSame"} <= set(roundoff.__all__)
    assert set(Verdict) == {"identical", "roundoff", "different", "undecided"}
    assert set(Evidence) == {"proved", "statistical"}


def test_record_gives_a_tape() -> None:
    tape = roundoff.record(nn.Linear(40, 2), X)
    assert [str(step.op) for step in tape] == ["aten.t.default", "aten.addmm.default"]
    assert len(tape) == 2 and "aten.addmm.default" in str(tape)


def test_records_can_be_sent_elsewhere() -> None:
    c = different()
    for thing in (*c.outputs, *c.findings, c.verdict):
        assert pickle.loads(pickle.dumps(thing)) == thing


def test_nested_tensors_on_the_way_can_be_explained() -> None:
    """An encoder with a padding mask computes on nested tensors: what they brought in has no derivative."""
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    net = nn.TransformerEncoder(layer, 2).eval()
    mask = torch.zeros(3, 5, dtype=torch.bool)
    mask[0, 3:] = mask[2, 4:] = True
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch says that nested tensors are a prototype
        c = roundoff.compare(net, net, torch.randn(3, 5, 16), {"src_key_padding_mask": mask})
        e = c.explain()
    assert c.verdict == "identical" and e.difference == 0
    assert any("to_padded_tensor" in row.op for row in e.ledger)
