"""Run as a script, without PEML: answers questions to an exported folder as another tool would.

::

    python -P plain.py READER FOLDER [--trust-remote-code]

Each line on standard input is a JSON object: ``ask``, a reader's method, ``place``, the part of the
folder it is about, and ``file``, a safetensors file of the method's tensors. The answer is written
beside it (``FILE.answer``), and a line on standard output says that it is there.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, GenerationConfig


class Decoder:
    """A merged decoder; a place is the path of a context or cache, without its suffix.

    Args:
        folder: The exported folder.
        trust_remote_code: Run Python code that comes with the model.
    """

    def __init__(self, folder: Path, *, trust_remote_code: bool) -> None:
        self.folder = folder
        self._trust = {"trust_remote_code": trust_remote_code}
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder, **self._trust)
        self.model.float().eval()

    def logits(self, place: str, rows: Tensor) -> Tensor:
        """Logits of rows, (rows, length, vocabulary); one by one, since contexts can be long."""
        found = []
        for row in rows:
            front, cache = self._front(place)
            read = row if cache is not None else torch.cat([front, row])
            said = self.model(
                input_ids=read[None], past_key_values=cache, use_cache=cache is not None
            )
            found.append(said.logits[0, -len(row) :])
        return torch.stack(found)

    def generate(self, place: str, rows: Tensor, new: Tensor) -> Tensor:
        """The ``new`` tokens after each row by greedy generation, (rows, new)."""
        settings = GenerationConfig(do_sample=False, max_new_tokens=int(new), pad_token_id=0)
        found = []
        for row in rows:
            front, cache = self._front(place)
            whole = torch.cat([front, row])[None]
            self.model.generation_config = settings
            said = self.model.generate(
                whole, attention_mask=torch.ones_like(whole), past_key_values=cache
            )
            found.append(said[0, whole.shape[1] :])
        return torch.stack(found)

    def text(self, place: str) -> Tensor:
        """The token ids that the tokenizer reads in the text of a context."""
        tokenizer = AutoTokenizer.from_pretrained(self.folder, **self._trust)
        text = self.folder.joinpath(f"{place}.txt").read_text(encoding="utf-8")
        ids: list[int] = tokenizer(text.rstrip())["input_ids"]
        return torch.tensor(ids)

    def _front(self, place: str) -> tuple[Tensor, DynamicCache | None]:
        """Ids in front of a row, and the cache that holds their keys and values, if there is one.

        A prefix has no tokens: any will do, since the model doesn't read what the cache holds.
        """
        held, said = (self.folder / f"{place}.{suffix}" for suffix in ("safetensors", "json"))
        ids, cache = torch.zeros(0, dtype=torch.long), None
        if place and held.is_file():
            tensors = load_file(held)
            pairs = zip(tensors["keys"], tensors["values"], strict=True)
            cache = DynamicCache([(key[None].float(), value[None].float()) for key, value in pairs])
            ids = torch.zeros(tensors["keys"].shape[2], dtype=torch.long)
        if place and said.is_file():
            ids = torch.tensor(json.loads(said.read_text(encoding="utf-8"))["token_ids"])
        return ids, cache


READERS = {"decoder": Decoder}


@torch.inference_mode()
def main(name: str, folder: Path, *options: str) -> None:
    """Answers until standard input ends."""
    reader: Any = READERS[name](folder, trust_remote_code="--trust-remote-code" in options)
    assert "peml" not in sys.modules, "this process has to do without PEML"
    for line in sys.stdin:
        question = json.loads(line)
        answer = getattr(reader, question["ask"])(question["place"], **load_file(question["file"]))
        save_file({"answer": answer.contiguous()}, question["file"] + ".answer")
        sys.stdout.write("answered\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
