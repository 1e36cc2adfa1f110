"""The ``model`` section of a config: the base model, and how it is loaded."""

from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from peml.errors import nearest
from peml.models.families.registry import FAMILIES
from peml.settings import Settings


class ModelSettings(Settings):
    """The frozen base model of a run."""

    CALLERS: ClassVar[frozenset[str]] = frozenset(
        ("name", "revision", "gguf_file", "sharding", "trust_remote_code")
    )
    """Fields that a saved model may not set: its location, and whether its code may run."""

    name: str = "minilm"
    """Hub id, local folder, or a model that an extra installs: `minilm` (an encoder, extra `demo`),
    `smollm2` (a decoder with 135 M parameters, extra `lm`)."""
    family: str = "auto"
    """The kind of model: encoder, seq2seq, causal, or a family that an installed package adds;
    `auto` reads it from the model's config."""
    revision: str | None = Field(None, description="Branch, tag or commit on the hub.")
    gguf_file: str | None = None
    """Name of a GGUF file in the folder or repository. It is read instead of safetensors and cached
    as bfloat16. Needs the extra `lm`."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Data type of the frozen weights. `auto`: bfloat16 in a run that computes in bf16, unless the
    method trains these weights, else float32; the final model is merged and saved in float32. A
    type that is set is also that of the final model."""
    quantization: Literal["int8", "nf4"] | None = None
    """Store the frozen linear layers in 8 bits (int8) or 4 bits (nf4), by bitsandbytes (extra
    `quantization`). The other weights are stored in `dtype`, and the final model has dequantised
    weights."""
    attention: Literal["auto", "sdpa", "eager"] = "auto"
    """Attention implementation. `auto`: Transformers' choice, sdpa for most models and eager for
    those without it."""
    pooling: Literal["mean", "first"] = "mean"
    """Encoders: input of a head; the mean of the tokens, or the first token."""
    max_length: int | None = Field(None, ge=8)
    """Maximum length of an input in tokens. Default: the length of the longest row, up to the
    model's positions without those of a prompt and of the text to generate."""
    too_long: Literal["cut", "refuse"] = "cut"
    """A longer row is cut and counted (cut), or stops the run with its number (refuse)."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass to save memory."""
    sharding: Literal["none", "fsdp"] = "none"
    """With several processes, `fsdp` gives each a part of every frozen weight instead of the whole
    model; they are gathered block by block in each pass."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. PEML stores this permission in no folder and reads
    it from none."""

    @field_validator("family")
    @classmethod
    def _known_family(cls, name: str) -> str:
        known = ("auto", *FAMILIES.names())
        if name not in known:
            raise ValueError(
                f"no model family {name!r}.{nearest(name, known)} There are: {', '.join(known)}"
            )
        return name

    @property
    def attn_implementation(self) -> str | None:
        """The attention to request from Transformers; None: its own choice."""
        return None if self.attention == "auto" else self.attention

    def stored(self) -> dict[str, Any]:
        """The fields that are saved with a model."""
        return self.model_dump(mode="json", exclude=set(self.CALLERS))
