"""Does what each run would do first; only the server that workers are forked from imports this.

Nothing here may start a thread or touch a GPU, which a fork would lose.
"""

import gc
from importlib import import_module

_LIBRARIES = (
    "datasets",
    "matplotlib.figure",
    "peft",
    "peml.cli",
    "peml.data.sources",
    "peml.execution.processes",
    "peml.export.native",
    "peml.methods.lora.adalora",
    "peml.methods.lora_prefix",
    "peml.methods.peml",
    "peml.methods.routed.part",
    "peml.reporting.run.report",
    "peml.run.pipeline",
    "sacrebleu.metrics",
    "scipy.stats",
    "sklearn.metrics",
    "transformers.models.auto.modeling_auto",
)

gc.disable()
try:
    for _name in _LIBRARIES:
        import_module(_name)
    import_module("peml.reporting.rendering").prepare("card.md.j2", "report.md.j2")
    # What these libraries set up when they are first called.
    import_module("transformers.conversion_mapping").get_checkpoint_conversion_mapping("bert")
    import_module("sklearn.metrics").f1_score([0, 1], [0, 1])
finally:
    gc.freeze()  # neither server nor workers search the libraries for garbage
    gc.enable()
