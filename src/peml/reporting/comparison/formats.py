"""Tables as Markdown, LaTeX and CSV text."""

import csv
import io
from collections.abc import Iterable

from peml.records.comparison import ComparisonRecord, IntervalRecord, SuiteRecord
from peml.reporting.comparison.tables import Cell, Table

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "\u00b1": r"$\pm$",
    "\u2212": "$-$",
    "\u00d7": r"$\times$",
    "\u2013": "--",
}


def to_markdown(table: Table, *, width: int = 13) -> str:
    """Markdown tables, split if there are more than ``width`` columns, then the notes."""
    blocks = []
    for part in table.parts(width):
        lines = [
            [_markdown_text(f"{c.title}, {c.below}" if c.below else c.title) for c in part.columns],
            ["---:" if column.is_number else "---" for column in part.columns],
            *([_markdown_cell(cell) for cell in row] for row in part.all_rows()),
        ]
        blocks.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    notes = [f"<sup>{letter}</sup> {_markdown_text(text)}" for letter, text in table.notes]
    return "\n\n".join([*blocks, *(["<br>\n".join(notes)] if notes else [])]) + "\n"


def to_latex(table: Table, caption: str, *, width: int = 9) -> str:
    """``table`` environments for the booktabs package; notes are below the last one."""
    parts = table.parts(width)
    notes = [rf"\textsuperscript{{{mark}}} {_latex_text(text)}" for mark, text in table.notes]
    blocks = []
    for number, part in enumerate(parts, start=1):
        which = f" ({number} of {len(parts)})" if len(parts) > 1 else ""
        body = [_latex_row(_latex_cell(cell) for cell in row) for row in part.rows]
        if part.last:
            body += [r"\midrule", _latex_row(_latex_cell(cell) for cell in part.last)]
        blocks.append("\n".join([
            r"\begin{table}",
            r"\centering",
            r"\small",
            rf"\caption{{{_latex_text(caption + which)}}}",
            rf"\begin{{tabular}}{{{''.join('r' if c.is_number else 'l' for c in part.columns)}}}",
            r"\toprule",
            _latex_row(_latex_text(column.title) for column in part.columns),
            _latex_row(_latex_text(column.below) for column in part.columns),
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            *([r"\par\smallskip\footnotesize", " \\\\\n".join(notes)]
              if notes and number == len(parts) else []),
            r"\end{table}",
        ]))  # fmt: skip
    return "\n\n".join(blocks) + "\n"


def to_csv(comparison: ComparisonRecord, suite: SuiteRecord) -> str:
    """One row per method and one for the majority baseline, not rounded; scores as fractions.

    A cell without a number is empty. ``flags`` holds the texts that are footnotes elsewhere.
    """
    records = [_csv_method(comparison, suite, index) for index in range(len(suite.rows))]
    majority: dict[str, object] = {"label": "majority", "mean": suite.majority_mean}
    majority |= {f"group_{name}_mean": g.majority_mean for name, g in suite.groups.items()}
    majority |= {f"{task.name}_mean": task.majority for task in suite.tasks}
    columns = list(dict.fromkeys(key for record in records for key in record))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows([*records, majority])
    return text.getvalue()


def _csv_method(comparison: ComparisonRecord, suite: SuiteRecord, index: int) -> dict[str, object]:
    row, first = suite.rows[index], suite.rows[0]
    method = comparison.method(row.label)
    flags = [*row.flags, *row.notes]
    groups: dict[str, object] = {}
    for name in suite.groups:
        means = row.groups.get(name)
        groups[f"group_{name}_mean"] = means and means.mean
        groups[f"group_{name}_deviation"] = means and means.deviation
    tasks: dict[str, object] = {}
    for task in suite.tasks:
        score = row.tasks.get(task.name)
        tasks[f"{task.name}_mean"] = score and score.mean
        tasks[f"{task.name}_deviation"] = score and score.deviation
        tasks[f"{task.name}_seeds"] = score.seeds if score else 0
        found = row.difference.tasks.get(task.name) if row.difference else None
        tasks |= _csv_interval(f"{task.name}_difference", found)
        flags += [f"{task.name}: {f}" for f in ([*score.flags, *score.notes] if score else [])]
    return {
        "label": row.label,
        "method": method.method,
        "size": method.size,
        "seeds": row.finished,
        "seeds_wanted": len(row.cells),
        "mean": row.mean,
        "deviation": row.deviation,
        **_csv_interval("difference", row.difference),
        "difference_to": suite.best_baseline,
        "needs_task_id": method.needs_task_id,
        "merging": method.merging,
        **groups,
        **tasks,
        "trainable_parameters": row.trainable_parameters,
        "off_budget": method.off_budget,
        "learning_rate_factor": row.factor,
        **{f"{name}_seconds": row.seconds.get(name) for name in ("tuning", "search", "train")},
        "search_and_train_ratio": _quotient(row.run_seconds, first.run_seconds),
        "peak_memory_bytes": row.peak_memory_bytes,
        "latency_ms": row.latency,
        "latency_ratio": _quotient(row.latency, first.latency),
        "flags": "; ".join(flags),
    }


def _csv_interval(name: str, found: IntervalRecord | None) -> dict[str, object]:
    return {
        name: found and found.value,
        f"{name}_low": found and found.low,
        f"{name}_high": found and found.high,
    }


def _quotient(value: float | None, reference: float | None) -> float | None:
    return value / reference if value is not None and reference else None


def _markdown_text(text: str) -> str:
    """Text with characters escaped that would end a cell."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _aside(text: str) -> str:
    """The second line of a cell, put on the first."""
    if not text:
        return ""
    return f" {text}" if text.startswith(("[", "\u00b1", "$\\pm$")) else f" ({text})"


def _markdown_cell(cell: Cell) -> str:
    text = _markdown_text(cell.text)
    shown = f"**{text}**" if cell.is_best else text
    marks = f"<sup>{','.join(cell.marks)}</sup>" if cell.marks else ""
    return f"{shown}{_aside(_markdown_text(cell.below))}{marks}"


def _latex_text(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def _latex_row(cells: Iterable[str]) -> str:
    return rf"{' & '.join(cells)} \\"


def _latex_cell(cell: Cell) -> str:
    text = _latex_text(cell.text)
    shown = rf"\textbf{{{text}}}" if cell.is_best else text
    marks = rf"\textsuperscript{{{','.join(cell.marks)}}}" if cell.marks else ""
    return f"{shown}{_aside(_latex_text(cell.below))}{marks}"
