"""The pages for people: one to try the tasks, one that describes the routes."""

import secrets
from importlib import resources

from fastapi.responses import HTMLResponse

_RULES = (
    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'unsafe-inline'; img-src data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def page(name: str) -> HTMLResponse:
    """A page that loads nothing from other hosts and runs only its own script."""
    nonce = secrets.token_urlsafe(16)
    text = (resources.files("peml.serving.service") / f"{name}.html").read_text(encoding="utf-8")
    rules = {
        "Content-Security-Policy": _RULES.format(nonce=nonce),
        "Referrer-Policy": "no-referrer",
    }
    return HTMLResponse(text.replace("NONCE", nonce), headers=rules)
