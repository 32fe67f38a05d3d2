"""The question that roundoff started from, run and answered.

Somebody rewrote a fully connected network with 1x1 convolutions, with identical weights, and the two gave different
numbers. Each guess that was made at the reason is adjudicated here by a run.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from itertools import product

import torch
from torch import nn

from roundoff.api import compare
from roundoff.report.thread import Answer, Claim, Row, size
from roundoff.thread.claims import ACTIVATIONS, BATCH, CLAIMS, SAMPLES
from roundoff.thread.networks import (
    FORMS,
    WIDTHS,
    ConvNetwork,
    LinearNetwork,
    TensordotNetwork,
    with_weights_of,
)

__all__ = ["ConvNetwork", "LinearNetwork", "TensordotNetwork", "answer_thread", "with_weights_of"]

#: What every weight and bias is set to; None keeps what the constructor drew.
WEIGHTS: dict[str, float | None] = {"1": 1.0, "0.001": 0.001, "random": None}
OUTPUTS = {"[0]": "logits", "[1]": "features"}

Progress = Callable[[int, int, str], None]


def answer_thread(device: torch.device | str = "cpu", progress: Progress | None = None) -> Answer:
    """Run the question and every claim on ``device``; takes a few seconds. Global random state is left as it was."""
    device = torch.device(device)
    tell = progress or (lambda done, total, text: None)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        rows = []
        cases = list(cases_of_the_question())
        for i, case in enumerate(cases):
            tell(i, len(cases) + len(CLAIMS), "{}, weights {}: {}, {} samples".format(*case))
            rows.append(run_case(*case, device))
        claims: list[Claim] = []
        for check in CLAIMS:
            tell(len(cases) + len(claims), len(cases) + len(CLAIMS), "claims")
            claims.append(check(tuple(rows), device))
    return Answer(_answer(tuple(rows)), tuple(rows), tuple(claims), _machine(device))


def cases_of_the_question() -> Iterator[tuple[str, str, str, int]]:
    """Activation, weights, form and number of samples of each comparison."""
    for activation, weights in product(ACTIVATIONS, WEIGHTS):
        for form, samples in product(FORMS, SAMPLES):
            yield activation, weights, form, samples


def run_case(activation: str, weights: str, form: str, samples: int, device: torch.device) -> Row:
    """Compare the linear layers with ``form``."""
    linear = LinearNetwork(ACTIVATIONS[activation]).to(device)
    value = WEIGHTS[weights]
    if value is not None:
        for p in linear.parameters():
            nn.init.constant_(p, value)
    other = with_weights_of(linear, FORMS[form](ACTIVATIONS[activation]))
    c = compare(linear, other, torch.randn(BATCH, samples, WIDTHS[0]).to(device))
    o = max(c.outputs, key=lambda o: o.max_abs / (o.value_abs or 1.0))
    return Row(
        weights=weights,
        activation=activation,
        samples=samples,
        form=form,
        verdict=c.verdict,
        output=OUTPUTS[o.name],
        difference_abs=o.max_abs,
        value_abs=o.value_abs,
        ulp=o.max_ulp,
        roundoff_linear_abs=o.roundoff_a_abs,
        roundoff_form_abs=o.roundoff_b_abs,
        real_abs=o.real_abs,
    )


def _answer(rows: tuple[Row, ...]) -> str:
    apart = max(row.real_abs / (row.value_abs or 1.0) for row in rows)
    if all(row.same for row in rows):
        return (
            "It is round-off, not a bug: linear layers, 1x1 convolutions and tensordot are the same function. In "
            f"float64 they differ by at most {size(apart)} of the largest value; in float32 their kernels add the "
            "same products in another order, and each rounds."
        )
    odd = [row for row in rows if not row.same]
    cases = "; ".join(
        f"{row.form}, {row.activation}, weights {row.weights}, {row.samples} samples: {row.verdict}" for row in odd
    )
    return (
        f"On this machine {len(rows) - len(odd)} of {len(rows)} comparisons are round-off, and these are not: {cases}."
    )


def _machine(device: torch.device) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"
    return f"PyTorch {torch.__version__} on {name}, {torch.get_num_threads()} threads."
