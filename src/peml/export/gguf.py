"""A trained Llama as one GGUF file, for llama.cpp and the programs built on it.

::

    OUT/
      model.gguf          merged weights in the type they were saved in, and the tokenizer
      README.md           how to run it
      manifest.json       checksum of every file

The names of metadata and tensors are those of llama.cpp's own converter. llama.cpp pairs the
neighbouring channels of queries and keys when it rotates them, Transformers those half a head
apart, so their rows are reordered.
"""

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from peml.errors import RunError
from peml.export.decoder import DecoderExport
from peml.export.source import USE_NATIVE
from peml.files import read_json
from peml.models import TaskModel

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BYTES = ("ByteLevel", False, True)
# llama.cpp's names for the ways of splitting a text into words that it implements.
_SPLITS: dict[tuple[Any, ...], str] = {
    (_BYTES,): "gpt-2",
    (("Digits", True), _BYTES): "smollm",
    (("Split", _LLAMA3, "Isolated"), ("ByteLevel", False, False)): "llama-bpe",
}
_UNKNOWN = ("byte_fallback", "dropout", "continuing_subword_prefix", "end_of_word_suffix")
_NEEDED = {"model_type": "llama", "hidden_act": "silu", "attention_bias": False, "mlp_bias": False}
_ENDS = ("eos", "eot", "eom")  # the tokens at which llama.cpp ends a text
_TYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


class GgufExport(DecoderExport):
    """The merged weights and the tokenizer of a Llama with a byte-level BPE in one GGUF file."""

    name: ClassVar[str] = "gguf"
    reader: ClassVar[str | None] = "gguf"

    def check(self) -> None:
        """Refuses what llama.cpp would compute otherwise, and a missing package."""
        super().check()
        folder, files = self.saved.folder / "backbone", self.saved.files
        config, action = read_json(folder / "config.json"), USE_NATIVE
        rope = (config.get("rope_parameters") or {}).get("rope_type", "default")
        used = {key: config.get(key, value) for key, value in _NEEDED.items()} | {"rope_type": rope}
        needed = _NEEDED | {"rope_type": "default"}
        other = [f"{key} {value!r}" for key, value in used.items() if value != needed[key]]
        beside = [part for part in ("prefix", "prompt") if f"{part}.safetensors" in files]
        problem = ""
        if beside:
            problem = f"the model has a {beside[0]}, and a GGUF file holds weights only"
            action = "use --format transformers"
        elif other:
            problem = f"the format 'gguf' can't express the model's {', '.join(other)}"
        elif "backbone/tokenizer.json" not in files:
            problem = "the model's tokenizer has no tokenizer.json"
        elif _split(read_json(folder / "tokenizer.json")) is None:
            problem = "llama.cpp would read texts as other tokens than the model's tokenizer"
        elif find_spec("gguf") is None:
            problem, action = "the package gguf is not installed", "pip install 'peml[gguf]'"
        if problem:
            allowed = "merged Llama models with default rotary positions and a byte-level BPE"
            raise RunError(problem, allowed=allowed, action=action)

    def write_model(self, folder: Path, model: TaskModel) -> None:
        """Writes the GGUF file."""
        from gguf import MODEL_ARCH, GGMLQuantizationType, GGUFWriter, get_tensor_name_map

        config: Any = model.backbone.config
        writer = GGUFWriter(folder / "model.gguf", "llama")
        writer.add_name(Path(self.saved.description.base_model).name)
        writer.add_file_type({"float32": 0, "float16": 1, "bfloat16": 32}[model.settings.dtype])
        writer.add_vocab_size(config.vocab_size)
        writer.add_context_length(config.max_position_embeddings)
        writer.add_embedding_length(config.hidden_size)
        writer.add_block_count(config.num_hidden_layers)
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count(config.num_attention_heads)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
        writer.add_rope_dimension_count(config.head_dim)
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
        self._add_tokenizer(writer, model)
        names = get_tensor_name_map(MODEL_ARCH.LLAMA, config.num_hidden_layers)
        for name, weight in _tensors(model.backbone):
            stored = names.get_name(name, try_suffixes=(".weight",))
            if stored is None:
                problem, allowed = f"a GGUF file can't hold the weight {name}", "a Llama's weights"
                raise RunError(problem, allowed=allowed, action=USE_NATIVE)
            kind = GGMLQuantizationType[_TYPES[weight.dtype]]
            content = weight.contiguous().cpu().view(torch.uint8).numpy()
            writer.add_tensor(stored, content, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    def _add_tokenizer(self, writer: Any, model: TaskModel) -> None:
        from gguf import TokenType

        tokenizer = model.family.tokenizer
        written = read_json(self.saved.folder / "backbone" / "tokenizer.json")
        added = {each["id"]: each["special"] for each in written["added_tokens"]}
        texts = {number: text for text, number in tokenizer.get_vocab().items()}
        size = model.backbone.get_input_embeddings().num_embeddings
        types = [TokenType.NORMAL if n in texts else TokenType.UNUSED for n in range(size)]
        for number, special in added.items():
            types[number] = TokenType.CONTROL if special else TokenType.USER_DEFINED
        pairs = written["model"]["merges"]
        merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in pairs]
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(_split(written))
        writer.add_token_list([texts.get(number, f"[PAD{number}]") for number in range(size)])
        writer.add_token_types(types)
        writer.add_token_merges(merges)
        writer.add_add_bos_token(_begins(tokenizer))
        writer.add_add_eos_token(False)  # no prompt ended with it in the run
        stops = model.backbone.generation_config.eos_token_id
        stops = stops if isinstance(stops, list) else [stops]
        if len(stops) > len(_ENDS):
            problem = f"{len(stops)} tokens end a text: {', '.join(map(str, stops))}"
            allowed = f"at most {len(_ENDS)}, since a GGUF file can't name more"
            raise RunError(problem, allowed=allowed, action=USE_NATIVE)
        names = ("bos", "eos", "pad", "unk")
        special = {name: getattr(tokenizer, f"{name}_token_id") for name in names}
        for name, number in {**special, **dict(zip(_ENDS, stops, strict=False))}.items():
            if number is not None:
                getattr(writer, f"add_{name}_token_id")(number)
        if isinstance(tokenizer.chat_template, str):
            writer.add_chat_template(tokenizer.chat_template)


