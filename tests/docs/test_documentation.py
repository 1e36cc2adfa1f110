"""The commands and code of README and guide run, on fewer rows than a reader would take."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from peml.cli import main
from peml.tasks import Task, TaskRenderer, TaskType

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "docs/guide.md")
SMALL = (
    "tasks.rows=16",
    "tasks.evaluation_rows=8",
    "tasks.development_rows=8",
    "training.epochs=1",
    "batches.rows=8",
)


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands(page: str) -> list[str]:
    lines = [line for block in blocks(page, "bash") for line in block.splitlines()]
    return [line.split("  #")[0].strip() for line in lines if line.startswith("peml ")]


def shrunk(command: str, folder: Path) -> list[str]:
    """The command's words, on few rows, writing below a temporary folder."""
    words = shlex.split(command)[1:]
    words = [str(folder / w) if w.startswith("runs/") else w for w in words]
    words = [w.replace("=runs/", f"={folder}/runs/") for w in words]
    if words[0] != "fit":
        return words
    if "runs/first" in command:
        return words  # as it is: what `peml init` wrote
    if "--output" not in words:
        words += ["--output", str(folder / "runs" / Path(words[1]).stem)]
    return [*words, *(word for setting in SMALL for word in ("--set", setting))]


def python(page: str, folder: Path) -> str:
    """The page's Python, its fit on few rows (of the same run folder as the commands')."""
    code = "\n".join(blocks(page, "python"))
    call = re.compile(r'peml\.fit\("examples/(\w+)\.yaml"(, output="runs/\w+")?\)')
    found = call.search(code)
    assert found
    output = str(folder / "runs" / found[1])
    small = f'peml.fit("examples/{found[1]}.yaml", output={output!r}, overrides={SMALL!r})'
    return call.sub(small, code)


@pytest.fixture(scope="module")
def below(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all pages' runs: the guide goes on with the run of the README's demo."""
    return tmp_path_factory.mktemp("pages")


@pytest.fixture(scope="module")
def ran() -> set[tuple[str, ...]]:
    """The commands that have run; the pages share some."""
    return set()


@pytest.mark.e2e
@pytest.mark.minilm
@pytest.mark.parametrize("page", PAGES)
def test_everything_on_the_page_runs_in_order(
    page: str, below: Path, ran: set[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    for command in commands(page):
        words = shrunk(command, below)
        if tuple(words) in ran:
            continue
        with pytest.raises(SystemExit) as stop:
            main(words)
        assert stop.value.code in (0, None), command
        ran.add(tuple(words))
    exec(compile(python(page, below), page, "exec"), {})


def test_the_guides_task_files_are_valid() -> None:
    (block,) = (block for block in blocks("docs/guide.md", "yaml") if "\n---\n" in block)
    tasks = [
        Task.model_validate({"name": "own", "source": {"path": "own"}, **definition})
        for definition in yaml.safe_load_all(block)
    ]
    assert {task.type for task in tasks} == {*TaskType} - {TaskType.CLASSIFICATION}
    for task in tasks:
        TaskRenderer(task)


def test_the_make_commands_of_the_readme_are_targets_of_the_makefile() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in ("demo", "demo-lm", "test"):
        assert f"make {target}" in readme
        assert f"\n{target}: " in makefile


def test_every_link_of_the_documentation_leads_somewhere() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    for page in pages:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            if "://" not in link:
                assert (page.parent / link).exists(), f"{page}: {link}"
