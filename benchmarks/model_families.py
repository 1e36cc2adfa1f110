"""Which model architectures PEML works with, tried on a small random model of each.

Every text architecture of the installed Transformers is built at small sizes, saved, and loaded as
a run loads it. Then:

* its losses and options' log-likelihoods, in batches, are compared with one forward pass per row;
* methods are attached and put through checks of their conformance suite (`peml.testing`): rows of
  several tasks in one batch, generation against one token at a time, switched off, and merged.

    python benchmarks/model_families.py [NAME ...] [--page docs/models.md]

The page has a row per architecture. A model that is refused has the reason there.
"""

from __future__ import annotations

import argparse
import logging
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
import transformers
from shrink import shrink
from transformers import PreTrainedModel
from transformers.models.auto import modeling_auto
from transformers.utils import logging as hf_logging

from peml.errors import PemlError
from peml.methods.base import MethodSettings
from peml.methods.registry import build_method, parse_method
from peml.models import ModelSettings, TaskModel, load_backbone
from peml.models.padding import refuse_left_padding
from peml.models.reading import detect_family, load_family
from peml.testing.methods import MethodSuite
from peml.testing.models import Kind, tiny_tokenizer
from peml.testing.tasks import TINY_ROWS, TINY_TASKS, batch_of, tasks_with_contexts

CLASSES: Mapping[Kind, Mapping[str, str]] = {
    "causal": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "encoder": modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    "seq2seq": modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
}
TITLES: Mapping[Kind, str] = {
    "causal": "Decoders",
    "encoder": "Encoders",
    "seq2seq": "Encoder-decoders",
}
METHODS: Mapping[str, Mapping[str, Any]] = {
    "LoRA": {"name": "lora", "r": 2, "dropout": 0.0},
    "prefix": {"name": "lora+prefix", "lora": {"r": 2, "dropout": 0.0}},
    "context": {
        "name": "lora+context",
        "lora": {"r": 2, "dropout": 0.0},
        "context": {"shots": 1},
    },
}
CHECKS: Mapping[str, str] = {
    "mixed batch": "test_a_mixed_batch_equals_a_batch_a_task",
    "generation": "test_generation_equals_teacher_forcing",
    "switched off": "test_switched_off_it_is_the_plain_model",
    "merged": "test_merged_equals_unmerged",
}
TOLERANCE = 1e-4
_CLASS = re.compile(
    r"'?(?:\b\w+(?:ForCausalLM|ForConditionalGeneration|HeadModel|Model)\b|/tmp/\S+)'?"
)
_AMOUNT = re.compile(r": in a test, logits differ by \S+ of the largest")

PAGE = """# Model architectures that were tried

A small random model of every text architecture in Transformers {version} was built, saved, loaded
as a run loads it, and checked by `python benchmarks/model_families.py --page docs/models.md`.
{count} architectures could be built at small sizes. This says that PEML computes the right thing
with them, not how well they learn. `peml doctor MODEL` looks at the model that you have.

* **Rows alone and in a batch**: the largest difference of a row's loss in a padded batch from the
  row by itself, in nats. In bold: the model itself reads the padding, so its scores depend on the
  batch.
* **LoRA**, **prefix** (`lora+prefix`), **context** (`lora+context`): yes, if rows of several tasks
  in one batch, generation with a cache, the method switched off, and the merged model all give what
  they should, to 1e-4. A number points to the reason why a method is refused. "No texts": rows of
  a batch are padded on the left for generation, and this model counts the padding as positions, so
  tasks that generate texts are refused.

"Differs: mixed batch" is of the models in bold. Nemotron-H's "generation" is a near tie: two
tokens' logits are 0.0008 apart, and the model's own logits with its cache are 0.0017 from those
without. FSMT takes the start token for padding where both are the same token, as in this test.
TAPAS reads tables.
"""


@dataclass
class Row:
    """What was found out about an architecture.

    Attributes:
        model: Transformers' name of it.
        difference: Largest difference of a row's loss in a batch from the row alone.
        said: By method: yes, or why not.
    """

    model: str
    difference: float = float("nan")
    said: dict[str, str] = field(default_factory=dict)


class Suite(MethodSuite):
    """The conformance suite on the model of a folder."""

    folder: ClassVar[Path]

    def plain(self, family: str) -> TaskModel:
        """The model as a run loads it."""
        return load(self.folder, contexts=self.method().context is not None)


def load(folder: Path, *, contexts: bool = False) -> TaskModel:
    """The folder's model with the suite's tasks."""
    settings = ModelSettings(name=str(folder), dtype="float32", max_length=64)
    backbone = load_backbone(settings, load_family(settings))
    for module in backbone.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return TaskModel(backbone, tasks_with_contexts() if contexts else TINY_TASKS, seed=0)


@torch.no_grad()
def difference(model: TaskModel) -> float:
    """Of the losses of rows in one padded batch from those of each row alone, at most."""
    together = model.eval()(batch_of(model)).losses
    alone = torch.cat([model(batch_of(model, [row])).losses for row in TINY_ROWS])
    return float((together - alone).abs().max())


