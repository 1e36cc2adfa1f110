"""What a command costs before its work begins, in processor seconds.

Each command runs in a process of its own, in turn with its peers, and the least of the rounds
counts: other processes on the machine can only add to it.

    python benchmarks/startup.py [--rounds N] [--json FILE]
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from common import Figure, at_most, benchmark_parser, report

PEER = ("-c", "import transformers, peft")
MODEL = """
import sys
from transformers import AutoModel, AutoTokenizer
from peml.models.embedded import embedded_model
folder = embedded_model("minilm")
rows = AutoTokenizer.from_pretrained(folder)("My refund is late.", return_tensors="pt")
AutoModel.from_pretrained(folder)(**rows)
"""


def spend(*words: str, folder: Path) -> float:
    """Processor seconds of a Python process and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(rounds: int, folder: Path) -> list[Figure]:
    """Seconds of each command, and their ratio to a peer's."""
    peml = ("-m", "peml")
    spend(*peml, "init", folder=folder)
    spend(*peml, "fit", "config.yaml", folder=folder)
    row = folder / "row.jsonl"
    row.write_text('{"text": "My refund is late."}\n', encoding="utf-8")
    answer = ("--task", "tickets", "--input", str(row), "--output", "answers.jsonl")
    commands = {
        "peml --help": ((*peml, "--help"), 0.4),
        "peml tasks list": ((*peml, "tasks", "list"), 0.6),
        "peml config schema": ((*peml, "config", "schema"), 1.0),
        "peml predict, one row, MiniLM": ((*peml, "predict", "run", *answer), 4.5),
    }
    peers = {
        "import transformers, peft": PEER,
        "Transformers alone, one row, MiniLM": ("-c", MODEL),
    }
    least: dict[str, float] = {}
    for _ in range(rounds):
        for name, words in {**peers, **{n: w for n, (w, _) in commands.items()}}.items():
            least[name] = min(least.get(name, float("inf")), spend(*words, folder=folder))
    figures = [
        at_most(f"{name}: CPU seconds", least[name], "s", target)
        for name, (_, target) in commands.items()
    ]
    alone = "Transformers alone, one row, MiniLM"
    figures.append(Figure(f"{alone}: CPU seconds", least[alone], "s"))
    ratio = least["peml predict, one row, MiniLM"] / least[alone]
    figures.append(at_most("peml predict / Transformers alone, one row", ratio, "ratio", 1.3))
    ratio = least["peml --help"] / least["import transformers, peft"]
    figures.append(at_most("peml --help / import transformers, peft", ratio, "ratio", 0.1))
    return figures


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table and writes the figures."""
    parser = benchmark_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="times that each command runs")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(arguments.rounds, Path(folder))
    report("Start-up", figures, arguments)


if __name__ == "__main__":
    main()
