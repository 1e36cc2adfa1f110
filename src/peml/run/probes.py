"""A few real rows of each task, with which a saved model is checked before it is published."""

from peml.data import Collator, TaskBatch
from peml.data.batching import evaluation_batches
from peml.data.encoding import encode_rows
from peml.data.splits import spread
from peml.run.preparation import Prepared
from peml.tasks import TaskRenderer

_ROWS_OF_A_TASK = 8
_ROWS = 32
_TOKENS = 8192


def probe_batches(prepared: Prepared) -> list[TaskBatch]:
    """Reported rows spread over each task, at most 8 per task and 32 in all.

    If there are more than 32 tasks, 32 of them have a row each. If prompts are long, there are
    fewer rows per task, but at least one: 8,192 tokens in all. Each batch is of one task.
    """
    data = prepared.loaded.data
    chosen = spread(len(data), _ROWS)
    each = min(_ROWS_OF_A_TASK, _ROWS // len(chosen))
    collate = Collator(prepared.family.tokenizer.pad_token_id)
    batches: list[TaskBatch] = []
    for task_id in chosen:
        task, rows = data[task_id].task, data[task_id].reported
        # A text to be generated is scored like an option: it is what the model was trained to say.
        renderer = TaskRenderer(task)
        examples = [renderer.render(rows[place], place) for place in spread(len(rows), each)]
        split = encode_rows(examples, task, prepared.family, "score")
        fit = _TOKENS // len(chosen) // int(split.tokens.max())
        if fit < len(split):
            examples = [examples[place] for place in spread(len(examples), max(1, fit))]
            split = encode_rows(examples, task, prepared.family, "score")
        tokens = prepared.config.evaluation.tokens
        batches += evaluation_batches(split, task_id, tokens, collate)
    return batches
