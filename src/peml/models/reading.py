"""Reads a model's config, tokenizer and family, without its weights."""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer
from transformers.utils import cached_file

from peml.errors import ModelError
from peml.models.embedded import EMBEDDED, embedded_model
from peml.models.families import FAMILIES, Family, TextFamily
from peml.models.families.spelling import declared_ends
from peml.models.gguf import converted
from peml.models.quantization import quantization_of
from peml.models.settings import ModelSettings
from peml.models.source import GRANT, HTTP_ERROR, ModelFiles, check_source, damaged_weights
from peml.models.vocabulary import check_end, fit_tokenizer
from peml.tasks import Task
from peml.tasks.template import shown_fields

# RoBERTa and similar models count positions from the padding index, which configs don't say.
_COUNTED_FROM_PADDING = (
    "camembert",
    "data2vec-text",
    "longformer",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
)

_NO_LIMIT = 1 << 20
_UNLOADABLE = (
    *(ArithmeticError, AttributeError, ImportError, KeyError),
    *(OSError, SafetensorError, StrictDataclassError, TypeError, ValueError, HTTP_ERROR),
)
"""What Transformers raises for files that are missing, damaged or not to be had, or a config of
wrong values."""


def files_of(settings: ModelSettings) -> ModelFiles:
    """The files of the model in Transformers' format.

    Raises:
        ModelError: A revision is asked for of files that have none.
    """
    location = settings.name
    if settings.revision is not None and (location in EMBEDDED or Path(location).is_dir()):
        raise ModelError(
            f"model.revision is {settings.revision!r}, and {location} is no model of the hub",
            allowed="a revision of a hub model; a folder or an installed package has only one",
            action="leave out model.revision, or name the model on the hub",
        )
    if settings.gguf_file is not None:
        location = str(converted(_gguf_file(settings)))
    elif settings.name in EMBEDDED:
        location = str(embedded_model(settings.name))
    return ModelFiles(location, settings.revision)


def _gguf_file(settings: ModelSettings) -> Path:
    name, file = settings.name, str(settings.gguf_file)
    check_source(name, ModelFiles(name, settings.revision), trusted=settings.trust_remote_code)
    try:
        path = cached_file(name, file, revision=settings.revision)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"model {name!r} has no file {file!r}: {str(error).strip().splitlines()[0]}",
            allowed="the name of a GGUF file in that folder or repository",
            action="correct model.gguf_file, or leave it out for safetensors",
        ) from error
    return Path(str(path))


_UNREACHED = ("couldn't connect", "offline mode")
"""What Transformers says of a hub that can't be reached."""


def from_pretrained(loader: Any, settings: ModelSettings, what: str, **options: Any) -> Any:
    """Calls ``loader.from_pretrained`` and turns its errors into a ModelError."""
    location = files_of(settings).location
    try:
        return loader.from_pretrained(
            location,
            revision=settings.revision,
            trust_remote_code=settings.trust_remote_code,
            **options,
        )
    except Exception as error:
        if not isinstance(error, _UNLOADABLE) and type(error) is not Exception:
            raise  # the library tokenizers raises no class of its own
        lines = str(error).strip().splitlines() or [repr(error)]
        reason = " ".join(lines) if lines[0].rstrip().endswith(":") else lines[0]
        raise ModelError(
            f"the {what} of model {settings.name!r} can't be loaded: {reason}",
            action=_remedy(error, Path(location), what),
        ) from error


def _remedy(error: Exception, folder: Path, what: str) -> str:
    """What to do about a model that Transformers can't load."""
    if "trust_remote_code" in str(error):
        return f"read that repository's code, then {GRANT}"
    if "attn_implementation" in str(error):
        return "set model.attention: auto"
    if isinstance(error, ImportError):
        return "install that package, or choose the model's plain weights"
    if not folder.is_dir() and any(mark in str(error) for mark in _UNREACHED):
        return (
            "check the name and the connection; without a network, copy the model from elsewhere "
            f"(hf download {folder.as_posix()} --local-dir FOLDER) and give that folder"
        )
    if isinstance(error, HTTP_ERROR):
        return "check the connection, then run the same command again: the download goes on"
    if not folder.is_dir():
        return "check the name, or give the path of a local folder"
    if what == "weights" and (bad := damaged_weights(folder)):
        return f"download or copy again what is missing or damaged in {folder}: {', '.join(bad)}"
    files = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
    owner = "the tokenizer of its base model" if what == "tokenizer" else "the model"
    return f"the folder holds {files}; save {owner} there with save_pretrained"


def detect_family(config: Any) -> str:
    """Name of the family a model's config belongs to.

    Raises:
        ModelError: It fits no family, or more than one.
    """
    known = FAMILIES.load_all()
    fitting = [name for name, family in known.items() if family.fits(config)]
    if len(fitting) > 1:
        raise ModelError(
            f"model type {config.model_type!r} fits the families {' and '.join(fitting)}",
            allowed="one family",
            action=f"set model.family to one of {', '.join(fitting)}",
        )
    if not fitting:
        raise ModelError(
            f"model type {config.model_type!r} belongs to no known family",
            allowed=", ".join(known),
            action="set model.family if you know which one it is",
        )
    return fitting[0]