def follows_the_mask(model: TaskModel) -> bool:
    """Whether generation is the same with padding in front of a row; true where none is made."""
    if any(kind.generates for kind in model.family.task_types):
        try:
            refuse_left_padding(model.backbone, model.family.tokenizer)
        except PemlError:
            return False
    return True


def check(made: Suite, name: str, *, generates: bool) -> str:
    """``yes``, or why the method can't be used, or the checks that fail."""
    failed = []
    for label, test in CHECKS.items():
        if label == "generation" and not generates:
            continue
        try:
            getattr(made, test)(name)
        except PemlError as error:
            return error.problem
        except (AssertionError, RuntimeError, ValueError, TypeError, IndexError) as error:
            logging.getLogger(__name__).info("%s, %s: %s", name, label, error)
            failed.append(label)
    if failed:
        return f"**differs**: {', '.join(failed)}"
    return "yes" if generates else "yes, no texts"


def suite_of(settings: MethodSettings, folder: Path) -> Suite:
    """The suite of a method on a folder's model."""
    made: Suite = type("Made", (Suite,), {"settings": settings, "folder": folder})()
    return made


def try_out(model: str, built: PreTrainedModel, kind: Kind, folder: Path) -> Row | None:
    """Everything about one architecture; None if PEML would read it as one of another kind."""
    if detect_family(built.config) != kind:
        return None
    built.generation_config = transformers.GenerationConfig()
    built.save_pretrained(folder)
    tiny_tokenizer(kind).save_pretrained(folder)
    row = Row(model)
    try:
        loaded = load(folder)
        row.difference = difference(loaded)
    except PemlError as error:
        row.said = dict.fromkeys(METHODS, error.problem)
        return row
    except (AttributeError, TypeError, RuntimeError, IndexError, ValueError) as error:
        row.said = dict.fromkeys(METHODS, f"**stops**: {error}")
        return row
    generates = follows_the_mask(loaded)
    for label, section in METHODS.items():
        settings = parse_method(section)
        if build_method(settings).context is not None and not loaded.family.holds_contexts:
            row.said[label] = "encoder-decoders hold no contexts"
        else:
            made = suite_of(settings, folder)
            row.said[label] = check(made, model, generates=generates)
    return row


def rows_of(kind: Kind, only: Sequence[str], left_out: list[str]) -> Iterator[Row]:
    """The architectures of a kind, as they are done."""
    for model, names in sorted(CLASSES[kind].items()):
        if only and model not in only:
            continue
        folder = Path(tempfile.mkdtemp())
        try:
            class_name = names if isinstance(names, str) else names[0]
            try:
                built = shrink(model, class_name)
            except ValueError as error:
                left_out.append(model)
                logging.getLogger(__name__).info("%s is left out: %s", model, error)
                continue
            row = try_out(model, built, kind, folder)
            if row is not None:
                yield row
        finally:
            shutil.rmtree(folder)


def table(rows: Sequence[Row]) -> str:
    """A Markdown table; the same reason of several architectures is written once, below it."""
    reasons: list[str] = []
    lines = [f"| model type | rows alone and in a batch | {' | '.join(METHODS)} |"]
    lines.append(f"|---|--:|{'---|' * len(METHODS)}")
    for row in rows:
        cells = []
        for said in row.said.values():
            if not said.startswith("yes") and "**" not in said:
                reason = said.partition("can't take a prefix: ")[2] or said
                reason = _AMOUNT.sub("", _CLASS.sub("the model", reason)).partition(" <class")[0]
                reasons += [reason] if reason not in reasons else []
                said = f"no ({reasons.index(reason) + 1})"
            cells.append(said)
        near = "-" if row.difference != row.difference else f"{row.difference:.0e}"
        bold = f"**{near}**" if row.difference > TOLERANCE else near
        lines.append(f"| `{row.model}` | {bold} | {' | '.join(cells)} |")
    lines += ["", *(f"{number}. {reason}" for number, reason in enumerate(reasons, 1)), ""]
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> None:
    """Tries the architectures and prints or writes the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="architectures; default: all")
    parser.add_argument("--page", type=Path, help="write the page there")
    parser.add_argument("--verbose", action="store_true", help="say what a failed check said")
    arguments = parser.parse_args(words)
    logging.basicConfig(
        level=logging.INFO if arguments.verbose else logging.ERROR, format="%(message)s"
    )
    hf_logging.set_verbosity(hf_logging.CRITICAL)
    hf_logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    sections, tried, left_out = [], 0, list[str]()
    for kind, title in TITLES.items():
        rows: list[Row] = []
        for row in rows_of(kind, arguments.names, left_out):
            rows.append(row)
            print(row.model, f"{row.difference:.1e}", row.said, flush=True)
        tried += len(rows)
        sections.append(f"## {title}\n\n{table(rows)}")
    page = PAGE.format(version=transformers.__version__, count=tried)
    names = ", ".join(f"`{name}`" for name in left_out) or "none"
    text = "\n".join([page, *sections, f"## Not built\n\nAt these sizes: {names}.\n"])
    if arguments.page is None:
        print(text)
    else:
        arguments.page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
