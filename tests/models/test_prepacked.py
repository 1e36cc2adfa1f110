import copy

import pytest
import torch
from torch import nn

from peml.models.prepacked import PrepackedLinear, prepack
from tests.models.tasks import tiny_task_model
from tests.serving.service.live import TASKS

TEXTS = torch.tensor([[3, 9, 4, 7, 5], [8, 2, 2, 6, 1]])


def packed_layers(model: nn.Module) -> list[str]:
    return [name for name, part in model.named_modules() if isinstance(part, PrepackedLinear)]


@pytest.mark.parametrize("base", ["bert", "llama", "t5"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_computes_the_same(base: str, dtype: torch.dtype) -> None:
    model = tiny_task_model(base, TASKS).eval().to(dtype).backbone
    other = copy.deepcopy(model)
    asked = {"input_ids": TEXTS}
    if base == "t5":
        asked["decoder_input_ids"] = TEXTS
    # oneDNN has no products in bf16 for older processors, whose layers stay as they are.
    can = dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert (prepack(other) > 0) == can
    with torch.no_grad():
        wanted, found = (each(**asked)[0] for each in (model, other))
    torch.testing.assert_close(found, wanted, rtol=0, atol=8 * float(torch.finfo(dtype).eps))
    assert bool(packed_layers(other)) == can
    assert not packed_layers(model)


@pytest.mark.parametrize("shape", [(0, 8), (8,), (1, 8), (2, 3, 8), (2, 2, 3, 8)])
def test_inputs_of_any_shape(shape: tuple[int, ...]) -> None:
    layer = nn.Linear(8, 5).requires_grad_(False)
    inputs = torch.randn(*shape[:-1], 9)[..., :8]  # not contiguous
    torch.testing.assert_close(PrepackedLinear(layer)(inputs), layer(inputs))


def test_what_others_read_is_left_alone() -> None:
    model = tiny_task_model("llama", TASKS).eval().backbone
    layers = model.model.layers
    layers[0].mlp.up_proj.weight = layers[1].mlp.up_proj.weight  # tied
    with torch.no_grad():
        layers[0].mlp.down_proj.weight.fill_(torch.nan)  # can't be compared
    layers[0].self_attn.k_proj = nn.Sequential(layers[0].self_attn.k_proj)  # an adapter's
    layers[0].self_attn.v_proj.register_forward_hook(lambda *_: None)
    layers[0].self_attn.q_proj.half()
    prepack(model)
    assert packed_layers(model.model.layers[0]) == ["self_attn.o_proj", "mlp.gate_proj"]
    assert "up_proj" not in "".join(packed_layers(model))
    assert type(model.get_output_embeddings()) is nn.Linear
