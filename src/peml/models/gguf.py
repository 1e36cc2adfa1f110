"""GGUF files as base models: converted once to a Transformers model in the cache.

Quantised weights become bfloat16. The result is a folder like that of any model, with a tokenizer,
checksums and safetensors.
"""

import importlib.util
import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from peml.data.mapped import cache_folder
from peml.errors import CheckpointError, ModelError, RunError
from peml.files import new_folder, remove_folder, verify_manifest
from peml.models.source import checksum

_FORMAT = 1  # part of the folder's name, so that a new format converts files again


def converted(path: Path) -> Path:
    """The folder in the cache with the model of a GGUF file (a decoder); converts it if necessary.

    Raises:
        ModelError: The package ``gguf`` is not installed, or the file can't be read.
    """
    folder = cache_folder() / "models" / f"{path.stem}-{checksum(path)[:16]}-{_FORMAT}"
    if folder.is_dir():
        try:
            verify_manifest(folder, action="delete it")
        except CheckpointError as error:
            warnings.warn(f"{error.problem}; it is converted again", stacklevel=2)
            remove_folder(folder)
        else:
            return folder
    if importlib.util.find_spec("gguf") is None:
        raise ModelError(
            f"{path.name} is a GGUF file, and the package gguf, which reads it, is not installed",
            action="install the extra: pip install 'peml[lm]'",
        )
    try:
        with new_folder(folder) as partial:
            model, tokenizer = _read(path)
            if hasattr(model.config, "quantization_config"):
                del model.config.quantization_config
            model.hf_quantizer, model.is_quantized = None, False
            model.config.architectures = [type(model).__name__]
            model.to(torch.bfloat16).save_pretrained(partial)
            tokenizer.save_pretrained(partial)
    except RunError:
        if not folder.is_dir():  # otherwise another process was faster
            raise
    return folder


def _read(path: Path) -> tuple[Any, Any]:
    """The model, with dequantised weights, and its tokenizer."""
    logger = logging.getLogger("transformers.modeling_gguf_pytorch_utils")
    before = logger.level
    logger.setLevel(logging.ERROR)  # hides the message that it dequantises
    try:
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name)
    except (OSError, ValueError, KeyError, ImportError, AttributeError, NotImplementedError) as err:
        reason = str(err).strip().splitlines()[0] if str(err).strip() else repr(err)
        raise ModelError(
            f"the GGUF file {path} can't be read: {reason}",
            allowed="a decoder-only model of an architecture that Transformers reads from GGUF",
            action="choose another file, or the model's safetensors",
        ) from err
    finally:
        logger.setLevel(before)
    return model, tokenizer
