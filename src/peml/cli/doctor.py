"""``peml doctor MODEL``: what will work with this model and these versions, and why not."""

from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from peml.cli.options import TrustOption
from peml.terminal import open_console


def doctor(
    model: Annotated[str, typer.Argument(help="Hub id, local folder, 'minilm' or 'smollm2'.")],
    trust_remote_code: TrustOption = False,
) -> None:
    """Check what works with a model: prefix, LoRA merging, checkpointing, export to PEFT.

    The exit code is 1 if the model can't take a prefix.
    """
    from peml.cli.diagnosis import Finding, diagnose, load_for_diagnosis

    backbone, attention = load_for_diagnosis(model, trust_remote_code=trust_remote_code)
    findings = [
        Finding("model", model),
        Finding("family", backbone.family.name),
        attention,
        *diagnose(backbone.model),
    ]
    table = Table(show_header=False, box=None, pad_edge=False)
    marks = {"yes": Text("yes", style="green"), "no": Text("no", style="red"), "info": Text()}
    for finding in findings:
        table.add_row(finding.name, marks[finding.status], finding.value, finding.reason)
    open_console().print(table)
    if any(finding.name == "prefix" and finding.status == "no" for finding in findings):
        raise typer.Exit(code=1)
