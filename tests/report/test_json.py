"""A comparison as plain data."""

from __future__ import annotations

import json
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
from tests.report.records import FINDING, account, booking, judgement, output

from roundoff import RoundoffError
from roundoff.records import Verdict
from roundoff.report.json import EXPLANATION, SCHEMA, account_as_dict, as_dict, as_json, write


def test_the_schema() -> None:
    data = as_dict(judgement(), "1.2.3")
    assert data == {
        "schema": "roundoff.comparison/1",
        "roundoff": "1.2.3",
        "verdict": "roundoff",
        "evidence": "statistical",
        "reason": "This is why.",
        "outputs": [
            {
                "name": "['logits']",
                "shape": [16, 4],
                "dtype": "float32",
                "identical": False,
                "index": [3, 1],
                "max_ulp": 1234,
                "max_abs": 2.5e-7,
                "roundoff_a_abs": 1e-7,
                "roundoff_b_abs": 2e-7,
                "real_abs": 1e-16,
                "floor_abs": 3e-15,
                "value_abs": 2.0,
            }
        ],
        "findings": [{"kind": "magnitude", "where": "['logits']", "text": "The values are large."}],
    }
    assert data["schema"] == SCHEMA


def plain(value: Any) -> bool:
    """Exactly the types of JSON: an enum or a subclass of str would not come back as it was."""
    if isinstance(value, dict):
        return all(type(k) is str and plain(v) for k, v in value.items())
    if isinstance(value, list):
        return all(plain(v) for v in value)
    return type(value) in (str, int, float, bool, type(None))


@pytest.mark.parametrize("verdict", Verdict)
def test_plain_data_that_json_gives_back(verdict: Verdict) -> None:
    data = as_dict(judgement(output(index=None, max_ulp=None), verdict=verdict), "1")
    assert plain(data)
    assert json.loads(as_json(data)) == data


def test_sizes_that_are_not_finite_are_words() -> None:
    data = as_dict(judgement(output(max_abs=inf, real_abs=nan, floor_abs=-inf)), "1")
    (o,) = data["outputs"]
    assert (o["max_abs"], o["real_abs"], o["floor_abs"]) == ("inf", "nan", "-inf")
    assert "Infinity" not in as_json(data) and "NaN" not in as_json(data)


def test_the_same_data_give_the_same_text() -> None:
    assert as_json(as_dict(judgement(), "1")) == as_json(as_dict(judgement(), "1"))
    assert as_json({}).endswith("\n")


def test_a_file_is_written_whole_and_replaces_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "c.json"
    target.write_text("old")
    write("näw\n", target)
    assert target.read_text(encoding="utf-8") == "näw\n"
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_can_be_read_by_whom_any_new_file_can(tmp_path: Path) -> None:
    write("x", tmp_path / "c.json")
    (tmp_path / "other").write_text("x")
    assert (tmp_path / "c.json").stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_was_there_stays_when_writing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    target = tmp_path / "c.json"
    target.write_text("old")

    def fail(*args: object) -> None:
        raise failure

    monkeypatch.setattr("roundoff.files.os.replace", fail)
    with pytest.raises(RoundoffError if isinstance(failure, OSError) else KeyboardInterrupt):
        write("new", target)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_where_it_cannot_be_written(tmp_path: Path) -> None:
    for target in (tmp_path / "missing" / "c.json", tmp_path):
        with pytest.raises(RoundoffError, match=r"^Cannot write .*\. Give a path in a folder that exists"):
            write("x", target)
    assert list(tmp_path.iterdir()) == []


def test_the_schema_of_an_explanation() -> None:
    data = account_as_dict(account(booking(share=1.0, bound_abs=None), findings=(FINDING,)), "1.2.3")
    assert data == {
        "schema": "roundoff.explanation/1",
        "roundoff": "1.2.3",
        "target": "output[3, 1]",
        "difference": 2.5e-7,
        "booked": 1.0,
        "residual_abs": 1e-16,
        "real_share": 0.0,
        "ledger": [
            {
                "side": "A",
                "step": 0,
                "op": "aten.addmm.default",
                "module": "layers.0",
                "source": "net.py:12: x = self.layer(x)",
                "local_abs": 1e-7,
                "bound_abs": None,
                "order_bound_abs": None,
                "inherited_abs": 3e-8,
                "error_rel": 4e-7,
                "amplification": 1.5,
                "share": 1.0,
                "bent_share": 0.0,
            }
        ],
        "findings": [{"kind": "magnitude", "where": "['logits']", "text": "The values are large."}],
        "orders": [],
    }
    assert data["schema"] == EXPLANATION
    assert plain(data) and json.loads(as_json(data)) == data


def test_an_explanation_keeps_the_order_of_its_ledger_and_says_what_is_not_finite() -> None:
    data = account_as_dict(account(booking(local_abs=inf, bound_abs=nan), residual_abs=inf), "1")
    assert (data["residual_abs"], data["ledger"][0]["local_abs"], data["ledger"][0]["bound_abs"]) == (
        "inf",
        "inf",
        "nan",
    )
    assert [b["share"] for b in account_as_dict(account(), "1")["ledger"]] == [0.7, 0.4, -0.1, 0.0, 0.0]
