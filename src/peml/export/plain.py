"""Run as a script, without PEML: answers questions to an exported folder as another tool would.

::

    python -P plain.py READER '{"folder": "...", "trust_remote_code": false}'

Each line on standard input is a JSON object: ``ask``, a reader's method, ``place``, the part of the
folder it is about, and ``file``, a safetensors file of the method's tensors. The answer is written
beside it (``FILE.answer``), and a line on standard output says that it is there.
"""

import json
import sys
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, GenerationConfig


class Decoder:
    """A merged decoder; a place is the path of a context or cache, without its suffix.

    Rows are read one by one, since contexts can be long.
    """

    file: ClassVar[dict[str, str]] = {}

    def __init__(self, folder: str, *, trust_remote_code: bool) -> None:
        self.folder = Path(folder)
        self.trust = {"trust_remote_code": trust_remote_code}

    def model(self, place: str) -> Any:
        """The model that answers rows of a place."""
        return self._whole

    @cached_property
    def _whole(self) -> Any:
        given = {"dtype": torch.float32, **self.trust, **self.file}
        loaded: Any = AutoModelForCausalLM.from_pretrained(self.folder, **given)
        return loaded.eval()

    def logits(self, place: str, rows: Tensor) -> Tensor:
        """Logits of rows, (rows, length, vocabulary)."""
        return torch.stack([self._read(place, row) for row in rows])

    def score(self, place: str, rows: Tensor, mask: Tensor, labels: Tensor, **_: Tensor) -> Tensor:
        """Log-likelihood of each row's labels (-100: not scored), (rows,)."""
        found = []
        for row, seen, label in zip(rows, mask.bool(), labels, strict=True):
            wanted = label[: len(row)][seen][1:]
            likely = self._read(place, row[seen])[:-1].double().log_softmax(-1)
            scored = (wanted != -100).nonzero()[:, 0]
            found.append(likely[scored, wanted[scored]].sum())
        return torch.stack(found)

    def generate(
        self,
        place: str,
        rows: Tensor,
        new: Tensor,
        mask: Tensor | None = None,
        ends: Tensor | None = None,
    ) -> Tensor:
        """Up to ``new`` tokens after each row by greedy generation, (rows, new), padded with -1."""
        stops = None if ends is None else ends.tolist()
        settings = GenerationConfig(
            do_sample=False, max_new_tokens=int(new), pad_token_id=0, eos_token_id=stops
        )
        found = torch.full((len(rows), int(new)), -1)
        model = self.model(place)
        # Defaults of a call come from there; PEFT's wrapper has its own.
        model.generation_config = getattr(model, "base_model", model).generation_config = settings
        for number, row in enumerate(rows):
            front, held = self._front(place)
            read = row if mask is None else row[mask[number].bool()]
            whole = torch.cat([front, read])[None]
            said = model.generate(input_ids=whole, attention_mask=torch.ones_like(whole), **held)[
                0, self._given(model, whole) :
            ]
            found[number, : len(said)] = said
        return found

    def _given(self, model: Any, whole: Tensor) -> int:
        """The number of tokens of a generated row that aren't new."""
        return whole.shape[1]

    def text(self, place: str) -> Tensor:
        """The token ids that the tokenizer reads in the text of a context."""
        tokenizer = AutoTokenizer.from_pretrained(self.folder, **self.trust)
        text = self.folder.joinpath(f"{place}.txt").read_text(encoding="utf-8")
        ids: list[int] = tokenizer(text.rstrip())["input_ids"]
        return torch.tensor(ids)

    def _read(self, place: str, row: Tensor) -> Tensor:
        """Logits of a row, (length, vocabulary)."""
        front, held = self._front(place)
        read = row if held else torch.cat([front, row])
        mask = torch.ones(1, len(front) + len(row), dtype=torch.long)
        said = self.model(place)(
            input_ids=read[None], attention_mask=mask, use_cache=bool(held), **held
        )
        logits: Tensor = said.logits[0, -len(row) :]
        return logits

    def _front(self, place: str) -> tuple[Tensor, dict[str, Any]]:
        """Ids in front of a row, and the cache with their keys and values, if there is one.

        A prefix has no tokens: any ids will do, since the model doesn't read those in the cache.
        """
        held, said = (self.folder / f"{place}.{suffix}" for suffix in ("safetensors", "json"))
        ids, arguments = torch.zeros(0, dtype=torch.long), {}
        if place and held.is_file():
            tensors = load_file(held)
            pairs = zip(tensors["keys"], tensors["values"], strict=True)
            layers = [(key[None].float(), value[None].float()) for key, value in pairs]
            arguments = {"past_key_values": DynamicCache(layers)}
            ids = torch.zeros(tensors["keys"].shape[2], dtype=torch.long)
        if place and said.is_file():
            ids = torch.tensor(json.loads(said.read_text(encoding="utf-8"))["token_ids"])
        return ids, arguments


class Gguf(Decoder):
    """A decoder in a GGUF file, as Transformers reads it."""

    file: ClassVar[dict[str, str]] = {"gguf_file": "model.gguf"}


