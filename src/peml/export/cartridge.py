"""A trained decoder as a plain Transformers model, its prefix or contexts as PEFT Cartridges.

::

    OUT/
      config.json, model.safetensors, tokenizer.json, ...   the merged model
      adapter/                     the prefix as a Cartridge, as PEFT saves it,
      TASK/                        or one Cartridge per task, of its context,
        context.txt, context.json  and the context's text, token ids, and the row's template
      README.md                    how to load the model
      manifest.json                checksum of every file

A Cartridge (arXiv 2506.06266) holds the keys and values themselves, as a cache does.
"""

from typing import Any, ClassVar

import peft

from peml.errors import RunError
from peml.export.decoder import Parts
from peml.export.peft import Adapter, PeftExport
from peml.export.source import USE_NATIVE
from peml.injection.inject import PrefixInjection, injection_of
from peml.injection.rotation import peft_prompt_embeddings
from peml.models import TaskModel
from peml.prefix.prefix import Prefix


class CartridgeExport(PeftExport):
    """The merged model, and a Cartridge for its prefix, or for each task's context."""

    name: ClassVar[str] = "cartridge"
    holds_contexts: ClassVar[bool] = True

    def place(self, task: str) -> str:
        """The task's Cartridge, or the one that all tasks share."""
        return task if self.has_contexts else super().place(task)

    def check(self) -> None:
        """Refuses a model that is not a merged decoder with a prefix or contexts."""
        super().check()
        problem, action = "", USE_NATIVE
        if not hasattr(peft, "CartridgeConfig"):
            problem = f"PEFT {peft.__version__} has no Cartridges"
            action = "install peft>=0.21"
        elif not self.has_contexts and "prefix.safetensors" not in self.saved.files:
            problem = f"the method {self.saved.method_name!r} trained no prefix and has no contexts"
            action = "use --format transformers, or --format peft"
        if problem:
            raise RunError(problem, allowed="models with a prefix or contexts", action=action)

    def parts(self, model: TaskModel) -> Parts:
        """The keys and values of the prefix, or of each task's context."""
        injection = injection_of(model.backbone)
        assert injection is not None
        if injection.prefix is not None:
            return {super().place(""): (0, _cartridge(injection, injection.prefix))}
        return {
            name: (number, _cartridge(injection, held))
            for name, (number, held) in self.contexts(model).items()
        }


def _cartridge(injection: PrefixInjection, prefix: Prefix) -> Adapter:
    config: Any = peft.CartridgeConfig
    return Adapter(config, peft_prompt_embeddings(injection, prefix), injection.shape)
