"""How the tape watches a value: what changes in place do to it, how often it tells, what it keeps."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dpft.errors import PrivacyError
from dpft.privacy.tape import Tape


def tape() -> Tape:
    return Tape(nn.Linear(1, 1).requires_grad_(False), {})


def values() -> Tensor:
    return torch.tensor([[1.0, -2.0, 3.0]], requires_grad=True)


def own(x: Tensor) -> Tensor:
    return x * 2.0


def viewed(x: Tensor) -> Tensor:
    return (x * 2.0).view(3, 1)


def leaf(x: Tensor) -> Tensor:
    return x.detach()


@pytest.mark.parametrize("make", [own, viewed, leaf])
def test_the_gradient_is_handed_over_and_passed_on(make: Callable[[Tensor], Tensor]) -> None:
    x, seen = values(), list[Tensor]()
    watched = tape().watch(make(x), lambda gradient: seen.append(gradient.clone()))
    torch.autograd.backward((5.0 * watched).sum())
    assert [gradient.unique().tolist() for gradient in seen] == [[5.0]]
    if make is not leaf:
        assert x.grad is not None
        assert bool((x.grad == 10.0).all())


def test_a_value_changed_in_place_has_the_gradient_of_what_the_layer_gave() -> None:
    seen: list[Tensor] = []
    watched = tape().watch(own(values()), seen.append)
    watched.mul_(-1.0)
    watched[:, 0].mul_(3.0)
    torch.autograd.backward(watched.sum())
    assert seen[0].tolist() == [[-3.0, -1.0, -1.0]]


def test_a_view_changed_in_place_is_an_error_not_a_lost_gradient() -> None:
    watched = tape().watch(viewed(values()), lambda gradient: None)
    with pytest.raises(RuntimeError, match="view"):
        watched.relu_()


def test_planted_hook_on_a_view_loses_the_gradient() -> None:
    seen: list[Tensor] = []
    value = viewed(values())
    value.register_hook(seen.append)  # instead of watching it
    value.relu_()
    torch.autograd.backward(value.sum())
    assert not any(torch.equal(gradient, torch.tensor([[1.0], [0.0], [1.0]])) for gradient in seen)


@pytest.mark.parametrize("make", [own, viewed, leaf])
def test_a_second_backward_pass_is_refused(make: Callable[[Tensor], Tensor]) -> None:
    total = tape().watch(make(values()), lambda gradient: None).sum()
    torch.autograd.backward(total, retain_graph=True)
    with pytest.raises(PrivacyError, match="second backward"):
        torch.autograd.backward(total)


@pytest.mark.parametrize("make", [own, viewed, leaf])
def test_what_a_rule_kept_is_free_while_the_loss_lives(make: Callable[[Tensor], Tensor]) -> None:
    kept = torch.ones(3)
    alive = weakref.ref(kept)

    def rule(gradient: Tensor, kept: Tensor = kept) -> None:
        kept.add(1.0)

    total = tape().watch(make(values()), rule).sum()
    del kept, rule
    assert alive() is not None
    torch.autograd.backward(total)
    assert alive() is None
