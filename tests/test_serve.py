"""Chat completions and completions, in process: what comes back is what the model says alone."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import miaotui
import pytest
from miaotui.errors import TokenizerError
from miaotui.tools import demo

pytest.importorskip("starlette")
pytest.importorskip("prometheus_client")
pytest.importorskip("jinja2")

from adapters_apart import write_adapter
from miaotui.tools.server.served import Served
from serving import Client, Reply, asked

if TYPE_CHECKING:
    from collections.abc import Iterator

MESSAGES = [{"role": "user", "content": "Tom had a red ball. What did Tom have?"}]
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
START = "Once upon a time there was"


@pytest.fixture(scope="module")
def models() -> Iterator[dict[str, miaotui.Model]]:
    with (
        miaotui.load(demo.path("chat"), cache_tokens=4096) as chat,
        miaotui.load(demo.path(), cache_tokens=4096) as story,
    ):
        yield {"chat": chat, "story": story}


@pytest.fixture(scope="module")
def client(models: dict[str, miaotui.Model]) -> Client:
    return Client(models)


def _content(events: list[Any], index: int = 0) -> str:
    choices = [choice for event in events for choice in event["choices"] if choice["index"] == index]
    return "".join(choice["delta"].get("content", "") for choice in choices)


def test_a_stream_is_the_answer_in_pieces(client: Client, models: dict[str, miaotui.Model]) -> None:
    alone = models["chat"].chat(MESSAGES, max_new_tokens=24)
    body = {"model": "chat", "messages": MESSAGES, "temperature": 0, "max_tokens": 24}
    whole = client.post(CHAT, body).json
    events = client.post(CHAT, {**body, "stream": True, "stream_options": {"include_usage": True}}).events
    assert whole["choices"][0]["message"]["content"] == _content(events) == alone.text
    assert whole["choices"][0]["finish_reason"] == "stop"
    assert events[0]["choices"][0]["delta"]["role"] == "assistant"
    *chunks, last = events
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert reasons == [None] * (len(chunks) - 1) + ["stop"]
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    usage = last["usage"]
    assert (
        usage["prompt_tokens"] + usage["completion_tokens"] == usage["total_tokens"] == whole["usage"]["total_tokens"]
    )
    assert usage["prompt_tokens_details"]["cached_tokens"] == usage["prompt_tokens"] - 1  # the answer before read it
    assert usage["completion_tokens"] == len(alone.ids)
    assert {event["id"] for event in events} == {events[0]["id"]} != {whole["id"]}


def test_a_stop_text_never_shows(client: Client) -> None:
    body = {"model": "story", "prompt": START, "temperature": 0, "max_tokens": 24}
    text = client.post(COMPLETIONS, body).json["choices"][0]["text"]
    stop = text[7:10]
    events = client.post(COMPLETIONS, {**body, "stop": ["never at all", stop], "stream": True}).events
    assert "".join(e["choices"][0]["text"] for e in events) == text[: text.index(stop)]
    assert events[-1]["choices"][0]["finish_reason"] == "stop"


def test_several_answers_are_those_of_the_seed(client: Client, models: dict[str, miaotui.Model]) -> None:
    alone = models["story"].generate(START, n=3, seed=11, temperature=0.9, top_p=0.95, max_new_tokens=9)
    wanted = [alone.text, *(other.text for other in alone.alternatives)]
    assert len(set(wanted)) > 1
    body = {"model": "story", "prompt": START, "n": 3, "seed": 11, "temperature": 0.9, "top_p": 0.95, "max_tokens": 9}
    whole = client.post(COMPLETIONS, body).json
    assert [choice["text"] for choice in whole["choices"]] == wanted
    assert [(choice["index"], choice["seed"]) for choice in whole["choices"]] == [(0, 11), (1, 11), (2, 11)]
    assert whole["usage"]["completion_tokens"] == 27
    events = client.post(COMPLETIONS, {**body, "stream": True}).events
    for i, text in enumerate(wanted):
        assert "".join(e["choices"][0]["text"] for e in events if e["choices"][0]["index"] == i) == text


def test_an_answer_tells_the_seed_it_was_drawn_with(client: Client) -> None:
    body = {"model": "story", "prompt": START, "max_tokens": 12}  # as OpenAI's: no temperature is 1
    first = client.post(COMPLETIONS, body).json["choices"][0]
    assert 0 <= first["seed"] < 2**53
    again = client.post(COMPLETIONS, {**body, "seed": first["seed"], "temperature": 1}).json["choices"][0]
    assert again["text"] == first["text"]


def test_the_likeliest_answer_is_given_as_often_as_asked(client: Client) -> None:
    body = {"model": "story", "prompt": START, "n": 2, "temperature": 0, "max_tokens": 5}
    one, two = client.post(COMPLETIONS, body).json["choices"]
    assert one == {**two, "index": 0}
    events = client.post(COMPLETIONS, {**body, "stream": True}).events
    assert sorted({e["choices"][0]["index"] for e in events}) == [0, 1]


def test_logprobs_of_ids_that_are_given(client: Client, models: dict[str, miaotui.Model]) -> None:
    """What lm-evaluation-harness asks: where an option is the likeliest, and how likely it is."""
    story = models["story"]
    prompts = [story.tokenizer.encode(text) for text in (START, "The little dog")]
    body = {
        "model": "story", "prompt": prompts, "temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234,
        "echo": True,
    }  # fmt: skip
    choices = client.post(COMPLETIONS, body).json["choices"]
    assert [choice["index"] for choice in choices] == [0, 1]
    for ids, choice in zip(prompts, choices, strict=True):
        told = story.generate(ids, max_new_tokens=1, top_logprobs=1, echo=True).logprobs
        assert told is not None
        logprobs = choice["logprobs"]
        assert logprobs["token_logprobs"] == [each.logprob for each in told]
        assert logprobs["top_logprobs"][0] is None
        for each, top in zip(told[1:], logprobs["top_logprobs"][1:], strict=True):
            assert max(top.values()) == each.top_logprobs[0][1]
        assert choice["text"] == "".join(logprobs["tokens"])
        at = [choice["text"][i : i + len(t)] for i, t in zip(logprobs["text_offset"], logprobs["tokens"], strict=True)]
        assert at == logprobs["tokens"]


def test_echo_of_several_answers(client: Client) -> None:
    body = {
        "model": "story", "prompt": START, "temperature": 1, "seed": 3, "max_tokens": 3, "n": 2, "logprobs": 0,
        "echo": True,
    }  # fmt: skip
    one, two = client.post(COMPLETIONS, body).json["choices"]
    n = len(one["logprobs"]["tokens"]) - 3
    assert one["logprobs"]["token_logprobs"][:n] == two["logprobs"]["token_logprobs"][:n]
    assert len(two["logprobs"]["tokens"]) == n + 3
    assert one["text"].startswith(START)
    error = client.post(COMPLETIONS, {**body, "stream": True}).error
    assert error["param"] == "echo"
    nothing = client.post(COMPLETIONS, {**body, "n": 1, "max_tokens": 0}).json["choices"][0]
    assert nothing["text"] == START
    assert len(nothing["logprobs"]["tokens"]) == n


def test_logprobs_of_a_chat(client: Client, models: dict[str, miaotui.Model]) -> None:
    alone = models["chat"].chat(MESSAGES, max_new_tokens=6, top_logprobs=2)
    body = {
        "model": "chat", "messages": MESSAGES, "temperature": 0, "max_tokens": 6, "logprobs": True, "top_logprobs": 2,
    }  # fmt: skip
    whole = client.post(CHAT, body).json["choices"][0]["logprobs"]["content"]
    assert alone.logprobs is not None
    assert [each["logprob"] for each in whole] == [each.logprob for each in alone.logprobs]
    assert bytes(b for each in whole for b in each["bytes"]).decode() == alone.text
    assert all([other["logprob"] for other in each["top_logprobs"]] for each in whole)
    events = client.post(CHAT, {**body, "stream": True}).events
    told = [c["logprobs"] for e in events for c in e["choices"] if c["logprobs"] is not None]
    assert [each for part in told for each in part["content"]] == whole


@pytest.mark.parametrize("strict", [None, True])
def test_json_of_a_schema(client: Client, strict) -> None:
    schema = {
        "type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False,
    }  # fmt: skip
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": strict}}
    body = {"model": "chat", "messages": MESSAGES, "response_format": wanted, "seed": 2}
    choice = client.post(CHAT, body).json["choices"][0]
    assert choice["finish_reason"] == "stop"
    assert list(json.loads(choice["message"]["content"])) == ["a"]
    refused = client.post(
        CHAT, {**body, "response_format": {"type": "json_schema", "json_schema": {"schema": {"type": 3}}}}
    )
    assert (refused.status, refused.error["param"]) == (400, "response_format")


def test_a_text_may_be_json_of_a_schema_too(client: Client) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
    wanted = {"type": "json_schema", "json_schema": {"schema": {**schema, "additionalProperties": False}}}
    body = {"model": "story", "prompt": START, "seed": 2, "max_tokens": 64}
    choice = client.post(COMPLETIONS, {**body, "response_format": wanted}).json["choices"][0]
    assert list(json.loads(choice["text"])) == ["a"]
    held = client.post(COMPLETIONS, {**body, "response_format": {"type": "json_object"}}).json["choices"][0]
    assert held["text"].lstrip().startswith("{")
    named = {"type": "json_schema"}
    for wrong, param in (
        ({"type": "xml"}, "response_format.type"),
        (named, "response_format.json_schema"),
        ({**named, "json_schema": {"schema": {"type": 3}}}, "response_format"),
    ):
        refused = client.post(COMPLETIONS, {**body, "response_format": wrong})
        assert (refused.status, refused.error["param"]) == (400, param)


def test_our_own_parameters(client: Client, models: dict[str, miaotui.Model]) -> None:
    body = {"model": "story", "prompt": START, "seed": 5, "temperature": 0.8, "max_tokens": 8}
    own = {"top_k": 7, "min_p": 0.02, "repetition_penalty": 1.2, "priority": 3}
    wanted = models["story"].generate(START, seed=5, temperature=0.8, max_new_tokens=8, **own).text
    assert client.post(COMPLETIONS, {**body, **own}).json["choices"][0]["text"] == wanted
    held = client.post(COMPLETIONS, {**body, "choices": [" cat", " dog"]}).json["choices"][0]
    assert held["text"] in {" cat", " dog"}
    banned = models["story"].tokenizer.encode(" a", add_special_tokens=False)[-1]
    assert client.post(COMPLETIONS, {**body, "temperature": 0, "max_tokens": 1}).json["choices"][0]["text"] == " a"
    other = client.post(COMPLETIONS, {**body, "temperature": 0, "max_tokens": 1, "logit_bias": {str(banned): -100}})
    assert other.json["choices"][0]["text"] != " a"


@pytest.mark.parametrize(
    "own",
    [
        {"guidance_scale": 2.5},
        {"watermarking_config": {"bias": 6.0, "seeding_scheme": "selfhash", "context_width": 2}},
        {"watermarking_config": {}},
        {"watermarking_config": False, "remove_invalid_values": True},
        {"renormalize_logits": True, "num_beams": 3, "repetition_penalty": 1.3},
    ],
    ids=lambda own: next(iter(own)),
)
def test_guidance_watermarks_and_repairs_are_those_of_generate(
    client: Client, models: dict[str, miaotui.Model], own: dict[str, Any]
) -> None:
    body = {"model": "story", "prompt": START, "temperature": 0, "max_tokens": 16}
    plain, wanted = (models["story"].generate(START, max_new_tokens=16, **how).text for how in ({}, own))
    assert client.post(COMPLETIONS, {**body, **own}).json["choices"][0]["text"] == wanted
    assert (wanted != plain) == ("remove_invalid_values" not in own)
    told = client.post(CHAT, {"messages": MESSAGES, "temperature": 0, "max_tokens": 8, **own}).json["choices"][0]
    talk = models["chat"].chat(MESSAGES, max_new_tokens=8, **own)
    assert told["message"]["content"] == talk.text


BAD: list[tuple[str, dict[str, Any], int, str | None]] = [
    (CHAT, {"model": "nobody"}, 404, "model"),
    (CHAT, {"max_tokens": 0}, 400, "max_tokens"),
    (CHAT, {"max_tokens": "10"}, 400, "max_tokens"),
    (CHAT, {"max_tokens": 5, "max_completion_tokens": 5}, 400, "max_tokens"),
    (CHAT, {"n": 0}, 400, "n"),
    (CHAT, {"n": 1.5}, 400, "n"),
    (CHAT, {"n": 10**40}, 400, "n"),
    (CHAT, {"temperature": -1}, 400, "temperature"),
    (CHAT, {"temperature": True}, 400, "temperature"),
    (CHAT, {"top_p": 0}, 400, "top_p"),
    (CHAT, {"mirostat": 1}, 400, "mirostat"),
    (CHAT, {"guidance_scale": "2"}, 400, "guidance_scale"),
    (CHAT, {"guidance_scale": 2, "overflow": "window"}, 400, "guidance_scale"),
    (CHAT, {"watermarking_config": True}, 400, "watermarking_config"),
    (CHAT, {"watermarking_config": {"bais": 1}}, 400, "watermarking_config.bais"),
    (CHAT, {"watermarking_config": {"greenlist_ratio": 1}}, 400, "watermarking_config"),
    (CHAT, {"watermarking_config": {"context_width": 0}}, 400, "watermarking_config"),
    (CHAT, {"seed": -1}, 400, "seed"),
    (CHAT, {"stop": [""]}, 400, "stop[0]"),
    (CHAT, {"messages": []}, 400, "messages"),
    (CHAT, {"messages": [{"content": "a"}]}, 400, "messages[0].role"),
    (CHAT, {"messages": [{"role": "user", "contents": "a"}]}, 400, "messages[0].content"),
    (
        CHAT,
        {"messages": [*MESSAGES, {"role": "assistant", "content": None}]},
        400,
        f"messages[{len(MESSAGES)}].content",
    ),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages[0].content[0].type"),
    (CHAT, {"messages": [{"role": "user", "content": "\ud800"}]}, 400, "messages[0].content"),
    (CHAT, {"logit_bias": {"x": 1}}, 400, "logit_bias"),
    (CHAT, {"logit_bias": {"999999": 1}}, 400, "logit_bias"),
    (CHAT, {"top_logprobs": 2}, 400, "top_logprobs"),
    (CHAT, {"response_format": {"type": "xml"}}, 400, "response_format.type"),
    (CHAT, {"store": True}, 400, "store"),
    (CHAT, {"audio": {}}, 400, "audio"),
    (CHAT, {"adapter": "nobody"}, 400, "adapter"),
    (CHAT, {"regex": "(a"}, 400, "regex"),
    (CHAT, {"regex": "a", "choices": ["b"]}, 400, None),
    (COMPLETIONS, {"prompt": [10**6]}, 400, "prompt"),
    (COMPLETIONS, {"prompt": [-1]}, 400, "prompt[0]"),
    (COMPLETIONS, {"prompt": []}, 400, "prompt"),
    (COMPLETIONS, {"prompt": [["a"]]}, 400, "prompt[0][0]"),
    (COMPLETIONS, {"prompt": ["a", [1]]}, 400, "prompt[1]"),
    (COMPLETIONS, {"prompt": [True]}, 400, "prompt"),
    (CHAT, {"chat_template_kwargs": {"messages": []}}, 400, "chat_template_kwargs"),
    (CHAT, {"regex": "a", "response_format": {"type": "json_object"}}, 400, "response_format"),
    (COMPLETIONS, {"prompt": "a " * 3000}, 400, "prompt"),
    (COMPLETIONS, {"prompt": ["a"] * 129}, 400, "n"),
    (COMPLETIONS, {"suffix": "b", "prompt": "a"}, 400, None),
    (COMPLETIONS, {"best_of": 2}, 400, "best_of"),
]


@pytest.mark.parametrize(("path", "wrong", "status", "param"), BAD, ids=[str(sorted(bad[1]))[1:-1] for bad in BAD])
def test_what_is_wrong_is_named(
    client: Client, path: str, wrong: dict[str, Any], status: int, param: str | None
) -> None:
    good = {"messages": MESSAGES} if path == CHAT else {"model": "story", "prompt": "Once"}
    reply = client.post(path, {**good, **wrong})
    assert reply.status == status
    error = reply.error
    assert error["type"] == "invalid_request_error"
    assert param is None or error["param"] == param
    assert param is None or param in error["message"]
    assert "Traceback" not in error["message"]
    assert len(error["message"]) < 2000


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b'{"a": NaN}',
        b"null",
        b"[" * 100_000,
        b'{"prompt": ' + b"1" * 5000 + b"}",
        b"\xef\xbb\xbf{}",
    ],
    ids=range(9),
)
def test_a_body_that_is_no_json_object(client: Client, body: bytes) -> None:
    reply = client.post(COMPLETIONS, body)
    assert reply.status == 400
    assert reply.error["code"] in {"invalid_json", "invalid_value"}


def test_models_and_paths(client: Client) -> None:
    listed = client.get("/v1/models").json
    assert [model["id"] for model in listed["data"]] == ["chat", "story"]
    assert client.get("/v1/models/story").json["max_model_len"] == 512
    assert client.get("/v1/models/../../etc/passwd").status == 404
    assert client.get("/nothing").error["code"] == "not_found"
    assert client.post(f"{CHAT}/", {"messages": MESSAGES}).error["code"] == "not_found"  # and no redirection
    assert client.get(CHAT).status == 405
    assert client.get(CHAT).error["message"] == f"GET: {CHAT} takes POST only"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": MESSAGES}),
        ("/v1/messages", {"messages": MESSAGES, "max_tokens": 4}),
        ("/v1/messages/count_tokens", {"messages": MESSAGES}),
        ("/v1/responses", {"input": "Hi"}),
        ("/tokenize", {"messages": MESSAGES}),
    ],
)
def test_a_model_without_a_chat_template_is_named_as_the_request_names_it(
    client: Client, path: str, body: dict[str, Any]
) -> None:
    reply = client.post(path, {"model": "story", **body})
    assert reply.status == 400
    told = reply.json["error"]
    assert "model: story has no chat template" in told["message"]
    assert told.get("param", "model") == "model"


def test_no_error_tells_where_a_model_lies(
    client: Client, models: dict[str, miaotui.Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    where = models["story"].directory

    def damaged(*_: object, **__: object) -> Any:
        msg = f"{where / 'tokenizer.json'}: cannot encode a text"
        raise TokenizerError(msg)

    monkeypatch.setattr(type(models["story"].tokenizer), "encode", damaged)
    reply = client.post(COMPLETIONS, {"model": "story", "prompt": "Once"})
    assert reply.error["message"] == "story/tokenizer.json: cannot encode a text"


def test_a_model_without_a_tokenizer_tells_no_place(tmp_path: Path) -> None:
    for file in demo.path().iterdir():
        if file.is_file() and not file.name.startswith("token"):
            (tmp_path / file.name).symlink_to(file)
    with miaotui.load(tmp_path, threads=1, cache_tokens=64) as model:
        reply = Client({"plain": model}).get("/tokenizer_info")
    assert reply.status == 400
    assert reply.error["message"].startswith("plain: no tokenizer.json; ")
    assert str(tmp_path) not in reply.error["message"]


@pytest.mark.parametrize(
    ("lies", "text", "told"),
    [
        ("/m/story", "/m/story/tokenizer.json: broken", "tale/tokenizer.json: broken"),
        ("/m/story", "'/m/story': broken, as is /m/story.", "'tale': broken, as is tale."),
        ("/m/story", "/m/story-2/x, /m/story.old/x, /a/m/story/x", "/m/story-2/x, /m/story.old/x, /a/m/story/x"),
        ("/m", "/m/x: broken, and /m/other/x", "tale/x: broken, and second/x"),
        (".", "top_p: 0.5. found", "top_p: 0.5. found"),
        ("model", "model: there is no 'nobody' here", "model: there is no 'nobody' here"),
    ],
)
def test_only_the_place_of_a_model_is_told_as_its_name(lies: str, text: str, told: str) -> None:
    models: Any = {"tale": SimpleNamespace(directory=Path(lies)), "second": SimpleNamespace(directory=Path("/m/other"))}
    assert Served(models).told(text) == told


def test_what_a_template_refuses_is_named_as_the_request_names_it(client: Client) -> None:
    """The included model knows no system message."""
    for path, body, param in (
        (CHAT, {"messages": [{"role": "system", "content": "a"}, *MESSAGES]}, "messages"),
        ("/v1/responses", {"input": "Hi", "instructions": "a"}, "input"),
    ):
        told = client.post(path, {"model": "chat", **body}).error
        assert (told["param"], told["message"].startswith(f"{param}: the chat template refuses")) == (param, True)


def test_what_is_missing_is_told_in_words(client: Client) -> None:
    told = client.post(COMPLETIONS, {"model": "story"}).error
    said = "prompt: this field is missing; expected a text, a list of token ids, or a list of either"
    assert (told["param"], told["message"]) == ("prompt", said)
    told = client.post(COMPLETIONS, {"model": "story", "prompt": []}).error
    assert "a list of 0 found, expected a text or a list (of an integer, at least 0), not empty or" in told["message"]


def test_a_model_that_cannot_fill_in_says_so(client: Client) -> None:
    told = client.post(COMPLETIONS, {"model": "story", "prompt": "a", "suffix": "b"}).error
    assert (told["param"], "no tokens to fill in the middle with" in told["message"]) == ("suffix", True)


def test_a_model_that_writes_no_text() -> None:
    with miaotui.load(demo.path("encoder")) as encoder:
        reply = Client({"encoder": encoder}).post(COMPLETIONS, {"prompt": "a"})
    assert (reply.status, reply.error["param"]) == (400, "model")


def test_adapters_by_name(tmp_path: Any) -> None:
    places = {name: write_adapter(tmp_path / name, demo.path(), "q_proj", seed=i) for i, name in enumerate("ab")}
    with miaotui.load(demo.path(), adapters=places, cache_tokens=512) as model:
        client = Client({"base": model}, **{name: ("base", name) for name in places})
        body = {"prompt": START, "temperature": 0, "max_tokens": 8, "logprobs": 0}
        for name in places:
            told = client.post(COMPLETIONS, {**body, "model": name}).json["choices"][0]["logprobs"]
            other = client.post(COMPLETIONS, {**body, "adapter": name}).json["choices"][0]["logprobs"]
            alone = model.generate(START, max_new_tokens=8, adapter=name, logprobs=True).logprobs
            assert alone is not None
            assert told["token_logprobs"] == other["token_logprobs"] == [each.logprob for each in alone]
        assert client.get("/v1/models/a").json["parent"] == "base"


def test_many_at_once_get_their_own(client: Client, models: dict[str, miaotui.Model]) -> None:
    starts = [f"{START} a {word}" for word in ("cat", "dog", "fox", "bird", "fish", "girl", "boy", "king")] * 4
    wanted = {start: models["story"].generate(start, max_new_tokens=12).text for start in set(starts)}

    async def all_of_them() -> list[Reply]:
        bodies = [{"model": "story", "prompt": start, "temperature": 0, "max_tokens": 12} for start in starts]
        return await asyncio.gather(
            *(client.ask("POST", COMPLETIONS, {**body, "stream": bool(i % 2)}) for i, body in enumerate(bodies))
        )

    for start, reply in zip(starts, asked(all_of_them()), strict=True):
        streamed = reply.headers["content-type"].startswith("text/event-stream")
        text = "".join(e["choices"][0]["text"] for e in reply.events) if streamed else reply.json["choices"][0]["text"]
        assert text == wanted[start]


def test_the_openapi_document_has_every_field(client: Client) -> None:
    from jsonschema import Draft202012Validator
    from miaotui.tools.server.app import WIRES

    told = client.get("/openapi.json").json
    for wire in WIRES:
        schema = told["paths"][wire.path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        Draft202012Validator.check_schema(schema)
        assert list(schema["properties"]) == [field.name for field in wire.fields]
    schema = told["paths"][CHAT]["post"]["requestBody"]["content"]["application/json"]["schema"]
    validator = Draft202012Validator(schema)
    assert validator.is_valid({"messages": MESSAGES, "temperature": None})
    assert not validator.is_valid({"messages": MESSAGES, "temperature": -1})
    assert not validator.is_valid({"temperature": 1})
