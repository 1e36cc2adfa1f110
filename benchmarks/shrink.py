"""A random model of a few thousand weights for any text architecture that Transformers has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from peml.testing.models import BOS, EOS, PAD, VOCABULARY

_WIDTH, _LAYERS, _HEADS, _HEAD, _INNER, _POSITIONS = 32, 2, 4, 8, 48, 256
_VALUES: dict[str, int | float] = {
    "vocab_size": VOCABULARY,
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "decoder_start_token_id": PAD,
    "initializer_range": 0.2,
    "num_key_value_heads": 2,
    "qk_nope_head_dim": _HEAD,
    "qk_rope_head_dim": 4,
    "rotary_dim": 4,
    "state_size": 4,
    "sliding_window": 200,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 24,
    "n_group": 2,
    "topk_group": 1,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "mamba_d_state": 4,
    "mamba_chunk_size": 8,
}
# Names that architectures have for the same size.
_NAMES: Mapping[int | float, str] = {
    _WIDTH: "hidden_size n_embd d_model dim embedding_size word_embed_proj_dim",
    _LAYERS: "num_hidden_layers num_layers n_layer n_layers encoder_layers decoder_layers "
    "num_encoder_layers num_decoder_layers",
    _HEADS: "num_attention_heads num_heads n_head n_heads encoder_attention_heads "
    "decoder_attention_heads num_encoder_attention_heads num_decoder_attention_heads "
    "num_experts num_local_experts n_routed_experts",
    _HEAD: "head_dim d_kv kv_lora_rank q_lora_rank v_head_dim",
    _INNER: "intermediate_size n_inner ffn_dim hidden_dim d_ff encoder_ffn_dim decoder_ffn_dim "
    "ffn_hidden_size",
    _POSITIONS: "max_position_embeddings n_positions max_seq_len",
    0.0: "attn_pdrop resid_pdrop embd_pdrop dropout_rate dropout attention_dropout "
    "activation_dropout hidden_dropout_prob attention_probs_dropout_prob "
    "num_sparse_encoder_layers num_sparse_decoder_layers",
}
_VALUES |= {name: value for value, names in _NAMES.items() for name in names.split()}
# What some architectures can't have at these sizes; tried in turn.
_WITHOUT: Sequence[Sequence[str]] = (
    (),
    ("layer_types",),
    ("num_key_value_heads",),
    ("head_dim",),
    ("q_lora_rank",),
    ("num_key_value_heads", "head_dim"),
    ("kv_lora_rank", "q_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"),
)
_MOST_WEIGHTS = 20_000_000


def shrink(model_type: str, class_name: str) -> PreTrainedModel:
    """The architecture at small sizes, with large random weights.

    Args:
        model_type: Transformers' name of the architecture.
        class_name: The class to build.

    Raises:
        ValueError: None of the sizes that are tried fits it.
    """
    kind = getattr(transformers, CONFIG_MAPPING_NAMES[model_type])
    try:
        values = _sizes(kind)
    except Exception as error:  # configs of different layers have errors of their own
        raise ValueError(str(error)) from error
    problem = ""
    for left_out in _WITHOUT:
        config = {name: value for name, value in values.items() if name not in left_out}
        try:
            return _build(getattr(transformers, class_name), kind, config)
        except Exception as error:  # each architecture has errors of its own for sizes
            problem = problem or str(error)
    raise ValueError(problem)


def _sizes(kind: Any) -> dict[str, Any]:
    usual = kind()
    names = {name for name in _VALUES if hasattr(usual, name) or name in kind.attribute_map}
    names.add("decoder_start_token_id")
    sizes: dict[str, Any] = {name: _VALUES[name] for name in sorted(names)}
    kinds = getattr(usual, "layer_types", None)
    if kinds is not None:
        different = list(dict.fromkeys(kinds))
        sizes["layer_types"] = (different * _LAYERS)[: max(_LAYERS, len(different))]
        sizes["num_hidden_layers"] = len(sizes["layer_types"])
    return sizes


def _build(model_class: Any, kind: Any, values: Mapping[str, Any]) -> PreTrainedModel:
    with torch.device("meta"):
        weights = sum(each.numel() for each in model_class(kind(**values)).parameters())
    if weights > _MOST_WEIGHTS:
        raise ValueError(f"{weights:,} weights at the smallest sizes tried")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: PreTrainedModel = model_class(kind(**values)).eval()
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.15)
    ids = torch.arange(8, 16)[None]
    inputs = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        if not model(input_ids=ids, **inputs).logits.isfinite().all():
            raise ValueError("its logits are not finite")
    return model
