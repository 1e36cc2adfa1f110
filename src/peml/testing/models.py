"""Tiny random models and a tiny tokenizer, built in code: no hub, no download.

Each model has two layers and takes a few milliseconds a step. Weights are random, so nothing here
says anything about quality. The shapes are chosen to find mistakes: fewer key/value heads than
query heads, a head size other than hidden size / heads, a window shorter than the tests' texts.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

VOCABULARY = 384
"""Size of the tiny tokenizer's vocabulary and of every tiny model's embedding."""

PAD, BOS, EOS, UNKNOWN, MASK = range(5)
_SPECIALS = ["<pad>", "<s>", "</s>", "<unk>", "<mask>"]

_CORPUS = [
    "the quick brown fox jumps over the lazy dog and the dog does not mind",
    "is this sentence acceptable ? answer yes or no . the answer is yes",
    "sentence one : the film was good . sentence two : the film was bad .",
    "premise : a man is walking . hypothesis : a person is moving . entailment neutral",
    "question : where is the red ball ? the red ball is in the green box . true false",
    "positive negative equivalent different similar 0 1 2 3 4 5 6 7 8 9 score",
]

Kind = Literal["encoder", "causal", "seq2seq"]


@dataclass(frozen=True, slots=True)
class _Family:
    """How one tiny model is built: the stem of Transformers' class, its kind, its config values."""

    stem: str
    kind: Kind
    config: dict[str, Any]
    head: str = ""


