"""Reads a completion's JSON as a text that the model continues."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from peml.errors import DataError, ModelError, nearest
from peml.injection.inject import injection_of
from peml.models.families.text import CausalFamily
from peml.problems import describe_problems
from peml.serving.predictor import Predictor
from peml.serving.service.limits import Limits
from peml.serving.service.refusal import RefusedError
from peml.serving.service.work import Text
from peml.tasks import Chat, Example, Task, TaskRenderer, Turn
from peml.tasks.template import BETWEEN

_Stop = Annotated[str, Field(min_length=1, max_length=100)]


def _listed(value: Any) -> Any:
    """One stop string as a list, so that a mistake has one path."""
    return [value] if isinstance(value, str) else value


def _in_parts(value: Any) -> Any:
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


_Stops = Annotated[
    list[_Stop], BeforeValidator(_listed, json_schema_input_type=_Stop | list[_Stop])
]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)


class _Options(_Body):
    include_usage: bool = Field(False, strict=True)


class _Asked(_Body):
    """Fields of both kinds of completion. Decoding is greedy, so most have a single valid value."""

    model: str = Field(description="The served model's name, or a task's.")
    max_tokens: int | None = Field(None, ge=1, strict=True)
    stop: _Stops | None = Field(None, description="The text ends before these.")
    stream: bool = Field(False, strict=True)
    stream_options: _Options | None = None
    temperature: float | None = Field(None, ge=0, le=0, description="Decoding is greedy.")
    top_p: float | None = Field(None, ge=1, le=1)
    n: Literal[1] | None = None
    seed: int | None = Field(None, description="Without effect: decoding is greedy.")
    user: str | None = Field(None, description="Without effect.")


class CompletionRequest(_Asked):
    """``POST /v1/completions``."""

    prompt: str


class _Part(_Body):
    type: Literal["text"]
    text: str


class _Message(_Body):
    role: Literal["system", "user", "assistant"]
    content: Annotated[
        list[_Part], BeforeValidator(_in_parts, json_schema_input_type=str | list[_Part])
    ]

    def turn(self) -> Turn:
        """The prompt as a turn of a chat."""
        return Turn(self.role, "".join(part.text for part in self.content))


class ChatRequest(_Asked):
    """``POST /v1/chat/completions``."""

    messages: list[_Message] = Field(min_length=1)
    max_tokens: int | None = Field(
        None,
        ge=1,
        strict=True,
        validation_alias=AliasChoices("max_completion_tokens", "max_tokens"),
    )

    @model_validator(mode="before")
    @classmethod
    def _has_one_limit(cls, body: dict[str, Any]) -> dict[str, Any]:
        if {"max_tokens", "max_completion_tokens"} <= body.keys():
            raise ValueError("give max_tokens or max_completion_tokens, not both")
        return body


def validate(kind: type[_Asked], body: dict[str, Any]) -> Any:
    """Validates a body as a request; a refusal names the first field that is wrong."""
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        place, unknown = first["loc"], first["type"] == "extra_forbidden"
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
        raise RefusedError.invalid(
            "; ".join(describe_problems(error, kind)),
            path.lstrip("."),
            ", ".join(kind.model_fields) if unknown else "",
            "correct the field, or leave it out",
        ) from error


class PromptReader:
    """Reads prompts and chats, for a model that continues texts."""

    def __init__(self, predictor: Predictor, name: str, limits: Limits) -> None:
        self._predictor = predictor
        self._name = name
        self._limits = limits
        self._ids = {task.name: number for number, task in enumerate(predictor.tasks)}
        base = predictor.base
        routed = any(
            getattr(part, "routing", None) is base.routing for part in base.backbone.modules()
        )
        self._by_task = routed or any(task.context for task in base.tasks)

    @property
    def models(self) -> list[str]:
        """The names that a request can give as its model."""
        if not isinstance(self._predictor.base.family, CausalFamily):
            return []
        return [*([] if self._by_task else [self._name]), *self._ids]

    def read(
        self, asked: CompletionRequest | ChatRequest, emit: Callable[[str], None] | None
    ) -> Text:
        """The text that a request asks to continue; refuses one that the model can't do or fit.

        ``emit`` gets its pieces, on the model's thread.
        """
        family = self._predictor.base.family
        if not isinstance(family, CausalFamily):
            raise RefusedError(
                400,
                "cannot_generate",
                f"the model {self._name!r} (family {family.name}) doesn't continue texts",
                field="model",
                allowed="decoder-only models",
                remedy="use POST /v1/predict",
            )
        task_id = self._task_id(asked.model)
        own = self._predictor.tasks[task_id or 0]
        if isinstance(asked, ChatRequest):
            turns = [message.turn() for message in asked.messages]
            task, example = self._chat(None if task_id is None else own, turns)
            field = "messages"
        else:
            task = own.model_copy(update={"chat": None})
            example, field = _plain(task, asked.prompt), "prompt"
        try:
            ids, gap = family.read_prompt(task, example)
            if task_id is None and isinstance(asked, CompletionRequest):
                ids, gap = family.read_text(asked.prompt), ""
            ends = family.stops(task.model_copy(update={"stop": ()}))
        except (DataError, ModelError) as error:
            raise RefusedError.of(error, kind="invalid_request", field=field) from error
        stop = (*(asked.stop or ()), *(() if task_id is None else own.stop), *ends)
        limit = self._limit(asked.max_tokens, None if task_id is None else own, len(ids), task_id)
        return Text(task_id or 0, ids, family.spelling, limit=limit, stop=stop, gap=gap, emit=emit)

    def _task_id(self, model: str) -> int | None:
        """The id of the task that a model's name stands for; None for the model itself."""
        if model in self._ids:
            return self._ids[model]
        if model == self._name and not self._by_task:
            return None
        by_task = " answers each task in its own way" if model == self._name else ""
        raise RefusedError(
            400 if by_task else 404,
            "unknown_model",
            f"the model {model!r}{by_task}: name a task"
            if by_task
            else f"there is no model {model!r}.{nearest(model, self.models)}",
            field="model",
            allowed=", ".join(self.models),
            remedy="name one of these as the model",
        )

    def _chat(self, task: Task | None, turns: Sequence[Turn]) -> tuple[Task, Example]:
        """The task to ask as, and the turns; a task adds its own system text and header."""
        if turns[-1].role != "user":
            raise RefusedError.invalid(
                f"the last message is the {turns[-1].role}'s",
                f"messages[{len(turns) - 1}].role",
                "messages of which the last is the user's",
                "leave it out; an answer that has begun can't be continued",
            )
        if task is None:
            task = self._predictor.tasks[0].model_copy(update={"chat": Chat()})
            opened = list(turns)
        elif task.chat is None:
            raise RefusedError(
                400,
                "not_a_chat",
                f"the task {task.name!r} is not asked as a chat",
                field="model",
                allowed=", ".join(t.name for t in self._predictor.tasks if t.chat is not None)
                or "no task of this model is",
                remedy="use POST /v1/completions, or POST /v1/predict with the task's columns",
            )
        else:
            opened = task.chat.open(turns, TaskRenderer(task).context() or None)
        return task, Example(0, ("",), "", options=(), label="", turns=tuple(opened))

    def _limit(self, asked: int | None, task: Task | None, given: int, task_id: int | None) -> int:
        most = self._limits.new_tokens
        if asked is not None and asked > most:
            wrong = f"max_tokens is {asked}"
            raise RefusedError.invalid(wrong, "max_tokens", f"at most {most}", "lower it")
        longest = most if task is None else self._predictor.evaluation.longest(task)
        wanted = asked or min(most, longest)
        room = self._room(task_id) - given
        if room < (asked or 1):
            raise RefusedError(
                422,
                "prompt_too_long",
                f"the prompt has {given} tokens, and {wanted} may be generated",
                field="prompt",
                allowed=f"at most {self._room(task_id)} together",
                remedy="shorten the prompt, or lower max_tokens",
            )
        return min(wanted, room)

    def _room(self, task_id: int | None) -> int:
        """Number of the model's positions that are left behind a held prefix or context."""
        base = self._predictor.base
        positions = getattr(base.backbone.config, "max_position_embeddings", None)
        most = min(positions or self._limits.tokens, self._limits.tokens)
        vectors = base.prompt.vectors
        injection = injection_of(base.backbone)
        contexts = None if injection is None else injection.contexts
        held = None if contexts is None or task_id is None else contexts.of(task_id)
        return (
            most - (0 if vectors is None else len(vectors)) - (0 if held is None else held.length)
        )


def _plain(task: Task, prompt: str) -> Example:
    context = TaskRenderer(task).context() if task.context else ""
    text = BETWEEN.join([context, prompt]) if context else prompt
    return Example(0, (prompt,), text, options=(), label="", context=context)
