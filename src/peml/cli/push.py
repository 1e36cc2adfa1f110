"""`peml push`: a finished run's model, with its card, to the Hugging Face hub."""

from pathlib import Path
from typing import Annotated

import typer

from peml.terminal import open_console


def push_command(
    run: Annotated[
        Path, typer.Argument(help="Run folder, its model/ folder, or an export's folder.")
    ],
    repository: Annotated[str, typer.Argument(help="Repository on the hub: OWNER/NAME.")],
    public: Annotated[
        bool, typer.Option("--public", help="Make a new repository public; default: private.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show files and card, and upload nothing.")
    ] = False,
) -> None:
    """Upload a finished run's model or an export, with its card, to the Hugging Face hub.

    The card is README.md in that folder; edit it before you push. The token is that of `hf auth
    login` or HF_TOKEN.

    Examples:
      peml push runs/demo me/demo --dry-run
      peml push runs/demo me/demo
      peml push exports/demo me/demo-lora
    """
    from peml.export.hub import check_repository, find_upload, list_files, upload
    from peml.reporting.run.card import list_unfilled, render_card, write_card
    from peml.reporting.run.results import load_run

    check_repository(repository)
    folder = find_upload(run)
    card = folder / "README.md"
    console = open_console(soft_wrap=True)
    if folder != run and not dry_run:
        write_card(run)
    files = list_files(folder)
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    if folder != run and not text:
        text = render_card(load_run(run))
        files = {card.name: card, **files}
    if dry_run:
        for name, path in files.items():
            size = path.stat().st_size if path.exists() else len(text.encode())
            console.print(f"{size:>14,}  {name}")
        console.print(f"\n{text}")
    for sentence in list_unfilled(text):
        console.print(f"! {card}: {sentence}", style="yellow")
    if not dry_run:
        console.print(upload(files, repository, private=not public))