def load_family(settings: ModelSettings) -> Family:
    """Reads config and tokenizer only: enough to check and encode tasks.

    Raises:
        ModelError: They can't be found or read, contain code, an adapter or paths to other folders,
            or don't fit together.
    """
    files = files_of(settings)
    check_source(settings.name, files, trusted=settings.trust_remote_code)
    config = from_pretrained(AutoConfig, settings, "config")
    name = settings.family if settings.family != "auto" else detect_family(config)
    tokenizer = from_pretrained(AutoTokenizer, settings, "tokenizer")
    if not settings.trust_remote_code:
        tokenizer.init_kwargs.pop("auto_map", None)  # or it would be saved with the model
    fit_tokenizer(tokenizer, config, files.read("config.json"), settings.name)
    family = FAMILIES.load(name, "correct model.family")
    if issubclass(family, TextFamily):
        check_end(tokenizer, settings.name, files.vocabulary())
    positions = _positions(config)
    asked = settings.max_length
    if positions is not None and asked is not None and asked > positions:
        raise ModelError(
            f"model.max_length is {asked}, but {settings.name!r} has only {positions} positions",
            allowed=f"at most {positions}",
            action="lower model.max_length",
        )
    made: Family = family(
        tokenizer,
        max_length=asked or positions or _declared_length(config, tokenizer),
        pooling=settings.pooling,
        positions=positions,
        ends=declared_ends(tokenizer, _end_tokens(files, config, settings.name)),
    )
    made.follows_rows = asked is None
    return made


def read_quantization(settings: ModelSettings) -> str | None:
    """The form in which linear layers are stored, as set or by config; see `quantization_of`."""
    return quantization_of(settings, files_of(settings).read("config.json"))


def read_width(settings: ModelSettings) -> int | None:
    """Channels of the model's hidden states, from its config alone; None if it doesn't say.

    Raises:
        ModelError: The config can't be read.
    """
    config = from_pretrained(AutoConfig, settings, "config")
    width: int | None = getattr(config.get_text_config(), "hidden_size", None)
    return width


def _end_tokens(files: ModelFiles, config: Any, model: str) -> Any:
    """``eos_token_id`` of the model's ``generation_config.json``, else of its config.

    Nothing else in that file is used, since answers are always decoded greedily.
    """
    name = "generation_config.json"
    path = files.find(name)
    if path is None:
        return getattr(config, "eos_token_id", None)  # MobileBERT's config has none
    try:
        return json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
    except (ValueError, AttributeError) as error:
        raise ModelError(
            f"{name} of model {model!r} is not a JSON object: {error}",
            action="correct or delete the file",
        ) from error


def _positions(config: Any) -> int | None:
    """Longest input of a model with learned positions; None for rotary and relative ones."""
    if hasattr(config, "rope_parameters") or hasattr(config, "relative_attention_num_buckets"):
        return None
    limit = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    offset = config.pad_token_id + 1 if config.model_type in _COUNTED_FROM_PADDING else 0
    return int(limit) - offset if limit is not None and limit > 0 else None  # XLNet's is -1


def _declared_length(config: Any, tokenizer: Any) -> int:
    """The length for which a model without learned positions was made, if its files say so."""
    text = config.get_text_config()
    declared = (getattr(text, name, None) for name in ("max_position_embeddings", "n_positions"))
    known = (int(length) for length in declared if length is not None and length > 0)
    length = next(known, tokenizer.model_max_length)
    return min(length, _NO_LIMIT)  # a tokenizer that knows of no limit has 1e30


def _check_shown(task: Task) -> None:
    """Refuses prompts that show no field, and warns about inputs that they don't show."""
    columns, shown = task.columns, shown_fields(task)
    if shown.isdisjoint((*columns.shown, "options")):
        raise ModelError(
            f"task {task.name!r}: the template shows no field, so all prompts would be the same",
            allowed=", ".join(f"{{{{ {name} }}}}" for name in (*columns.inputs, *columns.extra)),
            action="show the inputs in the task's template",
        )
    hidden = [name for name in columns.inputs if name not in shown]
    if hidden:
        warnings.warn(
            f"Task {task.name!r}: its prompts don't show {', '.join(map(repr, hidden))} of "
            "columns.inputs; show them in the template, or leave them out",
            stacklevel=2,
        )


def _warn_unread(task: Task) -> None:
    """Warns about fields that a template shows and a model without prompts doesn't read."""
    unread = [name for name in task.columns.extra if name in shown_fields(task)]
    if unread and task.segments is None:
        warnings.warn(
            f"Task {task.name!r}: the model reads the input columns alone, not "
            f"{', '.join(map(repr, unread))}, which the template shows; set the task's segments to "
            "have it read them",
            stacklevel=2,
        )


def check_task_types(family: Family, tasks: Sequence[Task]) -> None:
    """Refuses tasks, shots and chats that the family doesn't support; warns about unread fields.

    Raises:
        ModelError: Names all tasks that don't fit.
    """
    held = [task.name for task in tasks if task.context]
    if held and not family.holds_contexts:
        raise ModelError(
            f"the family {family.name!r} can't hold the contexts of {', '.join(held)}",
            allowed="contexts on decoders and encoders",
            action="choose a method without a context, or another model",
        )
    with_shots = [
        task.name
        for task in tasks
        if (task.shots.count or task.shots.examples) and not task.context
    ]
    if with_shots and not isinstance(family, TextFamily):
        raise ModelError(
            f"the family {family.name!r} has no prompts, so the shots of {', '.join(with_shots)} "
            "would be ignored",
            allowed="shots for text-to-text models",
            action="set tasks.shots: 0, or choose a text-to-text model",
        )
    for task in tasks:
        if task.chat is not None:
            family.check_chat(task)
        if isinstance(family, TextFamily):
            _check_shown(task)
        else:
            _warn_unread(task)
    unfit = [task for task in tasks if task.type not in family.task_types]
    if not unfit:
        return
    names = ", ".join(f"{task.name} ({task.type.value})" for task in unfit)
    excluded = ", ".join(task.name for task in unfit)
    raise ModelError(
        f"the family {family.name!r} can't do: {names}",
        allowed=", ".join(sorted(kind.value for kind in family.task_types)),
        action=f"leave them out (tasks.exclude: [{excluded}]) or choose a text-to-text model",
    )
