"""Run as a script, without PEML: a text export's logits against those of the run's model.

::

    python -P plain.py FOLDER WANTED.safetensors [--trust-remote-code]

Prints one JSON object: the largest difference, the largest logit, and the first task whose text the
tokenizer reads as other tokens.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer


@torch.no_grad()
def compare(
    folder: Path, wanted: Path, *, trust_remote_code: bool
) -> dict[str, float | str | None]:
    """Compares an export with the logits in a file.

    Args:
        folder: The exported folder.
        wanted: Tensors: ``rows``, token ids (rows, length); and by the place of a task's text, the
            logits of the run's model for these rows (rows, length, vocabulary).
        trust_remote_code: Run Python code that comes with the model.
    """
    loaded = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=trust_remote_code)
    model = loaded.float().eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    tensors = load_file(wanted)
    rows = tensors.pop("rows")
    difference = torch.zeros(())
    misread: str | None = None
    for place, logits in tensors.items():
        ids = json.loads((folder / f"{place}.json").read_text(encoding="utf-8"))["token_ids"]
        text = (folder / f"{place}.txt").read_text(encoding="utf-8")
        if tokenizer(text.rstrip())["input_ids"][: len(ids)] != ids:
            misread = misread or place
        for row, expected in zip(rows, logits, strict=True):  # one by one: contexts can be long
            whole = torch.cat([torch.tensor(ids), row])[None]
            found = model(input_ids=whole, use_cache=False).logits[0, len(ids) :]
            difference = difference.maximum((found - expected).abs().max())  # keeps a NaN
    largest = max(float(logits.abs().max()) for logits in tensors.values())
    return {"difference": float(difference), "largest": largest, "misread": misread}


if __name__ == "__main__":
    trust = "--trust-remote-code" in sys.argv
    said = compare(Path(sys.argv[1]), Path(sys.argv[2]), trust_remote_code=trust)
    assert "peml" not in sys.modules, "this process has to do without PEML"
    sys.stdout.write(json.dumps(said) + "\n")