def _split(tokenizer: dict[str, Any]) -> str | None:
    """llama.cpp's name for how a tokenizer splits texts; None if it splits them in another way."""
    model, first = tokenizer["model"], tokenizer.get("pre_tokenizer") or {}
    found = tuple(_describe(part) for part in first.get("pretokenizers", [first]))
    name = _SPLITS.get(found)
    alike = model["type"] == "BPE" and not any(model.get(option) for option in _UNKNOWN)
    alike &= bool(model.get("ignore_merges")) == (name == "llama-bpe")
    alike &= not tokenizer.get("normalizer")
    strips = [each["lstrip"] or each["rstrip"] or each["single_word"]
              for each in tokenizer["added_tokens"]]  # fmt: skip
    return name if alike and not any(strips) else None


def _begins(tokenizer: Any) -> bool:
    """Whether texts get the tokenizer's first token; refuses additions but first and last."""
    begin, end = [tokenizer.bos_token_id], [tokenizer.eos_token_id]
    plain, whole = (tokenizer("a", add_special_tokens=each).input_ids for each in (False, True))
    for begins, ends in product((False, True), repeat=2):
        if whole == begin * begins + plain + end * ends:
            return begins
    raise RunError(
        f"the tokenizer adds tokens that a GGUF file can't name: {whole} for {plain}",
        allowed="tokenizers that add bos and eos only",
        action=USE_NATIVE,
    )


def _describe(part: Mapping[str, Any]) -> tuple[Any, ...]:
    """What matters of a step that splits texts."""
    kind = part.get("type")
    options = {
        "ByteLevel": (part.get("add_prefix_space"), part.get("use_regex", True)),
        "Digits": (part.get("individual_digits"),),
        "Split": ((part.get("pattern") or {}).get("Regex"), part.get("behavior")),
    }
    return (kind, *options.get(str(kind), ()))


def _tensors(backbone: Any) -> Iterator[tuple[str, Tensor]]:
    """The weights by their names in Transformers; rows of queries and keys in llama.cpp's order.

    Vectors are float32, as llama.cpp needs.
    """
    config = backbone.config
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, parameter in backbone.named_parameters():
        weight, count = parameter.detach(), heads.get(name.split(".")[-2])
        if count is not None:
            halves = weight.reshape(count, 2, -1, weight.shape[1])
            weight = halves.transpose(1, 2).reshape(weight.shape)
        yield name, weight.float() if weight.ndim == 1 else weight
