"""`peml serve`: a finished model behind HTTP."""

from pathlib import Path
from typing import Annotated, Any

import typer

from peml.cli.options import (
    BatchTokensOption,
    DeviceOption,
    DtypeOption,
    RunArgument,
    TrustOption,
)
from peml.cli.sparing import limit_kernels, quick_imports
from peml.terminal import open_console


def _limit(help_text: str, least: float) -> Any:
    return typer.Option(min=least, help=help_text, rich_help_panel="Limits")


NameOption = Annotated[
    str | None, typer.Option(help="The model's name in requests; default: the run's folder.")
]
KeysOption = Annotated[Path | None, typer.Option(help="File with the accepted keys, one per line.")]
InsecureOption = Annotated[
    bool, typer.Option("--insecure", help="Serve other machines without a key.")
]
BodyOption = Annotated[int | None, _limit("Most bytes of a request; default: 1048576.", 1024)]
RowsOption = Annotated[int | None, _limit("Most rows of a request; default: 256.", 1)]
TokensOption = Annotated[int | None, _limit("Most tokens of a request's rows; default: 32768.", 16)]
NewTokensOption = Annotated[int | None, _limit("Most tokens of a completion; default: 512.", 1)]
QueueOption = Annotated[int | None, _limit("Most rows that may wait; default: 1024.", 1)]
TimeoutOption = Annotated[float | None, _limit("Most seconds until an answer; default: 30.", 0.1)]
WaitOption = Annotated[
    float | None, _limit("Milliseconds that a busy service waits to fill a batch; default: 2.", 0)
]


def serve_command(
    run: RunArgument,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: a free one.")] = 8000,
    name: NameOption = None,
    api_key_file: KeysOption = None,
    insecure: InsecureOption = False,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    batch_tokens: BatchTokensOption = None,
    max_body: BodyOption = None,
    max_rows: RowsOption = None,
    max_tokens: TokensOption = None,
    max_new_tokens: NewTokensOption = None,
    max_queue: QueueOption = None,
    timeout: TimeoutOption = None,
    wait_ms: WaitOption = None,
    trust_remote_code: TrustOption = False,
) -> None:
    """Answer HTTP requests with a finished run's model. Needs the extra `serve`.

    Example:
      peml serve runs/demo
    """
    given = {
        "body": max_body,
        "rows": max_rows,
        "tokens": max_tokens,
        "new_tokens": max_new_tokens,
        "queue": max_queue,
        "timeout": timeout,
        "wait": wait_ms,
    }
    _check_extra()
    limit_kernels()
    with quick_imports():
        from peml.serving import load
        from peml.serving.service.keys import Keys
        from peml.serving.service.limits import Limits
        from peml.serving.service.server import bind, check_exposure, run_service

    check_exposure(host, api_key_file, insecure=insecure)
    limits = Limits.model_validate({key: n for key, n in given.items() if n is not None})
    keys = None if api_key_file is None else Keys.read(api_key_file)
    with bind(host, port) as at:
        model = load(
            run, device, dtype=dtype, batch_tokens=batch_tokens, trust_remote_code=trust_remote_code
        ).prepack()
        say = open_console(stderr=True, soft_wrap=True).print
        folder = run.resolve()
        shown = name or (folder.parent if folder.name == "model" else folder).name
        run_service(model, at, name=shown, limits=limits, keys=keys, announce=say)


def _check_extra() -> None:
    from importlib.util import find_spec

    from peml.errors import ConfigError

    missing = [m for m in ("fastapi", "uvicorn", "prometheus_client") if find_spec(m) is None]
    if missing:
        raise ConfigError(
            f"peml serve needs {', '.join(missing)}",
            allowed="an installation with the extra `serve`",
            action="pip install 'peml[serve]'",
        )
