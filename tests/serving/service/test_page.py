"""The page for people, as a browser shows it."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.responses import HTMLResponse

from peml.serving.service.keys import Keys
from peml.serving.service.pages import page
from tests.serving.service.live import Live, living, predictor_of

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
# What a person does, as a script of the page's own: it waits for the tasks, types and asks.
TYPED = """
<script nonce="NONCE">
const wait = setInterval(() => {
  if (find("ask").disabled) return;
  clearInterval(wait);
  find("task").value = "ending";
  find("task").dispatchEvent(new Event("change"));
  find("column-start").value = "a <b>man</b>";
  find("column-options").value = "yes\\n<i>the red ball</i>\\n\\nno";
  find("ask").click();
}, 10);
</script>
"""


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    with living(predictor_of("bert")) as running:
        yield running


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_it_runs_its_own_script_and_loads_nothing_from_elsewhere(live: Live, path: str) -> None:
    first, second = live.client.get(path), live.client.get(path)
    rules = first.headers["Content-Security-Policy"]
    assert "default-src 'none'" in rules
    nonce = re.search(r"script-src 'nonce-([\w-]+)'", rules)
    assert nonce
    assert f'<script nonce="{nonce[1]}">' in first.text
    assert nonce[1] not in second.text
    assert not re.findall(r"(?:src|href)=[\"']?(?:https?:)?//", first.text)


def test_it_is_open_where_the_tasks_need_a_key() -> None:
    with living(predictor_of("bert"), keys=Keys("a-key-of-enough-characters")) as live:
        assert live.client.get("/").status_code == live.client.get("/docs").status_code == 200
        assert live.client.get("/v1/tasks").status_code == 401


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_person_sees_the_answer_and_its_scores(
    live: Live, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def typed(name: str) -> HTMLResponse:
        made = page(name)
        text = bytes(made.body).decode()
        nonce = re.findall(r'nonce="([\w-]+)"', text)[0]
        headers: Any = {"Content-Security-Policy": made.headers["Content-Security-Policy"]}
        more = TYPED.replace("NONCE", nonce)
        return HTMLResponse(text.replace("</body>", f"{more}</body>"), headers=headers)

    monkeypatch.setattr("peml.serving.service.app.page", typed)
    with living(live.service.engine.predictor) as patched:
        words = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"]
        words += ["--virtual-time-budget=8000", "--dump-dom", f"{patched.url}/"]
        done = subprocess.run([CHROMIUM, *words], capture_output=True, text=True, timeout=60)  # type: ignore[list-item]
        row = {"start": "a <b>man</b>", "options": ["yes", "<i>the red ball</i>", "no"]}
        answer = patched.service.engine.predictor.predict("ending", [row])[0]
    shown = done.stdout
    escaped = str(answer.value).replace("<", "&lt;").replace(">", "&gt;")
    assert f'<div id="prediction" class="">{escaped}</div>' in shown
    for score in answer.scores.values():
        assert f"{100 * score:.1f} %" in shown
    assert "<span>&lt;i&gt;the red ball&lt;/i&gt;</span>" in shown
