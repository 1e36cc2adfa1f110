"""Memory, FLOPs and hours of a run, from its config: no weights are loaded."""

import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor

from peml.config.model import RunConfig
from peml.data import TaskBatch
from peml.errors import ConfigError
from peml.estimation.depth import count_few_layers
from peml.estimation.devices import Device
from peml.estimation.quantized import pack
from peml.estimation.record import Estimate, Memory
from peml.estimation.tracker import Tracker, emptied_batch, without_values
from peml.estimation.workload import Scoring, Workload, assume_workload, read_workload
from peml.injection.packing import enable_packing
from peml.injection.probe import probe_decoder_side
from peml.injection.support import check_support
from peml.injection.training import fast_attention
from peml.methods.attached import AttachedModel
from peml.methods.base import AttachContext
from peml.methods.registry import build_method
from peml.methods.shape import read_shape
from peml.models import TaskModel
from peml.models.limits import PASS_LIMITS
from peml.models.loading import count_layers, empty_backbone
from peml.run.precision import precision_of
from peml.training.balancing import build_balancing
from peml.training.optimizer import build_optimizer


def estimate(
    config: RunConfig,
    device: Device,
    *,
    share: float = 0.4,
    rows: int | None = None,
    length: int | None = None,
) -> Estimate:
    """Estimates memory, FLOPs and hours of a run on a device.

    The method is attached to a model built from its config, and a training step and evaluation
    batches are run on tensors without values, while bytes and FLOPs are counted.

    `share` is the share of the device's peak that is reached. `rows` and `length` are the train
    rows of all tasks together and their mean tokens; without them, the config's rows are read.

    Raises:
        PemlError: The config can't be run.
    """
    if (rows is None) != (length is None):
        raise ConfigError(
            "only one of rows and length is given",
            allowed="both, for an estimate without data, or none",
            action="give the other as well: --rows and --length",
        )
    precision = None
    if device.kind == "gpu" and config.training.precision == "auto":
        reason = f"{device.title} has bf16"
        precision = precision_of(config, build_method(config.method), "bf16", reason)
    with _as_on(device):
        if rows is None or length is None:
            workload = read_workload(config, precision)
        else:
            workload = assume_workload(config, rows, length, precision)

    def count(few: int | None = None) -> Estimate:
        passes = _Passes(workload, device, few)
        passes.run()
        return passes.estimate(share)

    layers = 0 if workload.method.trains_backbone else count_layers(workload.config.model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about missing values
        return count_few_layers(layers, count) or count()


class _Passes:
    """Runs the passes, and stores the bytes and FLOPs that were counted."""

    def __init__(self, workload: Workload, device: Device, layers: int | None = None) -> None:
        self.workload = workload
        self.device = device
        self.layers = layers
        self.training: Memory | None = None
        self.evaluation: Memory | None = None
        self.flops: dict[str, float] = {}
        self.scored: list[float] = []
        """FLOPs per token of each scoring."""

    def run(self) -> None:
        """Attaches the method and tracks a training step and a batch of each scoring."""
        work = self.workload
        with _as_on(self.device), without_values() as tracker:
            backbone = empty_backbone(work.config.model, work.family, self.layers)
            pack(backbone.model, work.precision.quantization)
            tracker.vocabulary = backbone.model.config.get_text_config().vocab_size
            if work.config.batches.packing:
                enable_packing(backbone.model, work.family.max_length + work.method.prompt_length)
            model = TaskModel(backbone, work.tasks, seed=work.config.seed)
            self.shape = read_shape(model)
            self.cache = _bytes_per_token(model)
            self.model = self._attach(model)
            if work.batch is not None and self.model.groups():
                with self._attention():
                    self._train(tracker)
            for scoring in work.scorings:
                self._score(scoring, tracker)

    def _attach(self, model: TaskModel) -> AttachedModel:
        work = self.workload
        sample = work.batch

        def calibrate() -> None:
            assert sample is not None
            model.eval()
            model(replace(emptied_batch(sample), packed=None))

        context = AttachContext(
            seed=work.config.seed,
            calibrate=calibrate,
            total_steps=work.steps.total,
            solved=work.solved,
        )
        return work.method.attach(model, context)

    def _attention(self) -> AbstractContextManager[None]:
        """The attention that a run trains with on this device."""
        if self.device.kind != "cpu" or self.workload.config.training.compile:
            return nullcontext()
        return fast_attention(self.model.base.backbone, tested=False)

    def _train(self, tracker: Tracker) -> None:
        """The largest training batch, forward and backward."""
        work, model = self.workload, self.model
        assert work.batch is not None
        batch = emptied_batch(work.batch)
        settings = work.config.training
        names = [task.name for task in work.tasks]
        balancing = build_balancing(settings.balancing, names, work.config.seed)
        build_optimizer([*model.groups(), *balancing.groups()], settings)  # refuses wrong rates
        parameters = [p for group in model.groups() for p in group.parameters]
        scale = work.tokens / settings.accumulation / work.batch.input_ids.numel()
        search_flops = 0.0
        if model.search is not None and work.steps.search:
            model.search.begin(work.steps.search, _HeldOut(model, batch, self._autocast))
            tracker.restart()
            for step in _middle(work.steps.search):
                model.search.before_step(step)
            search_flops = scale * tracker.flops / len(_middle(work.steps.search))
        model.train()
        model.zero_grad(set_to_none=True)
        gc.collect(1)
        for _ in range(min(settings.accumulation, 2)):  # the second finds the first's gradients
            tracker.restart()
            with self._autocast():
                output = model(batch)
            share = 1 / settings.accumulation
            balancing.backward(output, batch, share, parameters, Tensor.backward)
            del output
        balancing.finish(parameters, 0, sorted(batch.known.task_rows))
        computed = settings.accumulation * scale * tracker.flops
        self.flops = {"search": computed + search_flops, "train": computed}
        gradients = sum(_size(p) for p in parameters)
        self.training = self._memory(tracker, gradients=gradients, optimizer=2 * gradients)
        model.zero_grad(set_to_none=True)

    @torch.no_grad()
    def _score(self, scoring: Scoring, tracker: Tracker) -> None:
        self.model.eval()
        gc.collect(1)
        tracker.restart()
        with self.model.prepared(), self._autocast():
            scoring.run(self.model)
        longest = 1 + scoring.rows * scoring.generated / scoring.tokens
        self.scored.append(longest * tracker.flops / scoring.tokens)
        inputs, targets = self.cache
        cache = scoring.rows * (scoring.length * inputs + scoring.generated * targets)
        memory = self._memory(tracker, cache=cache)
        if self.evaluation is None or memory.total > self.evaluation.total:
            self.evaluation = memory

    def _autocast(self) -> torch.autocast:
        return torch.autocast(
            "cpu", torch.bfloat16, enabled=self.workload.config.training.precision == "bf16"
        )

    def _memory(
        self, tracker: Tracker, gradients: int = 0, optimizer: int = 0, cache: int = 0
    ) -> Memory:
        """The parts of a pass's peak.

        The tracker's state is that right after the pass; `cache` are the bytes of keys and values
        after the longest text.
        """
        model = self.model
        trained = sum(_size(p) for group in model.groups() for p in group.parameters)
        held = sum(_size(each) for each in (*model.parameters(), *model.buffers()))
        rest = tracker.peak - held - tracker.peak_logits
        return Memory(
            weights=held - trained,
            trained=trained,
            gradients=min(gradients, rest),
            optimizer=optimizer,
            activations=max(0, rest - gradients - cache),
            logits=tracker.peak_logits,
            cache=cache,
        )

    def estimate(self, share: float) -> Estimate:
        """The estimate, if ``share`` of the device's peak is reached."""
        work, steps = self.workload, self.workload.steps
        run = {
            phase: (end - first) * self.flops[phase]
            for phase, (first, end) in steps.stretches().items()
            if self.flops
        }
        ablations = len(self.model.parts) * work.config.evaluation.ablations
        pairs = zip(self.scored, work.scorings, strict=True)
        run["evaluation"] = sum(
            each * (one.development + (1 + ablations) * one.reported) for each, one in pairs
        )
        peak = share * self.device.peak(work.precision.compute)
        groups = self.model.trainable_parameters()
        counts = work.method.count_parameters(self.shape)
        if "heads" in groups:
            counts["heads"] = groups["heads"]
        return Estimate(
            model=work.config.model.name,
            method=work.config.method.name,
            parameters=self.shape.parameters,
            trainable_parameters=counts,
            trainable_parameters_in_search=None if self.model.search is None else groups,
            precision=work.precision,
            basis=work.basis,
            batch=None if work.batch is None else list(work.batch.input_ids.shape),
            training=self.training,
            evaluation=self.evaluation,
            steps={"search": steps.search, "train": steps.train},
            step_flops=self.flops,
            flops=run,
            device=self.device.title,
            device_memory=self.device.memory,
            overhead=self.device.overhead,
            peak=self.device.peak(work.precision.compute),
            share=share,
            hours={phase: count / peak / 3600 for phase, count in run.items()},
        )


@contextmanager
def _as_on(device: Device) -> Iterator[None]:
    """Computes and holds as much at once on a CPU as on that kind of device."""
    before = PASS_LIMITS["cpu"]
    PASS_LIMITS["cpu"] = PASS_LIMITS[device.kind]
    try:
        yield
    finally:
        PASS_LIMITS["cpu"] = before


class _HeldOut:
    """Held-out rows of a search, without values."""

    def __init__(
        self, model: AttachedModel, batch: TaskBatch, autocast: Callable[[], torch.autocast]
    ) -> None:
        self._model, self._batch, self._autocast = model, batch, autocast

    def loss(self, draw: int) -> Tensor:
        """Loss of a batch of the size of the largest training batch."""
        self._model.train()
        with self._autocast():
            loss: Tensor = self._model(self._batch).loss
        return loss

    def measure(self, batches: int) -> float:
        """0: there are no values."""
        return 0.0


def _middle(steps: int) -> range:
    """Some steps in the middle of a search, in which the decisions move."""
    return range(steps // 2, min(steps, steps // 2 + 8))


def _size(value: Tensor) -> int:
    return value.numel() * value.element_size()


def _bytes_per_token(model: TaskModel) -> tuple[int, int]:
    """Bytes of the keys and values of a token that is read, and of one that is generated."""
    backbone = model.backbone
    size = backbone.dtype.itemsize
    found = check_support(backbone).sites
    sites = {site.name: size * site.kv_heads * (site.head_dim + site.value_dim) for site in found}
    if not backbone.config.is_encoder_decoder:
        return sum(sites.values()), sum(sites.values())
    kinds = {site.name: site.kind for site in found}
    decoder = probe_decoder_side(backbone, [n for n in sites if kinds[n] == "self"])
    cross = sum(size for name, size in sites.items() if kinds[name] == "cross")
    return cross, sum(sites[name] for name in decoder)
