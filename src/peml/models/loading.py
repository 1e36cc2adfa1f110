"""Loads a frozen model by its name in the config."""

import hashlib
import json
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig
from transformers.utils import logging as hf_logging

from peml.distributed import ALONE, World
from peml.errors import ModelError
from peml.models.families import Family, TextFamily
from peml.models.families.decoding import own_generation
from peml.models.logits import logits_problem, reads_ahead
from peml.models.padding import padding_problem
from peml.models.quantization import check_quantization, loading_options, settle_quantized
from peml.models.reading import files_of, from_pretrained, load_family, read_quantization
from peml.models.rotary import check_rotary
from peml.models.settings import ModelSettings
from peml.models.sharding import free_after_use, sharded_options
from peml.models.stored_weights import check_stored
from peml.models.vocabulary import check_vocabulary
from peml.tasks import Task

# Fields of config.json that don't describe the model: its location, and what wrote the file.
_NOT_THE_MODELS = {"_name_or_path", "transformers_version"}

_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class Backbone:
    """A frozen pretrained model, its family (with tokenizer) and the settings it was loaded by."""

    model: Any
    family: Family
    settings: ModelSettings


def load_backbone(
    settings: ModelSettings,
    family: Family | None = None,
    world: World = ALONE,
    device: torch.device | None = None,
) -> Backbone:
    """Loads and freezes the model; weights are read from safetensors only.

    `family` is by default as the settings say; `world` are the processes that share sharded
    weights. Weights are quantised on `device`, where they are used; others are on the CPU.

    Raises:
        ModelError: The model can't be found or read.
    """
    family = family or load_family(settings)
    if settings.dtype == "auto":  # no training: a run has replaced it
        settings = settings.model_copy(update={"dtype": "float32"})
    device = device or torch.device("cpu")
    stored = read_quantization(settings)
    check_quantization(settings, device)
    options = loading_options(settings, stored, device)
    config = from_pretrained(AutoConfig, settings, "config")
    if isinstance(family, TextFamily):
        options["generation_config"] = own_generation(family.spelling, config)
    if settings.sharding != "none":
        options |= sharded_options(family.auto_class, config, world, settings.name)
    with _without_load_report():
        model, report = from_pretrained(
            family.auto_class,
            settings,
            "weights",
            dtype=getattr(torch, settings.dtype),
            attn_implementation=settings.attn_implementation,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, with a message that names one
            **options,
        )
    wrong_shape = [key for key, *_ in report["mismatched_keys"]]
    _refuse_missing_weights(settings.name, [*report["missing_keys"], *wrong_shape])
    _refuse_more_layers(settings.name, report["unexpected_keys"], model)
    _refuse_lost_parts(settings.name, report["unexpected_keys"], model)
    packed = stored is not None and settings.quantization is None
    check_stored(model, files_of(settings), settings.name, packed=packed)
    if rows := getattr(model.get_input_embeddings(), "num_embeddings", None):
        check_vocabulary(family.tokenizer, rows, settings.name)
    _settle_attention(model, settings.name)
    _freeze(model, settings)
    free_after_use(model)
    if stored is not None:
        settle_quantized(model, settings.name)
    check_rotary(model, family.max_length, settings.name)
    _try_out(model, family, settings.name)
    if settings.gradient_checkpointing:
        enable_checkpointing(model)
    return Backbone(model, family, settings)


def _try_out(model: Any, family: Family, name: str) -> None:
    """Lets the model read a short text, to find out what its outputs depend on.

    Raises:
        ModelError: It can't read the text, or is no model of the family.
    """
    try:
        if isinstance(family, TextFamily):
            _choose_logits(model, family, name)
        elif problem := padding_problem(model, family.tokenizer):
            warnings.warn(
                f"{name}: a row's scores depend on the length of the rows in its batch: "
                f"{problem}. Predictions of the same row can differ between commands.",
                stacklevel=3,
            )
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise ModelError(
            f"model {name!r} can't read a short text: {error}",
            allowed="a model that reads input_ids with an attention_mask, of any length",
            action="correct its config.json, or choose another model",
        ) from error


