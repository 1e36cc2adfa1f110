"""MoE-LoRA as a method: gates shared or not, the balance loss in training, merging."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from peml.data import TaskBatch
from peml.methods.attached import AttachedModel
from peml.methods.base import AttachContext
from peml.methods.routed.delta import AdaptedLinear
from peml.methods.routed.moe_lora import MoeLora, TaskMoeDelta, TokenMoeDelta
from peml.methods.routed.settings import MoeLoraSettings
from peml.testing import batch_of, tiny_task_model
from tests.methods.published import LLAMA_ATTENTION, millions


def attach(family: str = "bert", **settings: object) -> AttachedModel:
    context = AttachContext(seed=0, calibrate=lambda: None)
    method = MoeLora(MoeLoraSettings.model_validate({"r": 4, "experts": 2, **settings}))
    return method.attach(tiny_task_model(family), context)


def test_it_has_as_many_parameters_as_published() -> None:
    """Published counts have one more embedding, for padded tasks, which we have not."""
    settings = MoeLoraSettings(r=8, experts=8, embedding=64, gate="per-layer")
    assert millions(settings) == round(8.53 - 128 * 64 / 1e6, 2)


@pytest.mark.parametrize(("gate", "count"), [("shared", 1), ("per-layer", None)])
def test_a_gate_is_the_models_or_a_layers(gate: str, count: int | None) -> None:
    model = attach(gate=gate)
    deltas = [m for m in model.modules() if isinstance(m, TaskMoeDelta)]
    assert len({id(delta.gate) for delta in deltas}) == (count or len(deltas))
    routing = next(group for group in model.groups() if group.name == "routing")
    assert len(routing.parameters) == 2 * (count or len(deltas))
    assert routing.options == {"weight_decay": 0.0}


def test_a_shared_gate_comes_back_with_the_state() -> None:
    """It stands in many layers, and in the state once."""
    model, other = attach(), attach()
    state = {name: value + 1 for name, value in model.trainable_state().items()}
    assert sum("gate" in name for name in state) == 2
    other.load_trainable_state(state)
    gates = [m.gate for m in other.modules() if isinstance(m, TaskMoeDelta)]
    first = next(value for name, value in state.items() if name.endswith("gate.embedding"))
    assert all(torch.equal(gate.embedding, first) for gate in gates)


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_the_balance_loss_is_added_while_training(family: str) -> None:
    """Its mean over the layers, weighted; one layer's is 1 where the load is even."""
    model = attach(family, routing="token", experts=4, balance=0.5).train()
    batch = batch_of(model.base)
    torch.manual_seed(0)
    loss = model(batch).loss
    own = [m.auxiliary_loss() for m in model.modules() if isinstance(m, TokenMoeDelta)]
    balance = torch.stack([value for value in own if value is not None])
    assert len(balance) == len(own)
    assert (balance > 0.5 * 0.8).all()
    torch.manual_seed(0)
    plain = model.base(batch).loss
    torch.testing.assert_close(loss - plain, balance.mean())
    model.eval()
    torch.testing.assert_close(model(batch).loss, model.base(batch).loss)


def test_padding_does_not_change_the_balance_loss() -> None:
    model = attach(routing="token", experts=4).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    rows = [(0, {"text": "the film was good", "label": 1}), (0, {"text": "bad", "label": 0})]
    lost = []
    for chosen in (rows[1:], rows):
        batch = batch_of(model.base, chosen)
        ids, mask = batch.input_ids[-1:], batch.attention_mask[-1:]
        model.base.routing.set(batch.task_ids[-1:], inputs=mask)
        model.base.backbone(input_ids=ids, attention_mask=mask)
        part = model.parts["adapter"].auxiliary_loss()
        assert part is not None
        lost.append(part)
    torch.testing.assert_close(lost[0], lost[1])


def test_the_rank_stays_a_multiple_of_the_experts() -> None:
    sized = MoeLora(MoeLoraSettings(r=8, experts=8, alpha=16)).resized(LLAMA_ATTENTION, 30_000_000)
    assert isinstance(sized, MoeLoraSettings)
    assert (sized.r, sized.alpha) == (32, 64.0)


@pytest.mark.parametrize(
    ("routing", "how", "needs", "reason"),
    [
        ("task", "per task", True, "its own weights of the experts"),
        ("token", "never", False, "depend on the token"),
    ],
)
def test_merging_follows_from_the_routing(routing: str, how: str, needs: bool, reason: str) -> None:
    method = MoeLora(MoeLoraSettings.model_validate({"routing": routing}))
    assert (method.merging.how, method.needs_task_id) == (how, needs)
    assert reason in method.merging.reason


@pytest.mark.parametrize("base", ["t5", "bart"])
def test_inputs_and_targets_of_one_shape_are_told_apart(base: str) -> None:
    """One row, padded to one length on both sides: no layer's balance changes."""
    attached = attach(base, routing="token", experts=4, r=4).train()
    modules: list[Any] = list(attached.modules())
    for module in modules:
        if isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0
    backbone = attached.base.backbone
    layers: dict[str, Any] = {
        n: m.delta for n, m in backbone.named_modules() if isinstance(m, AdaptedLinear)
    }
    read = {name for name in layers if layers[name].layer.side == "inputs" and "decoder." in name}
    assert all("EncDec" in name or "encoder_attn" in name for name in read)
    assert {name.rpartition(".")[2][0] for name in read} == {"k", "v"}
    assert {d.layer.side for name, d in layers.items() if name.startswith("encoder")} <= {"inputs"}

    def balances(inputs: int, targets: int) -> dict[str, torch.Tensor]:
        """Of four real tokens and three real targets, padded to these lengths."""
        ids = torch.full((1, inputs), attached.base.family.tokenizer.pad_token_id)
        labels = torch.full((1, targets), -100)
        ids[0, :4], labels[0, :3] = torch.tensor([9, 8, 7, 2]), torch.tensor([11, 12, 2])
        one = torch.zeros(1, dtype=torch.long)
        mask = (torch.arange(inputs) < 4).long()[None]
        attached(TaskBatch(ids, mask, torch.ones(1), one, one, one, labels))
        return {name: layer.auxiliary_loss().detach() for name, layer in layers.items()}

    alone, padded = balances(4, 3), balances(6, 6)
    for name, value in alone.items():
        torch.testing.assert_close(padded[name], value)
