"""Judgements made by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from roundoff.judge.verdict import Judgement
from roundoff.records import Account, Booking, Evidence, Finding, Kind, Output, Verdict

OUTPUT = Output(
    name="['logits']",
    shape=(16, 4),
    dtype=torch.float32,
    max_abs=2.5e-7,
    index=(3, 1),
    max_ulp=1234,
    roundoff_a_abs=1e-7,
    roundoff_b_abs=2e-7,
    real_abs=1e-16,
    floor_abs=3e-15,
    value_abs=2.0,
    identical=False,
)
FINDING = Finding(Kind.MAGNITUDE, "['logits']", "The values are large.")


def output(**changes: object) -> Output:
    return replace(OUTPUT, **changes)  # type: ignore[arg-type]


def judgement(
    *outputs: Output, verdict: Verdict = Verdict.ROUNDOFF, findings: tuple[Finding, ...] = (FINDING,)
) -> Judgement:
    evidence = Evidence.PROVED if verdict is Verdict.IDENTICAL else Evidence.STATISTICAL
    no_case: Any = None  # no report looks at the runs
    return Judgement(verdict, evidence, "This is why.", outputs or (OUTPUT,), findings, no_case)


def booking(side: str = "A", step: int = 0, op: str = "aten.addmm.default", **changes: object) -> Booking:
    return replace(BOOKING, side=side, step=step, op=op, **changes)  # type: ignore[arg-type]


def account(*ledger: Booking, **changes: object) -> Account:
    """An account that balances, unless ``changes`` say otherwise."""
    ledger = ledger or LEDGER
    booked = sum(b.share for b in ledger) + float(changes.get("real_share", 0.0))  # type: ignore[arg-type]
    return replace(Account("output[3, 1]", 2.5e-7, ledger, 0.0, booked, 1e-16), **changes)  # type: ignore[arg-type]


BOOKING = Booking(
    side="A",
    step=0,
    op="aten.addmm.default",
    module="layers.0",
    source="net.py:12: x = self.layer(x)",
    local_abs=1e-7,
    bound_abs=2e-6,
    inherited_abs=3e-8,
    error_rel=4e-7,
    amplification=1.5,
    share=0.0,
    bent_share=0.0,
)
MOVED: dict[str, object] = {
    "local_abs": 0.0,
    "bound_abs": 0.0,
    "inherited_abs": 0.0,
    "error_rel": 0.0,
    "amplification": 0.0,
}
LEDGER = (
    booking("B", 3, "aten.convolution.default", share=0.7, module="conv"),
    booking("A", 1, share=0.4),
    booking("A", 2, "aten.elu.default", share=-0.1, module="activation"),
    booking("A", 0, "aten.t.default", **MOVED),
    booking("B", 1, "aten.permute.default", module="", **MOVED),
)
