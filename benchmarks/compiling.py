"""Training with ``training.compile`` and without, in turn.

SmolLM2 in bfloat16 on the rows of GLUE. The first segment, in which the graphs are compiled, is not
counted; how much longer it takes is a figure of its own.

    pip install 'peml[lm]'
    python benchmarks/compiling.py [--model NAME] [--source FOLDER] [--json FILE]
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from common import CLOCKS, benchmark_parser, mixture_name, report
from decoder import SIDES, build_ours
from race import with_and_without

MEASURED = ("PEML, lora", "PEML, peml after search")


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table and writes the figures."""
    parser = benchmark_parser(__doc__)
    parser.set_defaults(model="smollm2")
    parser.add_argument("--sides", nargs="+", default=MEASURED, choices=list(SIDES))
    parser.add_argument("--rows", type=int, default=16, help="rows of a batch")
    parser.add_argument("--steps", type=int, default=4, help="steps of a segment")
    parser.add_argument("--segments", type=int, default=6, help="segments that are counted")
    parser.add_argument("--clock", default="wall", choices=list(CLOCKS), help="see step_time.py")
    arguments = parser.parse_args(argv)
    steps = (arguments.segments + 1) * arguments.steps
    figures = []
    for side in arguments.sides:
        torch._dynamo.reset()  # no side takes over another's graphs
        plain, compiled = (
            build_ours(arguments, SIDES[side], steps, f"training.compile={on}")
            for on in ("false", "true")
        )
        figures += with_and_without(
            f"{side}, compiled",
            plain,
            compiled,
            segments=arguments.segments,
            steps=arguments.steps,
            clock=CLOCKS[arguments.clock],
        )
    report(f"{arguments.model} in bfloat16, {mixture_name(arguments)}", figures, arguments)


if __name__ == "__main__":
    main()
