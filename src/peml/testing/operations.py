"""The conformance suite of prefix operations."""

from typing import ClassVar

import torch
from torch import Tensor

from peml.prefix.operations.operation import Operation
from peml.prefix.operations.registry import make_operation


class OperationSuite:
    """Checks an operation of a cell. Subclass it in a test file::

        class TestMine(OperationSuite):
            name = "mine"

    `learnt` is False for an operation without parameters.
    """

    name: ClassVar[str]
    width: ClassVar[int] = 12
    length: ClassVar[int] = 7
    learnt: ClassVar[bool] = True

    def fresh(self) -> Operation:
        """A new operation, as the supernet makes it."""
        torch.manual_seed(0)
        return make_operation(self.name, self.width, self.length)

    def trained(self) -> Operation:
        """The operation with every parameter changed, so that it adds something."""
        operation = self.fresh()
        with torch.no_grad():
            for parameter in operation.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
        return operation

    def inputs(self) -> Tensor:
        """Hidden states, (length, width)."""
        return torch.randn(self.length, self.width, generator=torch.Generator().manual_seed(1))

    def test_keeps_the_shape(self) -> None:
        """The output has the shape of the input, at any length."""
        for length in (1, 2, self.length):
            x = self.inputs()[:length]
            assert self.trained()(x, torch.ones(length)).shape == x.shape

    def test_starts_by_adding_zero(self) -> None:
        """A fresh operation adds nothing."""
        assert torch.equal(
            self.fresh()(self.inputs(), torch.ones(self.length)),
            torch.zeros(self.length, self.width),
        )

    def test_learns_with_all_parameters(self) -> None:
        """After the first step every parameter gets a gradient."""
        operation = self.fresh()
        parameters = dict(operation.named_parameters())
        if not self.learnt:
            assert not parameters, f"{self.name} has parameters: set learnt = True"
            return
        assert parameters, f"{self.name} has no parameters: set learnt = False"
        target = torch.randn(self.length, self.width)
        optimizer = torch.optim.SGD(operation.parameters(), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            loss = (operation(self.inputs(), torch.ones(self.length)) - target).square().mean()
            loss.backward()
            optimizer.step()
        for name, parameter in parameters.items():
            assert parameter.grad is not None, f"no gradient reaches {name}"
            assert parameter.grad.isfinite().all(), f"the gradient of {name} is not finite"
            assert parameter.grad.abs().max() > 0, f"the gradient of {name} is zero"

    def test_absent_positions_have_no_influence(self) -> None:
        """The values at absent positions don't change present ones."""
        operation, x = self.trained(), self.inputs()
        for length in range(1, self.length):
            presence = (torch.arange(self.length) < length).float()
            changed = x.clone()
            changed[length:] += 1000
            before, after = operation(x, presence), operation(changed, presence)
            assert torch.equal(before[:length], after[:length])

    def test_absent_positions_are_as_if_cut_off(self) -> None:
        """Absent positions act as if cut off, also after the length is decided."""
        operation, x = self.trained(), self.inputs()
        for length in range(1, self.length):
            presence = (torch.arange(self.length) < length).float()
            decided = make_operation(self.name, self.width, length)
            decided.inherit(operation)
            for shorter in (operation, decided):
                short = shorter(x[:length], torch.ones(length))
                assert torch.allclose(operation(x, presence)[:length], short, atol=1e-5)

    def test_gradients_are_finite_at_presence_zero(self) -> None:
        """Gradients are finite at presence 0."""
        presence = (torch.arange(self.length) < 3).float().requires_grad_()
        x = self.inputs().requires_grad_()
        output = self.trained()(x, presence)
        if output.requires_grad:
            output.square().sum().backward()
        for tensor in (presence, x):
            assert tensor.grad is None or tensor.grad.isfinite().all()
