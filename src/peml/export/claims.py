"""The answers that an exported decoder must give, and the check that another tool gets them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from transformers import GenerationConfig

from peml.export.fresh import FreshProcess, refusal
from peml.files import read_json, write_json, write_text
from peml.models import TaskModel
from peml.tasks import Task, TaskRenderer
from peml.tasks.template import BETWEEN

CONTEXTS_FOLDER = "contexts"
"""The folder with a file or two per task in an export."""
_ROWS, _LENGTH, _NEW = 2, 24, 8
# As a share of the largest logit; another text gives a far larger difference.
_LEAST_TOLERANCE, _TIMES_ROUNDING = 1e-4, 8.0


def write_context(place: Path, task: Task, model: TaskModel) -> None:
    """Writes a task's context as text, its token ids, and the template of the prompt after it."""
    context = TaskRenderer(task).context()
    write_text(place.with_suffix(".txt"), context + BETWEEN)
    content = {"token_ids": model.family.context_tokens(context), "template": task.template}
    write_json(place.with_suffix(".json"), content)


@dataclass
class Claims:
    """Logits and greedy texts of the run's model (in float32) for rows of random tokens.

    Attributes:
        rows: Token ids, (rows, length).
        tolerance: Largest difference of logits, as a share of the largest.
        wanted: Logits and new tokens by place in the export; ``""`` for the model alone.
    """

    model: TaskModel | None
    rows: Tensor
    tolerance: float
    wanted: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @classmethod
    def of(cls, model: TaskModel, *, recomputed: bool = False) -> Claims:
        """Claims about a model, empty at first.

        ``recomputed``: the other tool computes keys and values that the run stored rounded.
        """
        rounding = torch.finfo(next(model.backbone.parameters()).dtype).eps if recomputed else 0.0
        tolerance = max(_LEAST_TOLERANCE, _TIMES_ROUNDING * rounding)
        generator = torch.Generator().manual_seed(0)
        vocabulary = model.backbone.get_input_embeddings().num_embeddings
        model.backbone.float()
        rows = torch.randint(vocabulary, (_ROWS, _LENGTH), generator=generator)
        return cls(model, rows, tolerance)

    @torch.no_grad()
    def add(self, place: str, task: int = 0) -> None:
        """Adds the answers at a place in the export, for the rows of a task that see it."""
        assert self.model is not None
        base = self.model
        base.routing.one_task(task, self.rows.device)
        inputs, prompt = {"input_ids": self.rows}, base.prompt.vectors
        skipped = self.rows.shape[1]
        mask = torch.ones_like(self.rows)
        if prompt is not None:
            tokens = base.backbone.get_input_embeddings()(self.rows)
            given = prompt.float().expand(len(tokens), -1, -1)
            inputs = {"inputs_embeds": torch.cat([given, tokens], 1)}
            mask = torch.ones(inputs["inputs_embeds"].shape[:2], dtype=torch.long)
            skipped = 0  # for embeddings, Transformers returns the new tokens only
        said = base.backbone(**inputs, attention_mask=mask, use_cache=False)
        logits = said.logits[:, -self.rows.shape[1] :]
        base.backbone.generation_config = GenerationConfig(
            do_sample=False, max_new_tokens=_NEW, pad_token_id=0
        )
        tokens = base.backbone.generate(**inputs, attention_mask=mask)[:, skipped:]
        self.wanted[place] = logits, tokens

    def check(self, reader: str, folder: Path, *, trust_remote_code: bool) -> str:
        """Compares a folder's answers, read by a reader of ``plain.py``, with those added here.

        Returns a sentence on what was compared, and the largest difference; refuses other answers,
        and a folder that can't be read.
        """
        self.model = None  # only one model is in memory at a time
        difference, largest = torch.zeros(()), 1e-6
        with FreshProcess(reader, folder, trust_remote_code=trust_remote_code) as other:
            for place, (logits, tokens) in self.wanted.items():
                found = other.ask("logits", place, rows=self.rows)
                difference = difference.maximum((found - logits).abs().max())  # keeps a NaN
                largest = max(largest, float(logits.abs().max()))
                share = float(difference) / largest
                if not share <= self.tolerance:
                    raise refusal(
                        f"the exported model differs from the run's: logits differ by up to "
                        f"{share:.2g} of the largest, and {self.tolerance:.2g} is allowed"
                    )
                new = torch.tensor(tokens.shape[1])
                if not torch.equal(other.ask("generate", place, rows=self.rows, new=new), tokens):
                    raise refusal("the exported model continues texts otherwise than the run's")
                for text in (place, f"{place}/context"):
                    _check_text(other, folder, text)
        return (
            f"in a process without PEML, logits of {_ROWS} rows of random tokens differed from "
            f"those of the run's model by at most {share:.1e} of the largest (computed in "
            f"float32; allowed: {self.tolerance:.1e}), and {_NEW} generated tokens were the same."
        )


def _check_text(other: FreshProcess, folder: Path, place: str) -> None:
    """Refuses a context whose text the tokenizer reads as other tokens than the run."""
    said = folder / f"{place}.json"
    if place and said.is_file():
        ids = torch.tensor(read_json(said)["token_ids"])
        if not torch.equal(other.ask("text", place)[: len(ids)], ids):
            raise refusal(f"the tokenizer reads {place}.txt as other tokens than the run")