_COMMON = {"vocab_size": VOCABULARY, "pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
_ENCODER = {
    **_COMMON,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 160,
    "type_vocab_size": 2,
    # Larger than Transformers' 0.02, so that attention is far from uniform in two layers.
    "initializer_range": 0.2,
}
_DECODER = {
    **_COMMON,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
}
# The experts of a layer are one parameter; a shared expert and dense layers are linear layers.
_MIXTURE = {**_DECODER, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_DEEPSEEK = {
    **_DECODER,
    "num_key_value_heads": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "n_shared_experts": 1,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
}
_T5 = {
    **_COMMON,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "decoder_start_token_id": PAD,
    "dropout_rate": 0.0,
    "initializer_factor": 0.5,
    # T5's own checkpoints tie them; here it keeps a saved folder small as well.
    "tie_word_embeddings": True,
}
_BART = {
    **_COMMON,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 160,
    "decoder_start_token_id": EOS,
    "forced_eos_token_id": None,
    "init_std": 0.2,
}

TINY_FAMILIES: dict[str, _Family] = {
    "bart": _Family("Bart", "seq2seq", _BART),
    "bert": _Family("Bert", "encoder", _ENCODER),
    "bloom": _Family("Bloom", "causal", {**_COMMON, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "deberta-v2": _Family("DebertaV2", "encoder", _ENCODER),
    "deepseek-v3": _Family("DeepseekV3", "causal", _DEEPSEEK),
    "distilbert": _Family(
        "DistilBert",
        "encoder",
        {**_COMMON, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}
        | {"max_position_embeddings": 160, "initializer_range": 0.2},
    ),
    "electra": _Family("Electra", "encoder", {**_ENCODER, "embedding_size": 16}),
    "falcon": _Family(
        "Falcon",
        "causal",
        {**_COMMON, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
    ),
    "gemma": _Family("Gemma", "causal", {**_DECODER, "head_dim": 16}),
    "gemma2": _Family("Gemma2", "causal", {**_DECODER, "head_dim": 8, "sliding_window": 8}),
    "gpt2": _Family(
        "GPT2",
        "causal",
        {**_COMMON, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
        | {"initializer_range": 0.2},
        head="LMHeadModel",
    ),
    "gpt-neox": _Family(
        "GPTNeoX",
        "causal",
        {name: value for name, value in _DECODER.items() if name != "num_key_value_heads"},
    ),
    "llama": _Family("Llama", "causal", _DECODER),
    "mamba": _Family(
        "Mamba", "causal", {**_COMMON, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}
    ),
    "mistral": _Family("Mistral", "causal", {**_DECODER, "sliding_window": 6}),
    "mixtral": _Family(
        "Mixtral", "causal", {**_DECODER, "num_local_experts": 4, "num_experts_per_tok": 2}
    ),
    "olmoe": _Family("Olmoe", "causal", _MIXTURE),
    "opt": _Family(
        "OPT",
        "causal",
        {**_COMMON, "hidden_size": 32, "word_embed_proj_dim": 32, "num_hidden_layers": 2}
        | {"num_attention_heads": 4, "ffn_dim": 48, "max_position_embeddings": 256}
        | {"init_std": 0.2},
    ),
    "phi": _Family("Phi", "causal", _DECODER),
    "phi3": _Family("Phi3", "causal", {**_DECODER, "partial_rotary_factor": 0.5}),
    "qwen2": _Family("Qwen2", "causal", _DECODER),
    "qwen2-moe": _Family("Qwen2Moe", "causal", {**_MIXTURE, "shared_expert_intermediate_size": 24}),
    "qwen3": _Family("Qwen3", "causal", {**_DECODER, "head_dim": 16}),
    "qwen3-moe": _Family("Qwen3Moe", "causal", {**_MIXTURE, "head_dim": 8}),
    "roberta": _Family("Roberta", "encoder", _ENCODER),
    "smollm3": _Family("SmolLM3", "causal", {**_DECODER, "no_rope_layers": [1, 0]}),
    "t5": _Family("T5", "seq2seq", _T5),
}
"""Names ``tiny_model`` and ``save_tiny_model`` take. Some are here to be refused by injection."""

_HEADS = {"encoder": "Model", "causal": "ForCausalLM", "seq2seq": "ForConditionalGeneration"}


def tiny_model(
    family: str,
    *,
    head: str | None = None,
    attention: str | None = None,
    seed: int = 0,
    **config: Any,
) -> PreTrainedModel:
    """A two-layer random model in evaluation mode, the same for the same seed.

    `family` is a name in ``TINY_FAMILIES``, `head` the end of the model's class name
    (``"ForSequenceClassification"``, ``"Model"``, ...); by default the bare model for encoders, the
    language model for the others. `attention` is by default Transformers' choice; `config` replaces
    default values. The global generator is left as it was.
    """
    made = TINY_FAMILIES[family]
    values: dict[str, Any] = {**made.config, **config}
    if attention is not None:
        values["attn_implementation"] = attention
    tiny: PretrainedConfig = getattr(transformers, f"{made.stem}Config")(**values)
    model_class = getattr(transformers, f"{made.stem}{head or made.head or _HEADS[made.kind]}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = model_class(tiny)
    return model.eval()


tiny_bert: Callable[..., PreTrainedModel] = partial(tiny_model, "bert")
tiny_llama: Callable[..., PreTrainedModel] = partial(tiny_model, "llama")
tiny_mistral: Callable[..., PreTrainedModel] = partial(tiny_model, "mistral")
tiny_t5: Callable[..., PreTrainedModel] = partial(tiny_model, "t5")


def tiny_tokenizer(kind: Kind) -> PreTrainedTokenizerFast:
    """A byte-level BPE of ``VOCABULARY`` entries, which encodes and decodes any text.

    ``encoder`` frames one or two segments as ``<s> a </s> b </s>`` with segment ids, ``causal``
    starts with ``<s>``, ``seq2seq`` ends with ``</s>``.
    """
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=_SPECIALS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    single, pair = {
        "encoder": ("<s> $A </s>", "<s> $A </s> $B:1 </s>:1"),
        "causal": ("<s> $A", "<s> $A $B"),
        "seq2seq": ("$A </s>", "$A $B </s>"),
    }[kind]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[("<s>", BOS), ("</s>", EOS)]
    )
    inputs = ["input_ids", "attention_mask"]
    frame = {"cls_token": "<s>", "sep_token": "</s>"} if kind == "encoder" else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_max_length=128,
        clean_up_tokenization_spaces=False,
        model_input_names=[*inputs, "token_type_ids"] if kind == "encoder" else inputs,
        **frame,
    )


def save_tiny_model(
    family: str, folder: str | Path, *, head: str | None = None, seed: int = 0, **config: Any
) -> Path:
    """Writes a tiny model and its tokenizer for ``AutoModel`` and ``AutoTokenizer``.

    Returns the folder. Arguments as for ``tiny_model``.
    """
    folder = Path(folder)
    model = tiny_model(family, head=head, seed=seed, **config)
    model.save_pretrained(folder)
    tiny_tokenizer(TINY_FAMILIES[family].kind).save_pretrained(folder)
    return folder
