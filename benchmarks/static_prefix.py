"""A merged decoder with its static prefix against the bare model: reading a prompt, and writing.

Both sides are the same weights in the same process: a model as a run leaves it (LoRA merged, the
prefix's keys and values computed), and the base model as Transformers loads it. One prompt is read
(`prefill`), then tokens are written one by one from the cache (`decode`). Rounds alternate.

    python benchmarks/static_prefix.py [--model smollm2] [--prompt 256] [--tokens 32] [--json FILE]
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from common import CLOCKS, Figure, at_most, plain_parser, ratio_of_medians, report

from peml.export import save_model
from peml.methods.base import AttachContext
from peml.methods.registry import build_method, parse_method
from peml.models import ModelSettings, TaskModel, load_backbone
from peml.serving import load
from peml.tasks import load_suite

_TASK = "topics"
_ROOM = 512


def merged(name: str) -> Any:
    """The backbone of an untrained model with LoRA and a prefix of 16, saved and loaded."""
    task = next(task for task in load_suite("demo").tasks if task.name == _TASK)
    settings = parse_method({"name": "lora+prefix"})
    model = TaskModel(load_backbone(ModelSettings(name=name, max_length=_ROOM)), (task,))
    ids = torch.randint(5, 200, (8, 32), generator=torch.Generator().manual_seed(0))
    context = AttachContext(0, lambda: model.backbone(input_ids=ids), total_steps=9)
    with tempfile.TemporaryDirectory() as folder:
        save_model(build_method(settings).attach(model, context), Path(folder) / "m", settings)
        return load(Path(folder) / "m", "cpu").eval().base.backbone


@torch.inference_mode()
def read(model: Any, ids: torch.Tensor) -> Any:
    """The cache after a prompt."""
    return model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values


@torch.inference_mode()
def write(model: Any, cache: Any, tokens: int) -> None:
    """Writes tokens one by one; which ones doesn't matter."""
    token = torch.tensor([[7]])
    for _ in range(tokens):
        token = model(input_ids=token, past_key_values=cache, use_cache=True).logits.argmax(-1)


def main(argv: Sequence[str] | None = None) -> None:
    """Measures both."""
    parser = plain_parser(__doc__)
    parser.add_argument("--model", default="smollm2", help="a decoder; default: smollm2")
    parser.add_argument("--prompt", type=int, default=256, help="tokens of the prompt")
    parser.add_argument("--tokens", type=int, default=32, help="tokens that are written")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall")
    arguments = parser.parse_args(argv)
    settings = ModelSettings(name=arguments.model, max_length=_ROOM)
    sides = {"merged": merged(arguments.model), "bare": load_backbone(settings).model.eval()}
    ids = torch.randint(5, 200, (1, arguments.prompt), generator=torch.Generator().manual_seed(1))
    clock = CLOCKS[arguments.clock]
    seconds: dict[str, dict[str, list[float]]] = {part: {} for part in ("prefill", "decode")}
    for number in range(arguments.rounds + 1):
        for side, model in sides.items():
            began = clock()
            cache = read(model, ids)
            middle = clock()
            write(model, cache, arguments.tokens)
            if number:  # the first one warms up
                seconds["prefill"].setdefault(side, []).append(middle - began)
                seconds["decode"].setdefault(side, []).append(clock() - middle)
    figures: list[Figure] = []
    for part, taken in seconds.items():
        ratio = ratio_of_medians(taken["merged"], taken["bare"])
        figures.append(
            at_most(f"{part}: merged with prefix / bare, {ratio}", ratio.value, "", 1.05)
        )
        bare = sorted(taken["bare"])[arguments.rounds // 2]
        figures.append(Figure(f"{part}: bare model ({arguments.clock})", bare * 1000, "ms"))
    report("A static prefix", figures, arguments)


if __name__ == "__main__":
    main()
