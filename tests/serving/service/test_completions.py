"""Completions, asked by OpenAI's own client."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
import torch

from peml.models.open_batch import OpenBatch, can_join
from peml.serving.predictor import load
from peml.serving.service.limits import Limits
from peml.serving.service.work import Text
from peml.tasks import Chat, TaskRenderer
from tests.export.trained import run_of
from tests.run.test_chat import MASK, TEMPLATE
from tests.serving.service.live import WRITES, Live, living, predictor_of, until
from tests.tasks.examples import generation

PROMPT = "the red ball is in the"
TASKS = (*WRITES, generation(name="talk", chat=Chat(system="a man"), max_new_tokens=7))


def client_of(live: Live) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0, timeout=20)


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    predictor = predictor_of("llama", TASKS, max_position_embeddings=128)
    predictor.base.family.tokenizer.chat_template = TEMPLATE
    with living(predictor, Limits(new_tokens=90)) as running:
        yield running


@pytest.fixture(scope="module")
def client(live: Live) -> openai.OpenAI:
    return client_of(live)


@torch.no_grad()
def greedy(base: Any, ids: list[int], limit: int, ends: tuple[int, ...] = ()) -> list[int]:
    """The slow way: no cache, one token after the other."""
    written: list[int] = []
    while len(written) < limit and not (written and written[-1] in ends):
        logits = base.backbone(torch.tensor([ids + written]), use_cache=False).logits
        written.append(int(logits[0, -1].argmax()))
    return written


def expected(live: Live, prompt: str, limit: int) -> str:
    family = live.service.engine.predictor.base.family
    ids = family.tokenizer(prompt)["input_ids"]
    written = greedy(live.service.engine.predictor.base, ids, limit, family.spelling.ends)
    return family.spelling.read(written)


def test_a_text_is_continued_as_the_model_alone_does(live: Live, client: openai.OpenAI) -> None:
    answer = client.completions.create(model="tiny", prompt=PROMPT, max_tokens=12, temperature=0.0)
    choice = answer.choices[0]
    assert choice.text == expected(live, PROMPT, 12)
    assert choice.finish_reason == "length"
    assert answer.usage is not None
    read = len(live.service.engine.predictor.base.family.tokenizer(PROMPT)["input_ids"])
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (read, 12)
    assert answer.model == "tiny"


@pytest.mark.parametrize("end", [" ", "\n", "\n\n  "])
def test_white_space_at_a_prompts_end_is_read(live: Live, client: openai.OpenAI, end: str) -> None:
    ask: dict[str, Any] = {"prompt": PROMPT + end, "max_tokens": 5}
    answer = client.completions.create(model="tiny", **ask)
    assert answer.choices[0].text == expected(live, PROMPT + end, 5)
    ids = live.service.engine.predictor.base.family.tokenizer(PROMPT + end)["input_ids"]
    of_task = client.completions.create(model="mood", **ask)  # belongs to a task's answers
    assert answer.usage is not None
    assert of_task.usage is not None
    assert answer.usage.prompt_tokens == len(ids) > of_task.usage.prompt_tokens


def test_it_ends_before_the_first_stop_string(live: Live, client: openai.OpenAI) -> None:
    whole = expected(live, PROMPT, 12)
    stop = whole[4:6]
    ask: dict[str, Any] = {"model": "tiny", "prompt": PROMPT, "max_tokens": 12}
    for given in (stop, ["never there", stop]):
        choice = client.completions.create(**ask, stop=given).choices[0]
        assert choice.text == whole[: whole.index(stop)]
        assert choice.finish_reason == "stop"


@pytest.mark.parametrize("stop", [None, "e"])
def test_a_stream_has_the_same_text_in_pieces(client: openai.OpenAI, stop: str | None) -> None:
    ask: dict[str, Any] = {"model": "tiny", "prompt": PROMPT, "max_tokens": 30}
    ask |= {} if stop is None else {"stop": [stop, "zzzz"]}
    whole = client.completions.create(**ask)
    pieces = list(
        client.completions.create(**ask, stream=True, stream_options={"include_usage": True})
    )
    texts = [piece.choices[0].text for piece in pieces if piece.choices]
    assert "".join(texts) == whole.choices[0].text
    assert stop is not None or len(texts) > 5
    assert pieces[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert pieces[-1].usage == whole.usage


def test_texts_that_share_a_batch_end_each_in_its_own_place(
    live: Live, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []
    answer = live.service.batcher._compute

    def counted(work: Any) -> Any:
        batches.append(len(work))
        time.sleep(0.2)
        return answer(work)

    monkeypatch.setattr(live.service.batcher, "_compute", counted)
    prompts = ["a man is", PROMPT, "the lazy dog and the fox", "yes"]
    with ThreadPoolExecutor(4) as clients:
        asked = [
            clients.submit(
                client.completions.create, model="tiny", prompt=prompt, max_tokens=5 + 6 * number
            )
            for number, prompt in enumerate(prompts)
        ]
        answers = [each.result() for each in asked]
    assert max(batches) > 1
    for number, (prompt, each) in enumerate(zip(prompts, answers, strict=True)):
        assert each.choices[0].text == expected(live, prompt, 5 + 6 * number)


def test_who_comes_during_a_long_text_does_not_wait_for_its_end(
    live: Live, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    step = OpenBatch.step

    def slowly(batch: OpenBatch, tokens: Any) -> torch.Tensor:
        steps.append(len(tokens))
        time.sleep(0.03)
        return step(batch, tokens)

    monkeypatch.setattr(OpenBatch, "step", slowly)
    with ThreadPoolExecutor(1) as other:
        long = other.submit(
            lambda: client.completions.create(model="tiny", prompt=PROMPT, max_tokens=80)
        )
        until(lambda: len(steps) > 2)
        short = client.completions.create(model="tiny", prompt="a man is", max_tokens=4)
        row = live.post({"task": "mood", "rows": [{"sentence": "good"}]})
        assert not long.done()
        assert short.choices[0].text == expected(live, "a man is", 4)
        assert row.json()["predictions"]
        assert long.result().choices[0].text == expected(live, PROMPT, 80)
    assert 2 in steps
    assert steps[-1] == 1


def test_a_failing_step_ends_its_texts_only(
    live: Live, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask: dict[str, Any] = {"model": "tiny", "prompt": PROMPT, "max_tokens": 5}
    with monkeypatch.context() as patch:
        patch.setattr(OpenBatch, "step", lambda *_: 1 / 0)
        with pytest.raises(openai.InternalServerError):
            client.completions.create(**ask)
    assert client.completions.create(**ask).choices[0].text == expected(live, PROMPT, 5)


def test_texts_with_an_encoder_are_written_to_their_end() -> None:
    predictor = predictor_of("t5", WRITES, tie_word_embeddings=False)
    row = {"text": "the red ball is in the box"}
    wanted = predictor.predict("longer", [row])[0].value
    with living(predictor) as live:
        (answer,) = live.post({"task": "longer", "rows": [row]}).json()["predictions"]
    assert answer["prediction"] == wanted


def test_a_task_lends_its_stop_strings_and_length(live: Live, client: openai.OpenAI) -> None:
    whole = expected(live, PROMPT, 9)
    longer = client.completions.create(model="longer", prompt=PROMPT)
    assert longer.choices[0].text == whole
    stopped = client.completions.create(model="rewrite", prompt=PROMPT, max_tokens=40)
    wanted = expected(live, PROMPT, 40)
    assert "k" in wanted
    assert stopped.choices[0].text == wanted.partition("k")[0]


@pytest.mark.parametrize(("model", "system"), [("tiny", ""), ("talk", "<unk>system a man<mask>")])
def test_a_chat_goes_through_the_template(
    live: Live, client: openai.OpenAI, model: str, system: str
) -> None:
    ask: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": "the fox"}]}
    ask |= {"max_completion_tokens": 7} if model == "tiny" else {}
    answer = client.chat.completions.create(**ask)
    base = live.service.engine.predictor.base
    asked = f"{system}<unk>user the fox<mask><unk>assistant "
    ids = base.family.tokenizer(asked, add_special_tokens=False)["input_ids"]
    written = greedy(base, ids, 7, (*base.family.spelling.ends, MASK))
    wanted = base.family.spelling.ending_at(["<mask>"]).read(written)
    assert answer.choices[0].message.content == wanted
    pieces = client.chat.completions.create(**ask, stream=True)
    deltas = [piece.choices[0].delta for piece in pieces]
    assert deltas[0].role == "assistant"
    assert "".join(delta.content or "" for delta in deltas) == wanted


@pytest.mark.parametrize("model", ["tiny", "talk"])
@pytest.mark.parametrize("role", ["assistant", "system"])
def test_a_chat_ends_with_the_user(client: openai.OpenAI, model: str, role: Any) -> None:
    """Behind an assistant's turn, its end token would already have been read."""
    messages: list[Any] = [{"role": "user", "content": "the fox"}, {"role": role, "content": "a"}]
    with pytest.raises(openai.UnprocessableEntityError, match=f"the last message is the {role}'s"):
        client.chat.completions.create(model=model, messages=messages)


