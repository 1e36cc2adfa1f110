"""The service under load: against switching LoRA adapters, beside the bare model, and for a minute.

    python benchmarks/serve.py throughput    # 64 clients, 8 tasks; the rival holds 8 LoRA adapters
    python benchmarks/serve.py throughput --model smollm2    # labels scored by likelihood
    python benchmarks/serve.py latency       # one request on an idle service, over a forward pass
    python benchmarks/serve.py texts --model smollm2    # texts that come while others are written
    python benchmarks/serve.py soak          # 200 clients; a tenth hangs up, is slow, sends rubbish

Both sides of `throughput` are this project's service with the same queue, rows and batches. The
rival's engine computes the rows of one task at a time, with that task's adapter of one PEFT model.
Weights are untrained: what is computed doesn't depend on them. Servers and clients are processes
of their own. Where other work takes the cores, `--clock cpu` counts a server's processor time (in
units of 10 ms, so `latency` needs `--block 20`). `--json FILE` keeps the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from common import (
    CLOCKS,
    Clock,
    Figure,
    at_least,
    at_most,
    plain_parser,
    ratio_of_medians,
    report,
)
from serve_clients import Client, load_for, request

from peml.cli.sparing import limit_kernels
from peml.data.batching import Collator
from peml.export import save_model
from peml.methods.base import AttachContext
from peml.methods.registry import build_method, parse_method
from peml.models import ModelSettings, TaskModel, load_backbone
from peml.serving import Predictor, load
from peml.serving.service.body import parse_object
from peml.serving.service.engine import Answer, Engine
from peml.serving.service.keys import Keys
from peml.serving.service.limits import Limits
from peml.serving.service.reading import RowReader
from peml.serving.service.server import bind, run_service
from peml.serving.service.work import AskedRow
from peml.tasks import Task, load_suite
from peml.tasks.generated import generate

NAMES = ("reviews", "topics", "grammar", "paraphrase", "entailment")
RANK = 8
SHORT, LONG = 8, 128
"""Tokens of texts."""


def eight_tasks() -> tuple[Task, ...]:
    """The demo's tasks with labels, which encoders and decoders answer; three of them twice."""
    tasks = {task.name: task for task in load_suite("demo").tasks}
    again = [tasks[name].model_copy(update={"name": f"{name}-again"}) for name in NAMES[:3]]
    return (*(tasks[name] for name in NAMES), *again)


def save(folder: Path, base: str, method: str) -> None:
    """Writes an untrained model as a run leaves it."""
    settings = parse_method({"name": method})
    model = TaskModel(load_backbone(ModelSettings(name=base, max_length=64)), eight_tasks())
    ids = torch.randint(5, 200, (8, 32), generator=torch.Generator().manual_seed(0))

    def calibrate() -> None:
        model.backbone(input_ids=ids, attention_mask=torch.ones_like(ids))

    context = AttachContext(seed=0, calibrate=calibrate, total_steps=9)
    save_model(build_method(settings).attach(model, context), folder, settings)


class SwitchingEngine(Engine):
    """One PEFT model with a LoRA adapter per task, switched for each task's rows."""

    def __init__(self, predictor: Any) -> None:
        from peft import LoraConfig, PeftModel

        super().__init__(predictor)
        self.packs = False
        names = [task.name for task in predictor.tasks]
        config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear")
        self.model = PeftModel(predictor.base.backbone, config, adapter_name=names[0])
        for name in names[1:]:
            self.model.add_adapter(name, config)
        self.model.eval()

    def _score(self, rows: Sequence[AskedRow]) -> list[Answer]:
        answers: dict[int, Answer] = {}
        for task_id in sorted({row.task_id for row in rows}):
            self.model.set_adapter(self.predictor.tasks[task_id].name)
            chosen = [row for row in rows if row.task_id == task_id]
            found = super()._score(chosen)
            answers |= {id(row): each for row, each in zip(chosen, found, strict=True)}
        return [answers[id(row)] for row in rows]


