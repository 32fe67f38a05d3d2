"""Judgements made by hand."""

from __future__ import annotations

from dataclasses import replace

import torch

from roundoff.judge.verdict import Judgement
from roundoff.records import Evidence, Finding, Kind, Output, Verdict

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
    return Judgement(verdict, evidence, "This is why.", outputs or (OUTPUT,), findings)