def test_a_context_is_held_and_not_read_again(tmp_path: Path) -> None:
    predictor = load(run_of("llama", "lora+context", tmp_path))
    assert can_join(predictor.base)
    with living(predictor) as live:
        client = client_of(live)
        with pytest.raises(openai.BadRequestError, match="name a task"):
            client.completions.create(model="tiny", prompt=PROMPT)
        assert [each.id for each in client.models.list()] == ["mood", "same", "closeness"]
        answer = client.completions.create(model="mood", prompt="the film", max_tokens=6)
        base = predictor.base
        context = TaskRenderer(predictor.tasks[0]).context()
        assert context
        held = base.family.context_tokens(context)
        ids = base.family.tokenizer(f"{context}\n\nthe film")["input_ids"]
        assert ids[: len(held)] == held
        assert answer.usage is not None
        assert answer.usage.prompt_tokens == len(ids) - len(held)
        # The context is of the adapted model: the same as its text in front.
        from peml.injection.inject import injection_of

        injection = injection_of(base.backbone)
        assert injection is not None
        with injection.without_contexts():
            written = greedy(base, ids, 6, base.family.spelling.ends)
        assert answer.choices[0].text == base.family.spelling.read(written)


def test_models_that_write_no_texts_say_so() -> None:
    with living(predictor_of("bert")) as live:
        client = client_of(live)
        with pytest.raises(openai.BadRequestError, match="doesn't continue texts") as caught:
            client.completions.create(model="mood", prompt="x")
        assert isinstance(caught.value.body, dict)
        assert "/v1/predict" in caught.value.body["remedy"]
        assert client.models.list().data == []


