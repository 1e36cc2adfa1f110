"""The bodies in the service's OpenAPI description, and its description of tasks."""

from typing import Any

from pydantic import BaseModel, Field

from peml.tasks import Task


class Problem(BaseModel):
    """What was wrong with a request."""

    type: str = Field(description="A word for programs.")
    message: str
    field: str | None = Field(description="Where in the body, such as rows[2].headline.")
    allowed: str | None
    remedy: str


class ErrorAnswer(BaseModel):
    """The body of every error."""

    error: Problem


class PredictRequest(BaseModel):
    """Rows of one task, or rows that name their tasks."""

    task: str | None = Field(None, description="Task of all rows. Without it, each row has `task`.")
    rows: list[dict[str, Any]] = Field(description="Objects with the task's columns.")


class RowAnswer(BaseModel):
    """The answer to one row."""

    prediction: str | float
    scores: dict[str, float] = Field(description="Probability of each label or option.")
    cut: int = Field(0, description="Tokens that were cut from the row, if any.")


class PredictAnswer(BaseModel):
    """Answers in the order of the rows."""

    predictions: list[RowAnswer]


def body_of(request: type[BaseModel], answer: type[BaseModel] | None) -> dict[str, Any]:
    """The OpenAPI description of a route that reads its body itself.

    ``answer`` is None for OpenAI's answers, which are not described again.
    """
    content = {"application/json": {"schema": request.model_json_schema()}}
    refused = {"model": ErrorAnswer, "description": "Refused, with the reason"}
    return {
        "openapi_extra": {"requestBody": {"content": content, "required": True}},
        "responses": {200: {} if answer is None else {"model": answer}, "4XX": refused},
    }


PREDICT = body_of(PredictRequest, PredictAnswer)


def describe(task: Task) -> dict[str, Any]:
    """What ``GET /v1/tasks`` says of a task."""
    return {
        "name": task.name,
        "description": task.description,
        "type": task.type,
        "columns": list(task.columns.shown),
        "lists": [task.columns.choices] if isinstance(task.columns.choices, str) else [],
        "labels": list(task.labels),
    }
