from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from peml.errors import TrainingError
from peml.methods.attached import AttachedModel
from peml.methods.base import AttachContext
from peml.methods.registry import build_method, parse_method
from peml.models.compiling import CompiledBlocks, check_compiler
from peml.models.loading import enable_checkpointing
from peml.testing.tasks import (
    TINY_ROWS,
    TINY_TASKS,
    batch_of,
    tasks_with_contexts,
    tiny_task_model,
)

Rows = Sequence[tuple[int, dict[str, Any]]]
# Other numbers of rows, other lengths, other tasks.
_BATCHES: tuple[Rows, ...] = (TINY_ROWS, TINY_ROWS[:2], TINY_ROWS[2:])


def _attached(method: str, layers: int = 1) -> AttachedModel:
    built = build_method(parse_method({"name": method}))
    tasks = TINY_TASKS if built.context is None else tasks_with_contexts()
    model = tiny_task_model("llama", tasks, num_hidden_layers=layers)
    enable_checkpointing(model.backbone)
    context = AttachContext(
        seed=0, calibrate=lambda: [model(batch_of(model)), None][1], total_steps=9
    )
    return built.attach(model, context).train()


def _train(model: AttachedModel, around: Callable[[], Any] = nullcontext) -> list[float]:
    """Losses of a step on each batch."""
    torch.manual_seed(0)
    if model.search is not None:
        model.search.begin(9)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for step, rows in enumerate(_BATCHES):
        if model.search is not None:
            model.search.before_step(step)
        with around():
            loss = model(batch_of(model.base, rows)).loss
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize(("method", "layers"), [("peml", 2), ("lora+context", 1), ("mtl-lora", 1)])
def test_compiled_blocks_train_as_uncompiled_ones_with_the_same_graphs_for_all_lengths(
    method: str, layers: int
) -> None:
    expected = _train(_attached(method, layers))
    model = _attached(method, layers)
    names = list(model.state_dict())
    blocks = CompiledBlocks(model.base.backbone, backend="eager")
    graphs = []

    def around() -> Any:
        graphs.append(blocks.graphs)
        return blocks.in_use()

    assert _train(model, around) == pytest.approx(expected, abs=1e-5)
    assert graphs[0] == 0
    assert graphs[1] == graphs[2] == blocks.graphs > 0
    assert list(model.state_dict()) == names
    with torch.no_grad():
        model.eval()(batch_of(model.base))
    assert blocks.graphs == graphs[1], "compiled outside of a training step"


def test_what_cannot_be_compiled_is_refused_with_the_reason() -> None:
    with pytest.raises(TrainingError, match="Linear has no blocks to compile"):
        CompiledBlocks(nn.Linear(2, 2))
    model = _attached("lora")

    def broken(graph: Any, inputs: Any) -> Any:
        raise ValueError("no such instruction")

    blocks: Any = CompiledBlocks(model.base.backbone, backend=broken)
    with pytest.raises(TrainingError, match=r"can't be compiled: .*no such instruction"):
        _train(model, blocks.in_use)
    assert _train(model)  # the model is as it was


def test_a_missing_compiler_is_noticed_before_training(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import torch._inductor.config as inductor

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch._dynamo.reset()
    with (
        inductor.patch({"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True}),
        pytest.raises(TrainingError, match="doesn't work on this machine") as refused,
    ):
        check_compiler()
    assert "leave out training.compile" in refused.value.action


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_with_a_compiler_nothing_is_refused() -> None:
    check_compiler()