def serve(arguments: argparse.Namespace) -> None:
    """The process of a server."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    made, predictor = Engine, load(arguments.folder, "cpu", dtype=arguments.dtype)
    if arguments.side == "ours":
        predictor.prepack()  # as `peml serve` does
    else:
        made = SwitchingEngine
    with bind("127.0.0.1", 0) as at:
        run_service(
            predictor,
            at,
            name=arguments.side,
            limits=Limits(timeout=arguments.timeout),
            keys=Keys("benchmark-benchmark"),
            announce=lambda line: print(line.rpartition(":")[2], file=sys.stderr, flush=True),
            made=made,
        )


@contextmanager
def served(arguments: argparse.Namespace, folder: Path, side: str) -> Iterator[tuple[int, int]]:
    """A server's port and process id."""
    words = [__file__, "serve", str(folder), "--side", side, "--dtype", arguments.dtype]
    words += ["--threads", str(arguments.threads), "--timeout", str(arguments.timeout)]
    limit_kernels()  # as `peml serve` does
    with subprocess.Popen(
        [sys.executable, *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            line = ""
            while not line.strip().isdecimal():  # libraries may say something first
                line = process.stderr.readline()
                if not line:
                    raise RuntimeError(f"the server {side} ended: {process.wait()}")
            yield int(line), process.pid
        finally:
            process.terminate()


def clock_of(arguments: argparse.Namespace, process: int) -> Clock:
    """The wall's clock, or the processor time of a server, which other work leaves alone."""
    if arguments.clock == "wall":
        return time.perf_counter

    def spent() -> float:
        ticks = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(ticks[11]) + int(ticks[12])) / os.sysconf("SC_CLK_TCK")

    return spent


def bodies() -> list[bytes]:
    """One row each, the tasks in turn."""
    tasks = eight_tasks()
    made = []
    for number in range(64 * len(tasks)):
        task = tasks[number % len(tasks)]
        rows = generate("demo", task.name.removesuffix("-again"))["validation"]
        row = dict(rows[number // len(tasks) % len(rows)])
        del row[task.columns.label]
        made.append(json.dumps({"task": task.name, "rows": [row]}).encode())
    return made


def throughput(arguments: argparse.Namespace, folder: Path) -> list[Figure]:
    """Requests per second of both sides, in turn."""
    save(folder / "ours", arguments.model, "lora+prefix")
    save(folder / "plain", arguments.model, "frozen")
    rates: dict[str, list[float]] = {"ours": [], "rival": []}
    with (
        served(arguments, folder / "ours", "ours") as ours,
        served(arguments, folder / "plain", "rival") as rival,
    ):
        for turn in range(arguments.rounds + 1):
            for side, (port, process) in (("ours", ours), ("rival", rival)):
                clock = clock_of(arguments, process)
                # The first turn warms up, with a row of each task.
                seconds = arguments.seconds if turn else min(2.0, arguments.seconds)
                run = load_for(port, seconds, bodies(), arguments.clients if turn else 8)
                began = clock()
                latencies, statuses = asyncio.run(run)
                assert set(statuses) == {200}, statuses
                if turn:
                    rates[side].append(len(latencies) / (clock() - began))
    ratio = ratio_of_medians(rates["ours"], rates["rival"])
    return [
        Figure("PEML: requests/s", statistics.median(rates["ours"]), "1/s"),
        Figure("8 LoRA adapters: requests/s", statistics.median(rates["rival"]), "1/s"),
        at_least(f"ratio {ratio}", ratio.value, "", 2.0),
    ]


def latency(arguments: argparse.Namespace, folder: Path) -> list[Figure]:
    """One request after the other, in turn with forward passes of the same rows in this process."""
    save(folder / "ours", arguments.model, "lora+prefix")
    models = {"prepacked": load(folder / "ours", "cpu").prepack()}
    models["as evaluated"] = load(folder / "ours", "cpu")
    reader = RowReader(models["prepacked"], Limits())
    asked: list[float] = []
    bare: dict[str, list[float]] = {name: [] for name in models}
    sent = bodies()

    async def ask(client: Client, chosen: Sequence[bytes], clock: Clock) -> float:
        began = clock()
        for body in chosen:
            assert await client.ask(request(body)) == 200
        return clock() - began

    @torch.no_grad()
    def forward(model: Predictor, chosen: Sequence[bytes], clock: Clock) -> float:
        batches = [
            batch_of(model, reader.read(parse_object(body, ("task", "rows")))[0]) for body in chosen
        ]
        began = clock()
        for batch in batches:
            model(batch)
        return clock() - began

    async def measure(port: int, process: int) -> None:
        client = Client(port)
        for number in range(arguments.requests // arguments.block + 1):
            first = number * arguments.block
            chosen = [sent[place % len(sent)] for place in range(first, first + arguments.block)]
            spent = await ask(client, chosen, clock_of(arguments, process))
            alone = {
                name: forward(model, chosen, CLOCKS[arguments.clock])
                for name, model in models.items()
            }
            if number:  # the first one warms up
                asked.append(spent / arguments.block)
                for name, seconds in alone.items():
                    bare[name].append(seconds / arguments.block)
        client.close()

    with served(arguments, folder / "ours", "ours") as server:
        asyncio.run(measure(*server))
    figures = [Figure("a request", statistics.median(asked) * 1000, "ms")]
    for name, seconds in bare.items():
        ratio = ratio_of_medians(asked, seconds)
        figures += [
            Figure(f"a forward pass, {name}", statistics.median(seconds) * 1000, "ms"),
            at_most(f"ratio {ratio}", ratio.value, "", 1.15),
        ]
    return figures


def batch_of(model: Predictor, work: Any) -> Any:
    """A row as a batch."""
    columns = {name: [value] for name, value in work.row.columns.items()}
    collate = Collator(model.base.family.tokenizer.pad_token_id)
    return collate(columns, [work.task_id], torch.arange(1).numpy())


def texts(arguments: argparse.Namespace, folder: Path) -> list[Figure]:
    """A short text on an idle service, and while a long one is written; texts of many lengths."""
    save(folder / "ours", arguments.model, "lora+prefix")
    path = "/v1/completions"
    seconds: dict[str, list[float]] = {"alone": [], "beside": []}

    def sent(tokens: int) -> bytes:
        return json.dumps({"model": NAMES[0], "prompt": "The", "max_tokens": tokens}).encode()

    async def ask(port: int, tokens: int) -> float:
        client = Client(port)  # the service closes connections that are idle for seconds
        began = time.perf_counter()
        assert await client.ask(request(sent(tokens), path)) == 200
        client.close()
        return time.perf_counter() - began

    async def measure(port: int) -> None:
        for number in range(arguments.rounds + 1):  # the first one warms up
            alone = await ask(port, SHORT)
            long = asyncio.create_task(ask(port, LONG))
            await asyncio.sleep(alone)  # it has begun
            beside = await ask(port, SHORT)
            await long
            if number:
                seconds["alone"].append(alone)
                seconds["beside"].append(beside)

    lengths = [LONG, *[SHORT] * 7]  # one of eight is long
    with served(arguments, folder / "ours", "ours") as (port, process):
        asyncio.run(measure(port))
        clock = clock_of(arguments, process)
        run = load_for(port, arguments.seconds, [sent(n) for n in lengths], 16, path=path)
        began = clock()
        latencies, statuses = asyncio.run(run)
        rate = len(latencies) / (clock() - began)
    assert set(statuses) == {200}, statuses
    ratio = ratio_of_medians(seconds["beside"], seconds["alone"])
    return [
        Figure(f"{SHORT} tokens on an idle service", statistics.median(seconds["alone"]), "s"),
        at_most(f"while {LONG} tokens are written, ratio {ratio}", ratio.value, "", 2.0),
        Figure("16 clients, one of eight texts long: texts/s", rate, "1/s"),
        Figure("the same: median seconds until an answer", statistics.median(latencies), "s"),
    ]


def soak(arguments: argparse.Namespace, folder: Path) -> list[Figure]:
    """Many clients, a tenth of them bad."""
    save(folder / "ours", arguments.model, "lora+prefix")
    bad = arguments.clients // 10
    with served(arguments, folder / "ours", "ours") as (port, process):
        asyncio.run(load_for(port, arguments.warm_up, bodies(), arguments.clients - bad, bad))
        before = resident(process)
        run = load_for(port, arguments.seconds, bodies(), arguments.clients - bad, bad)
        latencies, statuses = asyncio.run(run)
        grown = resident(process) / before - 1
    latencies.sort()
    failed = float(sum(count for status, count in statuses.items() if status >= 500))
    return [
        Figure("answers", float(len(latencies)), ""),
        Figure("p50", latencies[len(latencies) // 2], "s"),
        Figure("p99", latencies[len(latencies) * 99 // 100], "s"),
        *(
            Figure(f"status {status}", float(count), "")
            for status, count in sorted(statuses.items())
        ),
        at_most("answers with 5xx", failed, "", 0),
        at_most("growth of memory", grown, "", 0.05),
    ]


def resident(process: int) -> int:
    """A process's resident memory in KiB."""
    lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


WHAT = {"throughput": throughput, "latency": latency, "texts": texts, "soak": soak}


def main(argv: Sequence[str] | None = None) -> None:
    """Measures one of the four."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = plain_parser(__doc__)
    parser.add_argument("what", choices=[*WHAT, "serve"])
    parser.add_argument("folder", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("--side", default="ours", help=argparse.SUPPRESS)
    parser.add_argument("--model", default="minilm", help="default: minilm")
    parser.add_argument("--clients", type=int, help="default: 64; soak: 200")
    parser.add_argument("--seconds", type=float, help="of a round; default: 8; soak: 60")
    parser.add_argument("--warm-up", type=float, help="seconds of soak before; default: a sixth")
    parser.add_argument(
        "--rounds", type=int, default=3, help="of each side of throughput, and of texts"
    )
    parser.add_argument("--requests", type=int, default=200, help="of latency")
    parser.add_argument("--block", type=int, default=1, help="of latency: requests in turn")
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="cpu: of the server")
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds until a 503")
    parser.add_argument("--dtype", default="auto", help="of both sides, as for `peml serve`")
    parser.add_argument("--threads", type=int, default=0, help="of a server's torch")
    arguments = parser.parse_args(words)
    if arguments.what == "serve":
        serve(arguments)
        return
    soaks = arguments.what == "soak"
    arguments.clients = arguments.clients or (200 if soaks else 64)
    arguments.seconds = arguments.seconds or (60.0 if soaks else 8.0)
    arguments.warm_up = arguments.warm_up or arguments.seconds / 6
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        figures = WHAT[arguments.what](arguments, Path(folder))
    report(f"The service, {arguments.what}: {arguments.clients} clients", figures, arguments)


if __name__ == "__main__":
    main()