@pytest.mark.parametrize(
    ("changes", "status", "field", "said"),
    [
        ({"model": "tinny"}, 404, "model", "Did you mean 'tiny'"),
        ({"temperature": 0.7}, 422, "temperature", "0.7"),
        ({"max_tokens": 91}, 422, "max_tokens", "at most 90"),
        ({"max_tokens": 0}, 422, "max_tokens", "got 0"),
        ({"n": 2}, 422, "n", "2"),
        ({"stop": [""]}, 422, "stop[0]", "at least 1"),
        ({"stop": ""}, 422, "stop[0]", "at least 1"),
        ({"prompt": ["a", "b"]}, 422, "prompt", "a text"),
        ({"prompt": "good " * 200, "max_tokens": 9}, 422, "prompt", "tokens"),
        ({"logit_bias": {"1": 5}}, 422, "logit_bias", "no field"),
    ],
)
def test_what_it_can_not_do_is_refused(
    live: Live, changes: dict[str, Any], status: int, field: str, said: str
) -> None:
    answer = live.post({"model": "tiny", "prompt": PROMPT, **changes}, "/v1/completions")
    assert answer.status_code == status, answer.text
    assert (answer.json()["error"]["field"] or "").startswith(field)
    assert said in answer.text
    assert live.post({"model": "tiny", "prompt": "a"}, "/v1/completions").status_code == 200


def test_null_is_the_default(live: Live) -> None:
    plain = {"model": "tiny", "prompt": PROMPT, "max_tokens": 4}
    nulls = dict.fromkeys(["stop", "stream", "n", "logprobs", "frequency_penalty", "logit_bias"])
    asked = plain | nulls | {"stream_options": {"include_usage": None}}
    texts = [
        live.post(body, "/v1/completions").json()["choices"][0]["text"] for body in (plain, asked)
    ]
    assert texts[0] == texts[1]
    talk = {"role": "user", "content": "x", "name": None, "tool_calls": None}
    chat = {"model": "talk", "messages": [talk], "max_tokens": None, "max_completion_tokens": 2}
    answer = live.post(chat | nulls, "/v1/chat/completions")
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("changes", "field", "said"),
    [
        ({"max_tokens": 2, "max_completion_tokens": 3}, None, "max_completion_tokens, not both"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content", "missing"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0].type",
            "'image_url' is not one of text",
        ),
    ],
)
def test_a_chat_that_can_not_be_asked_is_refused_by_one_path(
    live: Live, changes: dict[str, Any], field: str | None, said: str
) -> None:
    body = {"model": "talk", "messages": [{"role": "user", "content": "x"}], **changes}
    answer = live.post(body, "/v1/chat/completions")
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"]["field"] == field
    assert said in answer.text


def test_a_task_that_is_no_chat_says_so(live: Live) -> None:
    body = {"model": "mood", "messages": [{"role": "user", "content": "x"}]}
    answer = live.post(body, "/v1/chat/completions")
    assert answer.status_code == 400
    assert answer.json()["error"]["allowed"] == "talk"


@pytest.mark.parametrize("streams", [True, False])
def test_a_text_whose_client_hung_up_is_not_finished(
    live: Live, monkeypatch: pytest.MonkeyPatch, streams: bool
) -> None:
    texts: list[Text] = []
    see = Text.see

    def slowly(text: Text, token: int) -> None:
        if text not in texts:
            texts.append(text)
        time.sleep(0.02)
        see(text, token)

    monkeypatch.setattr(Text, "see", slowly)
    ask: dict[str, Any] = {"model": "tiny", "prompt": PROMPT, "max_tokens": 90, "stream": streams}
    client = client_of(live)
    if streams:
        stream = client.completions.create(**ask)
        next(iter(stream))
        stream.close()
    else:
        with pytest.raises(openai.APITimeoutError):
            client.with_options(timeout=0.3).completions.create(**ask)
    until(lambda: texts and texts[0].gone)
    written = texts[0].generated
    time.sleep(0.1)
    assert texts[0].generated <= written + 1 < 90