class PeftDecoder(Decoder):
    """A merged decoder with PEFT adapters; a place is an adapter's folder, if it exists."""

    _adapted: tuple[str, Any] = ("", None)

    def model(self, place: str) -> Any:
        """The decoder with an adapter."""
        from peft import PeftModel

        adapter = self.folder / place
        if not place or not adapter.is_dir():
            return self._whole
        if self._adapted[0] != place:
            self._adapted = place, PeftModel.from_pretrained(self._whole, adapter).eval()
        return self._adapted[1]

    def _front(self, place: str) -> tuple[Tensor, dict[str, Any]]:
        return torch.zeros(0, dtype=torch.long), {}


class Lora(PeftDecoder):
    """A base model, loaded by a class, with one LoRA or one per task; a place is a task's name.

    ``first`` says whether an encoder's heads read the first token, instead of the mean of all.
    """

    def __init__(
        self, folder: str, base: str, loader: str, first: bool, *, trust_remote_code: bool
    ) -> None:
        super().__init__(folder, trust_remote_code=trust_remote_code)
        self._base, self._first = base, first
        self._loader: Any = getattr(transformers, loader)
        self._loaded: tuple[Path, Any] = (Path(), None)

    def model(self, place: str) -> Any:
        """The base model with the task's adapter."""
        from peft import PeftModel

        folder = self._adapter(place)
        if self._loaded[0] != folder:
            base = self._loader.from_pretrained(self._base, **self.trust).float()
            self._loaded = folder, PeftModel.from_pretrained(base, folder).eval()
        return self._loaded[1]

    def _given(self, model: Any, whole: Tensor) -> int:
        """1 for an encoder-decoder, whose texts begin with a start token only."""
        return 1 if model.config.is_encoder_decoder else whole.shape[1]

    def _adapter(self, place: str) -> Path:
        own = self.folder / place
        return own if own.is_dir() else self.folder

    def score(
        self,
        place: str,
        rows: Tensor,
        mask: Tensor,
        labels: Tensor | None = None,
        segments: Tensor | None = None,
        **_: Tensor,
    ) -> Tensor:
        """As `Decoder.score`; with heads, the columns of the task's, (rows, columns)."""
        model = self.model(place)
        if labels is not None and not model.config.is_encoder_decoder:
            return super().score(place, rows, mask, labels)
        if labels is not None:
            said = model(input_ids=rows, attention_mask=mask, labels=labels).logits
            chosen = said.double().log_softmax(-1).gather(2, labels.clamp(min=0)[:, :, None])
            likelihoods: Tensor = chosen[:, :, 0].where(labels >= 0, 0.0).sum(1)
            return likelihoods
        arguments = {} if segments is None else {"token_type_ids": segments}
        read = model(input_ids=rows, attention_mask=mask, **arguments)
        hidden, weights = read.last_hidden_state, mask.float()[:, :, None]
        pooled = hidden[:, 0] if self._first else (hidden * weights).sum(1) / weights.sum(1)
        heads = load_file(self._adapter(place) / "heads.safetensors")
        weight, bias = (heads[f"{place}.{name}"].float() for name in ("weight", "bias"))
        return nn.functional.linear(pooled, weight, bias)


class Onnx:
    """An encoder as one ONNX file, which holds no code; a place is a task's name."""

    def __init__(self, folder: str, *, trust_remote_code: bool) -> None:
        from onnxruntime import InferenceSession

        self._session: Any = InferenceSession(Path(folder, "model.onnx"))
        self._tasks = json.loads(Path(folder, "tasks.json").read_text(encoding="utf-8"))["tasks"]

    def logits(self, place: str, **inputs: Tensor) -> Tensor:
        """Logits of all tasks' columns, (rows, columns)."""
        given = {name: value.numpy() for name, value in inputs.items()}
        return torch.from_numpy(self._session.run(["logits"], given)[0])

    def score(
        self, place: str, rows: Tensor, mask: Tensor, segments: Tensor | None = None, **_: Tensor
    ) -> Tensor:
        """The columns of the task's, (rows, columns)."""
        more = {} if segments is None else {"token_type_ids": segments}
        logits = self.logits(place, input_ids=rows, attention_mask=mask, **more)
        first, after = self._tasks[place]["columns"]
        return logits[:, first:after]


READERS = {"decoder": Decoder, "gguf": Gguf, "lora": Lora, "onnx": Onnx, "peft": PeftDecoder}


@torch.inference_mode()
def main(name: str, settings: str) -> None:
    """Answers questions until standard input ends."""
    reader: Any = READERS[name](**json.loads(settings))
    for line in sys.stdin:
        question = json.loads(line)
        answer = getattr(reader, question["ask"])(question["place"], **load_file(question["file"]))
        assert "peml" not in sys.modules, "this process has to do without PEML"
        save_file({"answer": answer.contiguous()}, question["file"] + ".answer")
        sys.stdout.write("answered\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
