"""The prefix as a trainable part, with the network that computes it."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from peml.data.batch import TaskBatch
from peml.errors import ModelError, TrainingError
from peml.injection.inject import PrefixInjection, attach_prefix
from peml.injection.quiet import measure_start
from peml.injection.rows import read_rows
from peml.methods.base import AttachContext, ParameterGroup, Part
from peml.methods.prefix.settings import FixedPrefixSettings
from peml.models import TaskModel
from peml.prefix.flat import FlatPrefix
from peml.prefix.network import PrefixNetwork
from peml.prefix.prefix import OnContext, Prefix, PrefixStart
from peml.prefix.settings import PrefixBaseSettings
from peml.prefix.supernet import PrefixSupernet

if TYPE_CHECKING:
    from peml.methods.prefix.search import PrefixSearch

Network = PrefixSupernet | PrefixNetwork | FlatPrefix
"""Computes a prefix."""


class PrefixPart(nn.Module, Part):
    """Computes the prefix once per forward pass and passes it to the attention layers.

    `network` is the supernet during a search, then the chosen network; or a flat prefix. The
    learning rates are the defaults of the groups `prefix` and `architecture`.

    Attributes:
        search: The search, which computes the prefix until it ends.
    """

    name = "prefix"

    def __init__(
        self,
        injection: PrefixInjection,
        network: Network,
        settings: PrefixBaseSettings,
        *,
        learning_rate: float,
        architecture_learning_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.injection = injection
        self.network = network
        self.search: PrefixSearch | None = None
        self._settings = settings
        self._learning_rate = learning_rate
        self._architecture_learning_rate = architecture_learning_rate

    def yielded(self, *on: OnContext) -> Prefix:
        """The prefix with the current weights, or the network's output on a context."""
        prefix: Prefix = self.network(*on) if self.search is None else self.search.prefix(*on)
        return prefix

    def prepare(self, batch: TaskBatch | None = None) -> None:
        prefix = self.yielded()
        if self.training and self._settings.dropout:
            prefix = prefix.without_some(self._settings.dropout)
        self.injection.set(prefix)

    def after_step(self, step: int) -> None:
        """Checks the decisions on a CPU; on a GPU, reading them would make the GPU wait."""
        if next(self.network.parameters()).device.type == "cpu":
            self.check_decisions(step)

    def check_decisions(self, step: int) -> None:
        """Raises a TrainingError if a logit of a decision is NaN or infinite."""
        if not isinstance(self.network, PrefixSupernet) or not self.network.decisions:
            return
        logits = torch.cat([decision.logits for decision in self.network.decisions.values()])
        if bool(logits.isfinite().all()):
            return
        names = [n for n, d in self.network.decisions.items() if not d.logits.isfinite().all()]
        raise TrainingError(
            f"the search diverged at step {step + 1}: these decisions are no longer numbers: "
            f"{', '.join(names)}",
            allowed="finite logits",
            action="lower training.learning_rates.architecture in a new run folder; the last "
            "checkpoint of this run is untouched",
        )

    def groups(self) -> list[ParameterGroup]:
        """The group `prefix`, and `architecture` while there are decisions."""
        if not isinstance(self.network, PrefixSupernet):
            return [self._group("prefix", list(self.network.parameters()))]
        # Neither weight decay nor a falling rate: the temperature's schedule already anneals the
        # decisions.
        architecture = ParameterGroup(
            "architecture",
            self.network.architecture_parameters(),
            self._architecture_learning_rate,
            {"weight_decay": 0.0, "betas": (0.5, 0.999), "constant_rate": True},
        )
        return [self._group("prefix", self.network.weight_parameters()), architecture]

    def _group(self, name: str, parameters: list[nn.Parameter]) -> ParameterGroup:
        return ParameterGroup(name, parameters, self._learning_rate, self._settings.group_options())

    def disabled(self) -> AbstractContextManager[None]:
        return self.injection.disabled()

    def static_prefix(self) -> Prefix | None:
        with torch.no_grad():
            return self.yielded().detached()


def build_network(
    model: TaskModel,
    injection: PrefixInjection,
    settings: PrefixBaseSettings,
    length: int,
    context: AttachContext,
    make: Callable[[PrefixStart], Network],
) -> Network:
    """Creates the network with its initial values, on the model's device, with the run's seed.

    `make` makes it for a start. `length` is the number of positions, of the longest candidate if it
    is searched.

    Raises:
        ModelError: The start's text has fewer tokens than the prefix has positions.
    """
    start = measure_start(injection, context.calibrate, quietness=settings.quietness, radius=1.0)
    if settings.start == "text":
        start = start.at(_text_rows(model, injection, _tokens(model, settings, length)))
    with torch.random.fork_rng():
        torch.manual_seed(context.seed)
        return make(start).to(model.device)


def _tokens(model: TaskModel, settings: PrefixBaseSettings, length: int) -> Tensor:
    """The text's first tokens, (1, length)."""
    tokens = torch.tensor([model.family.tokenizer(settings.text, verbose=False)["input_ids"]])
    if tokens.shape[1] < length:
        raise ModelError(
            f"the text of the prefix has {tokens.shape[1]} tokens, the prefix up to {length} "
            "positions",
            allowed=f"a text of {length} tokens or more",
            action="write a longer text, or lower the prefix's length",
        )
    return tokens[:, :length].to(model.device)


def _text_rows(model: TaskModel, injection: PrefixInjection, tokens: Tensor) -> Tensor:
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    if model.backbone.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = tokens

    def run() -> None:
        model.eval()
        model.backbone(**inputs)

    return read_rows(injection, run).float().cpu()


def attach_fixed(
    model: TaskModel,
    settings: FixedPrefixSettings,
    context: AttachContext,
    learning_rate: float | None,
) -> PrefixPart:
    """A prefix that is not searched; ``learning_rate`` None: the default of its network."""
    rate = settings.rates[settings.network] if learning_rate is None else learning_rate
    injection = attach_prefix(model.backbone)
    length = settings.length
    make: Callable[[PrefixStart], Network]
    if settings.network == "mlp":
        genotype = settings.genotype(injection.shape)
        make = partial(PrefixNetwork, genotype, injection.shape)
    else:
        radius = settings.radius if settings.bounded else None
        make = partial(FlatPrefix, length=length, radius=radius)
    network = build_network(model, injection, settings, length, context, make)
    return PrefixPart(injection, network, settings, learning_rate=rate)
