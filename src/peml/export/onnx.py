"""A trained encoder as one ONNX file: backbone, prefix and all heads.

::

    OUT/
      model.onnx                  inputs and outputs named below, batch and sequence of any size
      tokenizer.json, ...         the tokenizer
      tasks.json                  the columns of each task's scores, and what they mean
      README.md                   how to run it
      manifest.json               checksum of every file

``onnx-int8`` writes the same with weights in 8 bits (onnxruntime's dynamic quantisation).
"""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.onnx import OnnxExporterError

from peml.data import TaskBatch
from peml.errors import RunError
from peml.export.format import ExportFormat
from peml.export.fresh import FreshProcess, refusal
from peml.export.native import load_saved
from peml.export.readme import write_readme
from peml.export.source import USE_NATIVE, refuse_task
from peml.files import write_json
from peml.models import TaskModel
from peml.models.families import EncoderFamily
from peml.models.heads import TaskHeads
from peml.tasks import Task

_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_TOLERANCE = 1e-4  # of 1 + the logit, in float32
_SHAPES = ((3, 24), (1, 1))  # rows and tokens; of the first, the last row is padded
_LARGE = 2**31 - 2**24  # bytes: a protobuf file holds no more, so weights go beside it


class OnnxExport(ExportFormat):
    """The merged encoder with its prefix and heads, for onnxruntime and other ONNX tools."""

    name: ClassVar[str] = "onnx"
    reader: ClassVar[str | None] = "onnx"
    _wanted: list[tuple[dict[str, Tensor], Tensor]]

    def place(self, task: str) -> str:
        """The task's name, which identifies its columns."""
        return task

    def check(self) -> None:
        """Refuses a model that is not an encoder, or isn't merged once; and missing packages."""
        name, family = self.saved.method_name, self.saved.description.model.family
        merging = self.saved.method().merging
        problem, action = "", USE_NATIVE
        if family != "encoder":
            problem = f"the model is of the family {family!r}, which has no heads to be computed"
            action = "use --format transformers for decoders"
        elif merging.how in ("never", "per task"):
            problem = f"the method {name!r} can't be merged into one model: {merging.reason}"
            action = "use --format lora" if merging.how == "per task" else USE_NATIVE
        if problem:
            raise RunError(problem, allowed="encoders whose method merges once", action=action)
        refuse_task(self.task, self.name)
        missing = [p for p in ("onnx", "onnxruntime", "onnxscript") if find_spec(p) is None]
        if missing:
            raise RunError(
                f"{', '.join(missing)} not installed",
                allowed="the packages that write and run ONNX files",
                action="pip install 'peml[onnx]'",
            )

    def write(self, folder: Path) -> Sequence[str]:
        """Writes the graph, the tokenizer and the meaning of the columns."""
        model = load_saved(self.saved, trust_remote_code=self.trust_remote_code)
        graph = _Graph(model).float().eval()
        vocabulary = model.backbone.get_input_embeddings().num_embeddings
        given = [graph.inputs(*shape, vocabulary) for shape in _SHAPES]
        write_graph(graph, given[0], folder / "model.onnx")
        model.family.tokenizer.save_pretrained(folder)
        write_json(folder / "tasks.json", _columns(model))
        write_readme(
            folder,
            "onnx",
            self.saved,
            model,
            prefix="prefix.safetensors" in self.saved.files,
            pair=len(_segments(model.tasks[0])) > 1,
            tasks=model.tasks,
        )
        with torch.no_grad():
            self._wanted = [(each, graph(*each.values())) for each in given]
        return ["."]

    def verify(self, folder: Path) -> str:
        """Compares logits of random tokens in onnxruntime, in a process without PEML."""
        difference = self.difference(folder)
        if not difference <= _TOLERANCE:
            share = f"{difference:.2g} of 1 + the logit, and {_TOLERANCE:g} is allowed"
            raise refusal(f"the exported model differs from the run's: logits differ by {share}")
        return (
            f"in onnxruntime, in a process without PEML, logits of random tokens differed from "
            f"those of the run's model by at most {difference:.1e} of 1 + the logit (float32)."
        )

    def difference(self, folder: Path) -> float:
        """The largest difference of logits, relative to 1 + the logit."""
        largest = torch.zeros(())
        with FreshProcess("onnx", folder, trust_remote_code=False) as other:
            for inputs, logits in self._wanted:
                found = other.ask("logits", "", **inputs)
                largest = largest.maximum(((found - logits).abs() / (1 + logits.abs())).max())
        return float(largest)


