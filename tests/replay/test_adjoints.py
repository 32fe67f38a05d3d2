"""Adjoints by storage: what lies in one number several times is added up there."""

import pytest
import torch

from roundoff.replay.adjoints import Adjoints
from roundoff.tape.record import Place


def place(x: torch.Tensor, number: int = 0) -> Place:
    return Place(number, x.dtype, tuple(x.size()), tuple(x.stride()), x.storage_offset(), x.is_conj(), x.is_neg())


BASE = torch.arange(12.0)
VIEWS = {
    "contiguous": lambda x: x.view(3, 4),
    "transposed": lambda x: x.view(3, 4).T,
    "strided": lambda x: x[1::3],
    "expanded": lambda x: x[:4].expand(5, 4),
    "expanded inside": lambda x: x[:4].view(4, 1).expand(4, 3),
    "windows": lambda x: x.unfold(0, 4, 2),
    "windows of windows": lambda x: x.unfold(0, 6, 1).unfold(1, 3, 1),
    "one": lambda x: x[7],
    "none": lambda x: x[:0],
}


@pytest.mark.parametrize("name", VIEWS)
def test_adds_what_autograd_adds(name: str) -> None:
    x = BASE.double().requires_grad_()
    view = VIEWS[name](x)
    weight = torch.randint(-9, 9, view.shape, generator=torch.Generator().manual_seed(1)).double()  # sums are exact
    (expected,) = torch.autograd.grad((view * weight).sum(), x)
    adjoints = Adjoints()
    adjoints.add(place(BASE), torch.zeros(12, dtype=torch.float64))
    adjoints.add(place(VIEWS[name](BASE)), weight)
    assert torch.equal(adjoints.read(place(BASE)), expected)


def test_taking_leaves_zero_there_and_nothing_elsewhere() -> None:
    adjoints = Adjoints()
    adjoints.add(place(BASE), torch.ones(12, dtype=torch.float64))
    part = place(BASE[3:5])
    assert torch.equal(adjoints.take(part), torch.ones(2, dtype=torch.float64))
    left = adjoints.read(place(BASE))
    assert left.sum() == 10 and left[3:5].sum() == 0


def test_a_larger_view_grows_the_storage() -> None:
    adjoints = Adjoints()
    adjoints.add(place(BASE[:2]), torch.ones(2, dtype=torch.float64))
    adjoints.add(place(BASE[8:]), torch.ones(4, dtype=torch.float64))
    assert adjoints.read(place(BASE)).tolist() == [1, 1, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1]


def test_complex_numbers_their_conjugates_and_their_parts() -> None:
    z = torch.tensor([1 + 2j, 3 - 1j], dtype=torch.complex64)
    g = torch.tensor([0.5 + 1j, 2 - 3j], dtype=torch.complex128)
    adjoints = Adjoints()
    adjoints.add(place(z.conj()), g)
    assert torch.equal(adjoints.read(place(z)), g.conj().resolve_conj())
    parts = place(torch.view_as_real(z))
    assert torch.equal(adjoints.read(parts), torch.view_as_real(g.conj().resolve_conj()))


def test_integers_and_unknown_storages_have_none() -> None:
    adjoints = Adjoints()
    adjoints.add(place(BASE), torch.ones(12, dtype=torch.float64))
    assert adjoints.take(place(BASE, 5)) is None
    assert adjoints.take(place(BASE.long())) is None
    adjoints.drop(0)
    assert adjoints.read(place(BASE)) is None and 0 not in adjoints