def _choose_logits(model: Any, family: TextFamily, name: str) -> None:
    """Makes the model compute logits only at needed positions, if it can.

    Raises:
        ModelError: A token's logits depend on the answer after it.
    """
    if reads_ahead(model):
        wrong, action = "can't be scored", "choose another model"
        if not model.config.is_encoder_decoder:
            wrong = "is no decoder"
            action = "if it is one, set is_decoder: true in its config.json; else choose "
            action += "model.family: encoder or another model"
        raise ModelError(
            f"{name} {wrong}: in a test, a token's logits changed with the tokens after it",
            allowed="models in which a token sees only itself and those before it",
            action=action,
        )
    problem = logits_problem(model)
    family.logits_everywhere = problem is not None
    if problem is not None:
        warnings.warn(
            f"{name}: the logits of every token are computed, which is slower and takes more "
            f"memory: {problem}",
            stacklevel=4,
        )


def count_layers(settings: ModelSettings) -> int:
    """Number of layers of a decoder or encoder, if its config says that all are alike; else 0.

    Raises:
        ModelError: The config can't be read.
    """
    config = from_pretrained(AutoConfig, settings, "config")
    if config.is_encoder_decoder or config.get_text_config() is not config:
        return 0
    layers = getattr(config, "num_hidden_layers", 0)
    differ = any(len({*map(str, values)}) > 1 for values in _by_layer(config, layers).values())
    return 0 if differ else layers


def _by_layer(config: Any, layers: int) -> dict[str, list[Any]]:
    """Lists in a config with one entry per layer."""
    fields = config.to_dict().items()
    return {name: v for name, v in fields if isinstance(v, list) and len(v) == layers}


def empty_backbone(settings: ModelSettings, family: Family, layers: int | None = None) -> Backbone:
    """The model that `load_backbone` loads, built from its config alone, with random weights.

    ``layers`` limits the number of layers, if all are alike (`count_layers`).

    For a context in which tensors have no values, so nothing is tested here.

    Raises:
        ModelError: The config can't be read.
    """
    config = from_pretrained(AutoConfig, settings, "config")
    if layers is not None:
        for name, values in _by_layer(config, config.num_hidden_layers).items():
            setattr(config, name, values[:layers])
        config.num_hidden_layers = layers
    model = family.auto_class.from_config(
        config,
        dtype=getattr(torch, settings.dtype),
        attn_implementation=settings.attn_implementation,
        trust_remote_code=settings.trust_remote_code,
    )
    _freeze(model, settings)
    if settings.gradient_checkpointing:
        enable_checkpointing(model)
    return Backbone(model, family, settings)


def _freeze(model: Any, settings: ModelSettings) -> None:
    """Freezes a model, and removes its unused parts."""
    if not settings.trust_remote_code and hasattr(model.config, "auto_map"):
        del model.config.auto_map  # Transformers' own class was used; a saved one asks for no code
    # A config may ask for tuples, or for outputs that sdpa can't give and nobody reads.
    for config in {id(c): c for m in model.modules() if (c := getattr(m, "config", None))}.values():
        config.return_dict = True
        config.output_attentions = config.output_hidden_states = False
    if isinstance(getattr(model, "pooler", None), nn.Module):
        # The heads read token states. SqueezeBERT and LayoutLM call a pooler even where it is None.
        model.pooler = nn.Identity()
    model.requires_grad_(False)


def _settle_attention(model: Any, name: str) -> None:
    """Gives BigBird full attention: it changes to that for good when it reads a short text."""
    if getattr(model.config, "attention_type", None) != "block_sparse":
        return
    for module in list(model.modules()):
        if hasattr(module, "set_attention_type"):
            module.set_attention_type("original_full")
    model.config.attention_type = "original_full"
    warnings.warn(
        f"{name}: its block-sparse attention is replaced by full attention (attention_type: "
        "original_full), to which it would change for good at its first short text. Long rows get "
        "other scores than with block-sparse attention",
        stacklevel=3,
    )


