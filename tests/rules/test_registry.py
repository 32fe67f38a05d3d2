"""One test over the whole registry: no kernel of this build breaks its bound, and planted faults break it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.rules.trial import REDUCED, Composite, Trial, samples, tensors, trial
from torch import Tensor

from roundoff.formats import U64, is_inexact
from roundoff.rules import Call, Limit, Nature, Rule, all_rules, lookup

U32 = 2.0**-24

#: Rules whose samples this machine cannot run, or which have none, and why.
NOT_HERE = {
    "aten.linear": "taken apart before it runs",
    "aten._convolution": "seen under autocast only; its sample operands are those of aten.convolution",
    "aten._fused_rms_norm": "taken apart on the CPU",
}
HAS_NO_SAMPLES = {
    "aten.real": "views of complex numbers",
    "aten.view_as": "taken apart before it runs",
    "aten.bitwise_and": "integers",
    "aten.complex": "real operands, complex result",
    "aten.linalg_lu_factor_ex": "factors, which have no bound of their own",
    "aten._batch_norm_with_update": "runs on graphics processors",
    "aten.cudnn_batch_norm": "runs on graphics processors",
    "aten._scaled_dot_product_flash_attention": "runs on graphics processors",
    "aten._scaled_dot_product_efficient_attention": "runs on graphics processors",
    "aten._scaled_dot_product_cudnn_attention": "runs on graphics processors",
    "aten._thnn_fused_lstm_cell": "runs on graphics processors",
    "aten._thnn_fused_gru_cell": "runs on graphics processors",
}

OURS = [rule for rule in all_rules() if rule.ops[0].startswith(("aten.", "prims."))]
TRIED = [rule for rule in OURS if rule.samples is not None]
ROUNDING = [rule for rule in TRIED if rule.nature is Nature.ROUNDS]


def name(value: Any) -> str | None:
    if isinstance(value, Rule):
        return value.ops[0]
    return str(value).removeprefix("torch.") if isinstance(value, torch.dtype) else None


def trials(rule: Rule, dtype: torch.dtype, seed: int = 0) -> Iterator[Trial]:
    for op, args, kwargs in samples(rule, dtype, seed):
        if str(op).removesuffix(".default") in NOT_HERE:
            continue
        try:
            yield trial(rule, op, args, kwargs)
        except RuntimeError as error:
            absent = isinstance(error, NotImplementedError) or "could not create a primitive" in str(error)
            if dtype not in REDUCED or not absent:  # not every kernel exists for the short formats
                raise


@pytest.mark.parametrize("dtype", [torch.float32, *REDUCED], ids=name)
@pytest.mark.parametrize("rule", TRIED, ids=name)
def test_no_kernel_breaks_its_bound(rule: Rule, dtype: torch.dtype) -> None:
    count = 0
    for t in trials(rule, dtype):
        count += 1
        for i, y in enumerate(t.native):
            ratio = t.excess(i)
            assert ratio <= 1, f"{t.call.op} on {list(y.shape)}: {ratio:.3g} times the bound of result {i}"
    assert count or dtype in REDUCED or rule.ops[0] in NOT_HERE


def faulty(y: Tensor, reference: Tensor, relative: float) -> Tensor | None:
    """``y`` with the largest of its ordinary elements off by ``relative`` of itself; None where there is none."""
    if not is_inexact(y.dtype):
        return None
    ordinary = reference.isfinite() & (reference.abs() < 2.0**100) & (reference.abs() > 2.0**-100)
    if not bool(ordinary.any()):
        return None
    at = int(torch.where(ordinary, reference.abs(), 0.0).argmax())
    changed = y.clone(memory_format=torch.contiguous_format).flatten()
    changed[at] *= 1 + relative
    return changed.reshape(y.shape)


def is_judged(limit: Limit) -> bool:
    """False for workspaces, seeds and factors that carry no meaning: nothing is held against them."""
    return not bool(torch.as_tensor(limit).isinf().all())


@pytest.mark.parametrize("rule", ROUNDING, ids=name)
def test_an_element_that_is_off_is_seen(rule: Rule) -> None:
    """Off by 2^-9 of itself, in most samples: sums of thousands of terms may be off by as much in the worst case."""
    seen = [
        t.excess(i, wrong) > 1
        for t in trials(rule, torch.float32)
        for i, y in enumerate(t.native)
        if is_judged(t.limits[i]) and (wrong := faulty(y, t.reference[i], 2.0**-9)) is not None
    ]
    assert sum(seen) >= len(seen) / 2, f"seen in {sum(seen)} of {len(seen)}"
    assert seen or rule.ops[0] in NOT_HERE or rule.ops[0] == "aten.nan_to_num"


@pytest.mark.parametrize("rule", [r for r in TRIED if r.nature is Nature.EXACT], ids=name)
def test_a_changed_bit_of_moved_data_is_seen(rule: Rule) -> None:
    for t in trials(rule, torch.float32):
        for i, y in enumerate(t.native):
            wrong = faulty(y, t.reference[i], 2.0**-23)
            assert wrong is None or t.excess(i, wrong) > 1


#: Rules that sum over the last dimension of their first operand.
SUMMING = (
    "aten.sum", "aten.mean", "aten.nansum", "aten.linalg_vector_norm", "aten.var", "aten.std", "aten.var_mean",
    "aten.norm", "aten.logsumexp", "aten._softmax", "aten._log_softmax", "aten.native_layer_norm", "aten.cumsum",
    "aten.native_group_norm", "aten.native_batch_norm", "aten.avg_pool2d", "aten._adaptive_avg_pool2d", "aten.mm",
    "aten.bmm", "aten.dot", "aten.mv", "aten._scaled_dot_product_flash_attention_for_cpu",
    "aten.mse_loss", "aten.binary_cross_entropy", "aten.trace", "aten._fft_r2c", "aten._cdist_forward", "aten.index_add",
    "aten._native_multi_head_attention", "aten._transformer_encoder_layer_fwd", "aten.mkldnn_rnn_layer",
)  # fmt: skip


def without_last_block(x: Any) -> Any:
    """The operand with the last quarter of its last dimension lost, as by a kernel that forgets its tail."""
    if not isinstance(x, Tensor) or not is_inexact(x.dtype) or not x.dim() or x.shape[-1] < 4:
        return x
    x = x.clone()
    x[..., -(x.shape[-1] // 4) :] = 0
    return x


def in_bfloat16(x: Any) -> Any:
    return x.to(torch.bfloat16).to(x.dtype) if isinstance(x, Tensor) and x.is_floating_point() else x


def seen_when(rule: Rule, change: Any, *, first_only: bool) -> list[bool]:
    """For each sample: does the bound see that the kernel was given changed operands?"""
    seen = []
    for op, args, kwargs in samples(rule, torch.float32):
        if str(op).removesuffix(".default") in NOT_HERE:
            continue
        t = trial(rule, op, args, kwargs)
        changed = [change(a) if i == 0 or not first_only else a for i, a in enumerate(args)]
        with torch.no_grad():
            native = tensors(op(*changed, **kwargs))
        differs = [not torch.equal(y, z) for y, z in zip(native, t.native, strict=True)]
        if differs[0]:
            seen.append(any(t.excess(i, y) > 1 for i, y in enumerate(native)))
    return seen


@pytest.mark.parametrize("op", SUMMING)
def test_a_forgotten_tail_is_seen(op: str) -> None:
    rule = next(rule for rule in TRIED if op in rule.ops)
    seen = seen_when(rule, without_last_block, first_only=True)
    assert seen and sum(seen) >= 0.7 * len(seen), f"seen in {sum(seen)} of {len(seen)}"


@pytest.mark.parametrize("rule", ROUNDING, ids=name)
def test_operands_in_bfloat16_are_seen(rule: Rule) -> None:
    """In most samples; long products are told by fitting (``judge.precision``), for their worst case hides it."""
    seen = seen_when(rule, in_bfloat16, first_only=False)
    assert sum(seen) >= len(seen) / 2, f"seen in {sum(seen)} of {len(seen)}"


@pytest.mark.parametrize("rule", ROUNDING, ids=name)
def test_the_typical_size_of_wide_rounding_is_small(rule: Rule) -> None:
    """In float64 a typical error is at most the bound, and finite where the bound is."""
    for t in trials(rule, torch.float32):
        if rule.bound is None:
            continue
        call = Call(t.call.op, t.call.args, t.call.kwargs, t.call.out, U64)
        typical = Call(t.call.op, t.call.args, t.call.kwargs, t.call.out, U64, typical=True)
        both = [rule.bound(c) for c in (call, typical)]
        (bounds, sizes) = [b if isinstance(b, tuple) else (b,) * len(t.call.out) for b in both]
        for bound, size, y in zip(bounds, sizes, t.call.out, strict=True):
            bound, size = (torch.as_tensor(v, dtype=torch.float64).broadcast_to(y.shape) for v in (bound, size))
            assert not size.isnan().any() or bound.isnan().any() or not y.isfinite().all()
            assert ((size <= bound * (1 + 1e-9)) | ~y.isfinite()).all() or "statistical" in rule.assumes


#: Kernels that are off by tens of ulp, and changes of format: their typical size is one float64 rounding all the same.
COARSE = ("aten.special_log_ndtr", "aten.special_erfcx", "aten._to_copy", "prims.convert_element_type")


@pytest.mark.parametrize("rule", [r for r in ROUNDING if not r.discrete and r.ops[0] not in COARSE], ids=name)
def test_the_typical_size_is_not_too_small(rule: Rule) -> None:
    """The floor of a verdict is a multiple of it: seen in float32, where the errors are there to be measured."""
    for t in trials(rule, torch.float32):
        found = rule.bound(replace(t.call, typical=True)) if rule.bound is not None else 0.0
        sizes = found if isinstance(found, tuple) else (found,) * len(t.native)
        for y, reference, size in zip(t.native, t.reference, sizes, strict=True):
            if not is_inexact(y.dtype):
                continue
            size = torch.as_tensor(size) + reference.abs() * U32
            ordinary = (reference.abs() > 2.0**-100) & (reference.abs() < 2.0**100) & size.isfinite() & (size > 0)
            if int(ordinary.sum()) < 8:  # too few to speak of a typical one
                continue
            ratio = (y.to(reference.dtype) - reference).abs()[ordinary] / size.broadcast_to(y.shape)[ordinary]
            assert ratio.square().mean().sqrt() < 1.5


@pytest.mark.parametrize("rule", OURS, ids=name)
def test_every_rule_says_where_it_comes_from(rule: Rule) -> None:
    assert rule.source
    if rule.samples is None and rule.nature not in (Nature.DRAWS, Nature.MAKES):
        assert rule.ops[0] in HAS_NO_SAMPLES or "." in rule.ops[0].removeprefix("aten."), rule.ops


def test_every_name_is_an_operator() -> None:
    def exists(op: str) -> bool:
        namespace, packet, *overload = op.split(".")
        found = getattr(getattr(torch.ops, namespace), packet, None) or getattr(torch.ops.aten, f"{packet}_", None)
        return found is not None and (not overload or overload[0] in found.overloads())

    assert [op for rule in OURS for op in rule.ops if not exists(op)] == []


def test_operators_that_are_taken_apart_are_not_counted_as_known() -> None:
    """A rule for an operator that never runs as such would be a rule that nothing tests."""
    unseen = set()
    for rule in TRIED:
        for op, args, kwargs in samples(rule, torch.float32):
            try:
                trial(rule, op, args, kwargs)
            except Composite:
                unseen.add(str(op).removesuffix(".default"))
            except (RuntimeError, IndexError):
                assert str(op) in NOT_HERE
    assert unseen <= set(NOT_HERE)


@pytest.mark.parametrize(
    ("op", "known"),
    [
        (torch.ops.aten.relu_.default, "aten.relu"),
        (torch.ops.aten.add_.Tensor, "aten.add"),
        (torch.ops.aten.div_.Tensor_mode, "aten.div.Tensor_mode"),
        (torch.ops.aten.index_put_.default, "aten.index_put"),
        (torch.ops.aten.bernoulli_.float, "aten.bernoulli"),
        (torch.ops.aten.copy_.default, "aten.copy"),
        (torch.ops.aten.zero_.default, "aten.zero"),
    ],
    ids=str,
)
def test_in_place_operators_have_the_rule_of_their_twin(op: Any, known: str) -> None:
    rule = lookup(op)
    assert rule is not None
    assert known in rule.ops
