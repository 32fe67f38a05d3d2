"""Twins lie in memory as the native tensors do, so a view of one is a view of the other."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from roundoff.formats import widen
from roundoff.replay.twins import Twins

NATIVE = torch.arange(24.0).reshape(4, 6)
OFF = 0.25  # how far the twins of these tests are from what they stand beside


def pair(x: Tensor | None = None) -> tuple[Twins, Tensor]:
    """A tensor and its twin, which is larger by OFF."""
    twins, x = Twins(), NATIVE.clone() if x is None else x
    twins.adopt(x, widen(x) + OFF)
    return twins, x


def test_without_a_twin_a_tensor_is_its_own_wide_value() -> None:
    twins = Twins()
    assert not twins.has(NATIVE)
    assert torch.equal(twins.wide(NATIVE), NATIVE.double())
    assert twins.wide(torch.ones(2, dtype=torch.long)).dtype == torch.long


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "itself": lambda x: x,
    "slice": lambda x: x[1:3, ::2],
    "transposed": lambda x: x.t(),
    "flat": lambda x: x.view(-1),
    "one": lambda x: x[2, 3],
    "expanded": lambda x: x[:1].expand(5, 6),
    "overlapping": lambda x: torch.as_strided(x, (3, 3), (2, 1), 4),
    "diagonal": lambda x: x.diagonal(),
    "windows": lambda x: x.unfold(1, 3, 1),
    "empty": lambda x: x[:0],
    "negated view": torch._neg_view,
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_the_twin_of_a_view_is_a_view_of_the_twin(view: Callable[[Tensor], Tensor]) -> None:
    twins, x = pair()
    v = view(x)
    assert torch.equal(twins.wide(v), view(x.double() + OFF))
    twins.wide(x)[2, 3] = twins.wide(x)[0] = twins.wide(x)[1:3, ::2] = 100.0
    assert torch.equal(twins.wide(v), view(twins.wide(x)))


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_what_is_adopted_by_a_view_is_seen_through_the_whole(view: Callable[[Tensor], Tensor]) -> None:
    twins, x = pair()
    v = view(x)
    if v.numel() and len(v.unique()) == v.numel():  # no element lies in the view twice
        twins.adopt(v, torch.full(v.shape, 7.0, dtype=torch.float64))
        assert int((twins.wide(x).abs() == 7.0).sum()) == v.numel()


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.ones(4, 6).t(),
        lambda: torch.ones(2, 3, 4, 4).contiguous(memory_format=torch.channels_last),
        lambda: torch.ones(9, 9)[2:5, ::3],
        lambda: torch.ones(3, 1, 2).expand(3, 4, 2).contiguous(),
        lambda: torch.tensor(3.0),
    ],
)
def test_layouts(make: Callable[[], Tensor]) -> None:
    twins, x = pair(make())
    assert torch.equal(twins.wide(x), x.double() + OFF)
    assert twins.wide(x).stride() == x.stride()


def test_a_result_in_another_layout_than_the_native_one_is_laid_out_anew() -> None:
    twins, x = Twins(), torch.ones(4, 6).t()
    twins.adopt(x, torch.arange(24.0, dtype=torch.float64).reshape(6, 4))
    assert torch.equal(twins.wide(x.t()), torch.arange(24.0, dtype=torch.float64).reshape(6, 4).t())


def test_memory_is_taken_over_where_it_lies_the_same_way() -> None:
    twins, x, wide = Twins(), NATIVE.clone(), NATIVE.double() + OFF
    twins.adopt(x, wide)
    assert twins.wide(x).data_ptr() == wide.data_ptr()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64])
def test_owning_copies_what_is_about_to_be_overwritten(dtype: torch.dtype) -> None:
    """Also float64, whose wide value is otherwise its own memory."""
    twins, x = Twins(), NATIVE.to(dtype, copy=True)
    twins.own(x[1:])
    x.zero_()
    assert torch.equal(twins.wide(x), NATIVE.to(twins.wide(x).dtype))
    twins.wide(x).fill_(3)
    assert not x.any()


def test_owning_again_changes_nothing() -> None:
    twins, x = pair()
    twins.own(x)
    assert torch.equal(twins.wide(x), x.double() + OFF)


def test_after_dropping_the_native_value_counts() -> None:
    twins, x = pair()
    twins.drop(x[1:2])
    assert not twins.has(x) and torch.equal(twins.wide(x), x.double())


def test_twins_go_with_their_memory_and_addresses_are_used_again() -> None:
    twins = Twins()
    for i in range(500):
        x = torch.full((8,), float(i))
        assert not twins.has(x)
        twins.adopt(x, widen(x) + OFF)
        assert torch.equal(twins.wide(x), widen(x) + OFF)
        del x
    assert len(twins._of) == 0


# -- memory that grows ------------------------------------------------------------------------------------------------


def test_a_twin_grows_with_its_storage() -> None:
    twins, x = pair(torch.arange(6.0))
    x.resize_(10)
    x[6:] = 9.0
    assert twins.wide(x).tolist() == [OFF, 1 + OFF, 2 + OFF, 3 + OFF, 4 + OFF, 5 + OFF, 9, 9, 9, 9]
    twins.wide(x)[7] = -1.0
    assert twins.wide(x[7:8]).tolist() == [-1.0]


def test_an_empty_tensor_that_is_resized_is_adopted() -> None:
    twins, x = Twins(), torch.empty(0)
    twins.own(x)
    x.resize_(3)
    twins.adopt(x, torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    assert twins.wide(x[1:]).tolist() == [2.0, 3.0]


# -- complex numbers, and bits read as something else -------------------------------------------------------------------


def complex_pair() -> tuple[Twins, Tensor]:
    return pair(torch.complex(NATIVE, NATIVE + 1))


@pytest.mark.parametrize(
    "view", [torch.view_as_real, torch.real, torch.imag, torch.conj, lambda z: z.conj().imag, lambda z: z.mH[1:, ::2]]
)
def test_views_of_complex_numbers(view: Callable[[Tensor], Tensor]) -> None:
    twins, z = complex_pair()
    expected = view(z.to(torch.complex128) + OFF)
    assert torch.equal(twins.wide(view(z)), expected)
    twins.wide(view(z))[..., 0] = 100.0
    assert not torch.equal(twins.wide(z), z.to(torch.complex128) + OFF)


def test_real_numbers_seen_as_complex_ones() -> None:
    for length in (24, 25):  # with one left over
        twins, x = pair(torch.arange(float(length)))
        z = torch.view_as_complex(x[:24].view(12, 2))
        assert torch.equal(torch.view_as_real(twins.wide(z)).flatten(), x[:24].double() + OFF)


@pytest.mark.parametrize("lazy", [torch.conj, torch._neg_view])
def test_a_result_that_is_lazily_conjugate_or_negative(lazy: Callable[[Tensor], Tensor]) -> None:
    twins = Twins()
    z = lazy(torch.complex(NATIVE, NATIVE + 1).clone())
    wide = z.to(torch.complex128) * 3
    twins.adopt(z, wide)
    assert torch.equal(twins.wide(z), wide)
    assert torch.equal(twins.wide(lazy(z)), lazy(wide))


@pytest.mark.parametrize("view", [lambda x: x.view(torch.int32), lambda x: x.view(torch.float16)])
def test_bits_that_are_read_as_something_else_have_no_wide_value(view: Callable[[Tensor], Tensor]) -> None:
    twins, x = pair()
    with pytest.raises(ValueError, match=r"the bits of torch\.float32 read as"):
        twins.wide(view(x))


def test_short_numbers_are_not_taken_for_halves_of_complex_ones() -> None:
    twins, x = pair(torch.ones(8, dtype=torch.float16))
    with pytest.raises(ValueError, match="read as"):
        twins.wide(x.view(torch.float32))
    with pytest.raises(ValueError, match="read as"):
        twins.wide(x.view(torch.complex64))


def test_integers_may_be_read_as_other_integers() -> None:
    twins, x = Twins(), torch.arange(4, dtype=torch.int32)
    twins.adopt(x, x.clone() + 1)
    assert twins.wide(x.view(torch.int8))[0].item() == 1


# -- nested tensors -----------------------------------------------------------------------------------------------------


def test_nested_tensors_have_their_twins_whole() -> None:
    twins = Twins()
    x = torch.nested.as_nested_tensor([torch.ones(2, 3), torch.ones(1, 3)])
    assert torch.equal(twins.wide(x).to_padded_tensor(0.0), x.to_padded_tensor(0.0).double())
    twins.own(x)
    assert not twins.has(x)
    twins.adopt(x, widen(x) * 2)
    assert twins.has(x) and float(twins.wide(x).to_padded_tensor(0.0).sum()) == 18.0
    twins.drop(x)
    assert not twins.has(x)
