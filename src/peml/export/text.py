"""A trained decoder as a plain Transformers model, with each task's context as text.

::

    OUT/
      config.json, model.safetensors, tokenizer.json, ...   the merged model
      contexts/
        TASK.txt           the text in front of the prompts of a task's rows
        TASK.json          its token ids, and the template of the row's prompt
      README.md            how to use them
      manifest.json        checksum of every file
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

import torch
from torch import Tensor

from peml.errors import RunError
from peml.export import plain
from peml.export.format import ExportFormat
from peml.export.native import CONTEXTS, load_saved
from peml.export.source import USE_NATIVE
from peml.files import write_json, write_tensors, write_text
from peml.models import TaskModel
from peml.tasks import Task, TaskRenderer
from peml.tasks.template import BETWEEN

_CONTEXTS = "contexts"
_ROWS, _LENGTH = 2, 24
# As a share of the largest logit; another text gives a far larger difference.
_LEAST_TOLERANCE, _TIMES_ROUNDING = 1e-4, 8.0


class TextExport(ExportFormat):
    """The merged model and the texts that it answers after as the run's model does.

    Keys and values of the adapted model are those of the text that it read, so any engine can serve
    it: one that caches prefixes computes a task's context once.
    """

    holds_contexts: ClassVar[bool] = True
    _wanted: dict[str, Tensor]
    _tolerance: float

    def check(self) -> None:
        """Refuses a model without contexts, with those of the frozen model, or with more parts."""
        problem, allowed = "", "models trained with method.context.of: adapted"
        context, family = self.saved.method().context, self.saved.description.model.family
        beside = sorted(
            name
            for name in self.saved.files
            if name.endswith(".safetensors") and "/" not in name and name != CONTEXTS
        )
        if context is None:
            problem = f"the method {self.saved.method_name!r} has no contexts to write as text"
        elif context.of != "adapted":
            problem = (
                "the contexts are keys and values of the base model (method.context.of: "
                f"{context.of}), and the merged model would read the same text differently"
            )
        elif family != "causal":
            problem = f"the family {family!r} reads a context by itself, not in front of the row"
            allowed = "decoder-only models (the family 'causal')"
        elif beside:
            problem = f"the model is more than merged weights and contexts: {', '.join(beside)}"
            allowed = "models without these"
        if problem:
            raise RunError(problem, allowed=allowed, action=USE_NATIVE)
        names = [task.name for task in self.saved.description.tasks]
        if self.task is not None and self.task not in names:
            raise RunError(
                f"the model has no task {self.task!r}",
                allowed=", ".join(names),
                action="correct --task, or leave it out",
            )

    def write(self, folder: Path) -> Sequence[str]:
        """Writes the merged model, and the chosen tasks' texts."""
        model = load_saved(self.saved, trust_remote_code=self.trust_remote_code)
        dtype = next(model.backbone.parameters()).dtype
        self._tolerance = max(_LEAST_TOLERANCE, _TIMES_ROUNDING * torch.finfo(dtype).eps)
        self.saved.copy("backbone", folder)
        (folder / _CONTEXTS).mkdir()
        generator = torch.Generator().manual_seed(0)
        vocabulary = model.backbone.get_input_embeddings().num_embeddings
        rows = torch.randint(vocabulary, (_ROWS, _LENGTH), generator=generator)
        self._wanted = {"rows": rows}
        model.backbone.float()
        for number, task in enumerate(model.tasks):
            if self.task in (None, task.name):
                place = f"{_CONTEXTS}/{task.name}"
                _write_context(folder / place, task, model)
                self._wanted[place] = _logits(model, number, rows)
        write_text(folder / "README.md", self._readme())
        return ["."]

    def verify(self, folder: Path) -> str:
        """Compares logits after the text with the run's, in a process that does without PEML."""
        with TemporaryDirectory() as scratch:
            wanted = Path(scratch) / "wanted.safetensors"
            write_tensors(wanted, self._wanted)
            command = [sys.executable, "-P", plain.__file__, str(folder), str(wanted)]
            command += ["--trust-remote-code"] * self.trust_remote_code
            ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if ended.returncode:
            last = (ended.stderr.strip() or "no message").splitlines()[-1]
            raise _refusal(f"plain Transformers can't use the exported model: {last}")
        said = json.loads(ended.stdout.splitlines()[-1])
        share = said["difference"] / max(said["largest"], 1e-6)
        if not share <= self._tolerance:
            raise _refusal(
                f"the exported model differs from the run's: logits differ by up to {share:.2g} of "
                f"the largest, and {self._tolerance:.2g} is allowed"
            )
        if said["misread"]:
            raise _refusal(
                f"the tokenizer reads {said['misread']}.txt as other tokens than the run"
            )
        return (
            f"in a process without PEML, logits of {_ROWS} rows of random tokens after each text "
            f"differed from those of the run's model by at most {share:.1e} of the largest "
            f"(computed in float32; allowed: {self._tolerance:.1e})."
        )

    def _readme(self) -> str:
        names = [self.task] if self.task else [t.name for t in self.saved.description.tasks]
        return _README.format(
            base=self.saved.description.base_model,
            method=self.saved.method_name,
            first=names[0],
            tasks=", ".join(f"`{name}`" for name in names),
        )


def _refusal(problem: str) -> RunError:
    return RunError(
        problem,
        allowed="a model that answers after the text as the run's model does",
        action=f"{USE_NATIVE}; and please report the model's type; nothing was written",
    )


def _write_context(place: Path, task: Task, model: TaskModel) -> None:
    context = TaskRenderer(task).context()
    write_text(place.with_suffix(".txt"), context + BETWEEN)
    content = {"token_ids": model.family.context_tokens(context), "template": task.template}
    write_json(place.with_suffix(".json"), content)


@torch.no_grad()
def _logits(model: TaskModel, task: int, rows: Tensor) -> Tensor:
    """The run's logits of rows of a task, (rows, length, vocabulary)."""
    model.routing.one_task(task, rows.device)
    mask = torch.ones_like(rows)
    logits: Tensor = model.backbone(input_ids=rows, attention_mask=mask, use_cache=False).logits
    return logits


_README = """\
# {base}, trained with `{method}`

The merged model, as Transformers saves it, and in `contexts/` each task's context: its instruction
and solved rows. The model was trained with them, so put a task's text in front of each of its rows:

```python
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
model = AutoModelForCausalLM.from_pretrained("FOLDER")
context = Path("FOLDER/contexts/{first}.txt").read_text(encoding="utf-8")
prompt = context + "the row's prompt"
```

`contexts/{first}.json` has the text's token ids, and the Jinja template of the row's prompt. An
answer follows its prompt after a space. The text is the same for all rows of a task, so an engine
that caches prefixes (vLLM, SGLang, llama.cpp) computes it once.

Tasks: {tasks}.
"""