def identify_model(
    settings: ModelSettings, family: Family, tasks: Sequence[Task] = ()
) -> dict[str, str]:
    """Checksums that identify a base model, and its chat template if a task uses it."""
    files = files_of(settings)
    config = files.read("config.json")
    relevant = {key: config[key] for key in sorted(config.keys() - _NOT_THE_MODELS)}
    chats = {family.chat_template(task) for task in tasks if task.chat is not None}
    return {
        "weights": files.weights_checksum(),
        "config": _sha256(json.dumps(relevant)),
        "tokenizer": _sha256(family.tokenizer_rules),
        "end tokens": _sha256(repr(family.spelling.ends)),
        **({"quantization": settings.quantization} if settings.quantization else {}),
        **({"chat template": _sha256("".join(sorted(chats)))} if chats else {}),
    }


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


@contextmanager
def _without_load_report() -> Iterator[None]:
    """Hides Transformers' report of missing weights; those that matter raise an error here."""
    before, bar = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(before)
        if bar:
            hf_logging.enable_progress_bar()


def _refuse_missing_weights(name: str, missing: Iterable[str]) -> None:
    needed = sorted(key for key in missing if not key.startswith("pooler."))
    if needed:
        raise ModelError(
            f"the files of model {name!r} lack {len(needed)} weights, or have them in another "
            f"shape, {needed[0]!r} among them; a frozen model can't use random weights instead",
            action="check that the files are complete, and that model.family is right",
        )


def _refuse_more_layers(name: str, unexpected: Iterable[str], model: nn.Module) -> None:
    """Refuses files with more layers than the config; other heads are ignored."""
    own = {_NUMBER.sub("*", key) for key in model.state_dict() if _NUMBER.search(key)}
    spelled = {key: _NUMBER.sub("*", key) for key in unexpected}
    spelled |= {key: kind.partition(".")[2] for key, kind in spelled.items() if kind not in own}
    more = sorted(key for key, kind in spelled.items() if kind in own)  # with and without "bert."
    if more:
        raise ModelError(
            f"the files of model {name!r} have {len(more)} weights of layers that its config "
            f"lacks, {more[0]!r} among them",
            allowed="a config with as many layers as the files",
            action="correct config.json (num_hidden_layers), or save the model as it is meant with "
            "save_pretrained",
        )


def _refuse_lost_parts(name: str, unexpected: Iterable[str], model: nn.Module) -> None:
    """Refuses weights of a layer's parts that the config leaves out, such as its biases."""
    modules = dict(model.named_modules())
    lost = sorted(
        key
        for key in unexpected
        if _is_part(key, modules) or _is_part(key.partition(".")[2], modules)  # without "bert."
    )
    if lost:
        raise ModelError(
            f"the files of model {name!r} have {len(lost)} weights that the model of its config "
            f"leaves out, {lost[0]!r} among them",
            allowed="a config with all parts of the layers in the files",
            action="correct config.json (model_type, attention_bias, quantization_config and the "
            "like), or save the model as it is meant with save_pretrained",
        )


def _is_part(key: str, modules: Mapping[str, nn.Module]) -> bool:
    """Whether a weight belongs to a layer that the model has; masks stored as `bias` do not.

    A layer's scales do (`weight_scale`): without them, its weight is another one.
    """
    owner, _, kind = key.rpartition(".")
    if owner in modules:
        return bool(owner) and any(True for _ in modules[owner].parameters(recurse=False))
    if kind not in ("weight", "bias"):
        return False
    while owner and owner not in modules:
        owner = owner.rpartition(".")[0]
    return any(part.isdigit() for part in owner.split("."))


def enable_checkpointing(model: Any) -> None:
    """Recomputes activations in the backward pass; Transformers renamed its switch after 5.15.

    Raises:
        ModelError: The model doesn't support it.
    """
    if not model.supports_gradient_checkpointing:
        raise ModelError(
            f"{type(model).__name__} does not support gradient checkpointing",
            action="set model.gradient_checkpointing: false",
        )
    new = hasattr(model, "activation_checkpointing_enable")
    switch = model.activation_checkpointing_enable if new else model.gradient_checkpointing_enable
    switch({"use_reentrant": False})