class OnnxInt8Export(OnnxExport):
    """Like `OnnxExport`, with weights in 8 bits: smaller and faster, with slightly other scores."""

    name: ClassVar[str] = "onnx-int8"
    exact: ClassVar[bool] = False

    def write(self, folder: Path) -> Sequence[str]:
        """Quantises the graph of the exact format."""
        from onnxruntime.quantization import QuantType, quantize_dynamic

        folders = super().write(folder)
        exact, small = folder / "model.onnx", folder / "int8.onnx"
        quantize_dynamic(exact, small, weight_type=QuantType.QInt8)
        for file in folder.glob("model.onnx*"):
            file.unlink()
        small.rename(exact)
        return folders

    def verify(self, folder: Path) -> str:
        """States the largest difference of the logits of random tokens from the run's."""
        difference = self.difference(folder)
        if not difference < torch.inf:
            raise refusal("the quantised model's logits are no numbers")
        return (
            f"weights in 8 bits change logits of random tokens by up to {difference:.1e} of 1 + "
            "the logit (in onnxruntime, in a process without PEML)."
        )


class _Graph(nn.Module):
    """Computes the logits of all heads, (sequences, columns)."""

    def __init__(self, model: TaskModel) -> None:
        super().__init__()
        self.backbone: nn.Module = model.backbone
        self.heads = cast(TaskHeads, model.heads)
        self._model = [model]
        segments = "token_type_ids" in model.family.tokenizer.model_input_names
        self.names = _INPUTS if segments else _INPUTS[:2]  # in their order

    def forward(self, *inputs: Tensor) -> Tensor:
        named = dict(zip(self.names, inputs, strict=True))
        (model,) = self._model
        ids = named["input_ids"]
        nothing = ids[:0, 0]  # only the loss needs it
        batch = TaskBatch(
            input_ids=ids,
            attention_mask=named["attention_mask"],
            token_type_ids=named.get("token_type_ids"),
            targets=nothing,
            task_ids=nothing,
            groups=nothing,
            rows=nothing,
        )
        family = cast(EncoderFamily, model.family)
        return family.logits(self.backbone, self.heads, batch, model.prompt.vectors)

    def inputs(self, rows: int, length: int, vocabulary: int) -> dict[str, Tensor]:
        """Random tokens; the last of several rows is padded."""
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(vocabulary, (rows, length), generator=generator)
        mask = torch.ones_like(ids)
        mask[1:][-1:, length // 2 :] = 0
        return dict(zip(self.names, (ids, mask, torch.zeros_like(ids)), strict=False))


@contextmanager
def _without_torchvision() -> Iterator[None]:
    """Leaves out the exporter's lines that torchvision, which no text model needs, is missing."""
    log = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def write_graph(graph: nn.Module, inputs: Mapping[str, Tensor], file: Path) -> None:
    """Writes a module as an ONNX file whose inputs (rows, length) may have any size.

    Raises:
        RunError: torch can't write it for all sizes.
    """
    size = sum(p.numel() * p.element_size() for p in graph.parameters())
    with torch.no_grad(), warnings.catch_warnings(), _without_torchvision():
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                graph,
                tuple(inputs.values()),
                file,
                input_names=list(inputs),
                output_names=["logits"],
                dynamo=True,
                dynamic_shapes=(({0: "batch", 1: "sequence"},) * len(inputs),),
                external_data=size > _LARGE,
                verbose=False,
            )
        except OnnxExporterError as error:
            reason = str(error.__cause__ or error).strip().partition("\n")[0]
            raise RunError(
                f"torch can't write this model as an ONNX file for rows of any size: {reason}",
                allowed="models whose computation doesn't change with the length of a row",
                action=USE_NATIVE,
            ) from error


def _segments(task: Task) -> Sequence[str]:
    """The Jinja templates of the texts of a row that the encoder reads."""
    own = task.segments or [f"{{{{ {name} }}}}" for name in task.columns.inputs]
    return [" ".join(own), "{{ option }}"] if task.type.has_own_options else own


def _columns(model: TaskModel) -> dict[str, Any]:
    """The content of ``tasks.json``: each task's columns, and the meaning of its scores."""
    heads, start = cast(TaskHeads, model.heads), 0
    tasks = {}
    for task, size in zip(model.tasks, heads.sizes, strict=True):
        scale = None if task.scale is None else {"low": task.scale.low, "high": task.scale.high}
        tasks[task.name] = {
            "columns": [start, start + size],
            "type": str(task.type),
            "labels": list(task.labels),
            "scale": scale,
            "segments": list(_segments(task)),
        }
        start += size
    return {"max_length": model.family.max_length, "tasks": tasks}
