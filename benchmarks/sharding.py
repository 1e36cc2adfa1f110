"""Memory of a frozen model whose weights two processes share, against one process with all of it.

Each process loads the model and makes a forward and a backward pass. Bytes of weights are counted;
what is resident is the process's own memory (RssAnon), without pages of the files.

    python benchmarks/sharding.py [--model MODEL] [--tokens N] [--json FILE]
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from common import Figure, at_most, plain_parser, report

from peml.distributed import join, leave
from peml.models import ModelSettings, load_backbone
from peml.testing.models import save_tiny_model

MOST = 0.6
_TWO = ("-m", "torch.distributed.run", "--nproc-per-node", "2")


def _resident() -> int:
    """Bytes of the process's own memory."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


@contextmanager
def _peak(found: dict[str, float], name: str) -> Iterator[None]:
    """Notes the most that is resident meanwhile, every millisecond."""
    done, most = threading.Event(), [0]

    def watch() -> None:
        while not done.wait(0.001):
            most[0] = max(most[0], _resident())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        found[name] = max(most[0], _resident())


def work(model: str, tokens: int, sharding: Any, folder: Path) -> None:
    """One process: loads the model, makes a pass, writes what it found."""
    world = join()
    settings = ModelSettings(name=model, sharding=sharding, gradient_checkpointing=True)
    load_backbone(ModelSettings(name=str(folder / "tiny")))  # what libraries take isn't the model's
    gc.collect()
    before = _resident()
    found: dict[str, float] = {}
    with _peak(found, "loading"):
        backbone: Any = load_backbone(settings, world=world).model
    gc.collect()
    found["loaded"] = _resident()
    parts = [p.to_local() if sharding == "fsdp" else p for p in backbone.parameters()]
    found["weights"] = sum(p.numel() * p.element_size() for p in parts)
    del parts
    ids = torch.arange(tokens)[None] % backbone.config.vocab_size
    vector = torch.zeros(backbone.config.hidden_size, requires_grad=True)  # what is trained
    backbone.get_input_embeddings().register_forward_hook(lambda *called: called[2] + vector)
    with _peak(found, "pass"):
        backbone(input_ids=ids, use_cache=False)[0].mean().backward()
    for name in ("loading", "loaded", "pass"):
        found[name] -= before
    (folder / f"{sharding}-{world.rank}.json").write_text(json.dumps(found), encoding="utf-8")
    leave()


def run(model: str, tokens: int, sharding: str, folder: Path) -> dict[str, float]:
    """What the process with the most found."""
    launcher = _TWO if sharding == "fsdp" else ()
    words = [__file__, "--model", model, "--tokens", str(tokens), "--work", sharding, str(folder)]
    subprocess.run([sys.executable, *launcher, *words], capture_output=True, check=True)
    files = folder.glob(f"{sharding}-*.json")
    ranks = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    return {name: max(rank[name] for rank in ranks) for name in ranks[0]}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the benchmark."""
    parser = plain_parser(__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--work", nargs=2, help="be one of the processes")
    options = parser.parse_args(arguments)
    if options.work:
        work(options.model, options.tokens, options.work[0], Path(options.work[1]))
        return
    with tempfile.TemporaryDirectory() as folder:
        save_tiny_model("llama", Path(folder) / "tiny")
        whole = run(options.model, options.tokens, "none", Path(folder))
        part = run(options.model, options.tokens, "fsdp", Path(folder))
    size = whole["weights"]
    figures = [
        Figure("weights of the whole model", size / 2**20, "MiB"),
        at_most("weights held by a process / whole", part["weights"] / size, "", MOST),
        at_most("resident after loading / whole", part["loaded"] / whole["loaded"], "", MOST),
        Figure("most resident while loading / weights", part["loading"] / size, ""),
        Figure("the same, one process", whole["loading"] / size, ""),
        Figure("most resident in a pass / weights", part["pass"] / size, ""),
        Figure("the same, one process", whole["pass"] / size, ""),
    ]
    report(f"shared weights, {options.model}", figures, options)


if __name__ == "__main__":
    main()
