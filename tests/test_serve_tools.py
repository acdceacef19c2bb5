"""Tools over HTTP: calls are read, asked for and answered, in each of the three forms."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("starlette", reason="starlette is not installed: pip install 'miaotui[serve]'")
pytest.importorskip("prometheus_client", reason="prometheus-client is not installed: pip install 'miaotui[serve]'")
pytest.importorskip("jinja2", reason="jinja2 is not installed: pip install 'miaotui[serve]'")

from miaotui.tools.server.served import Served
from scripted import TEMPLATES, Scripted, load_with
from serving import Client, Reply

if TYPE_CHECKING:
    from collections.abc import Iterator

    import miaotui

CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Oslo"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "Tell it.", "parameters": PARAMETERS}}
CLOCK = {"type": "function", "function": {"name": "get_time"}}
USER = [{"role": "user", "content": "What is the weather in Rome?"}]
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome", "days": 3}}\n</tool_call>'
OTHER = '<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>'


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, miaotui.Model]]:
    made = {name: load_with(text, tmp_path_factory.mktemp("model")) for name, text in TEMPLATES.items()}
    yield made
    for model in made.values():
        model.close()


def client(models: dict[str, miaotui.Model], name: str, says: str | None = None) -> tuple[Client, Scripted]:
    scripted = Scripted(models[name], says)
    return Client({"m": scripted}), scripted  # type: ignore[dict-item]  # it answers as one does


def body(**more: Any) -> dict[str, Any]:
    return {"messages": USER, "tools": [WEATHER, CLOCK], "temperature": 0, "max_tokens": 200, **more}


def merged(events: list[Any]) -> tuple[dict[str, Any], str]:
    """A message as a client puts it together, and why it ended."""
    message: dict[str, Any] = {"content": "", "reasoning_content": "", "tool_calls": []}
    finish = ""
    for event in events:
        for choice in event["choices"]:
            delta = choice["delta"]
            for name in ("content", "reasoning_content"):
                message[name] += delta.get(name) or ""
            for call in delta.get("tool_calls", ()):
                assert call["index"] == len(message["tool_calls"])
                message["tool_calls"].append({key: call[key] for key in ("id", "type", "function")})
            finish = choice["finish_reason"] or finish
    return message, finish


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("hermes", f"Let me see.\n{CALL}\n{OTHER}"),
        ("qwen3_coder", (
            "Let me see.\n<tool_call>\n<function=weather>\n<parameter=city>\nRome\n</parameter>\n"
            "<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=get_time>\n</function>"
        )),
        ("mistral", 'Let me see.[TOOL_CALLS]weather[ARGS]{"city": "Rome", "days": 3}[TOOL_CALLS]get_time[ARGS]{}'),
        ("llama3_json", (
            '<|python_tag|>{"name": "weather", "parameters": {"city": "Rome", "days": 3}}; '
            '{"name": "get_time", "parameters": {}}'
        )),
        ("pythonic", "[weather(city='Rome', days=3), get_time()]"),
    ],
)  # fmt: skip
def test_calls_are_read_whole_and_streamed(models: dict[str, miaotui.Model], name: str, says: str) -> None:
    made, scripted = client(models, name, says)
    choice = made.post(CHAT, body()).json["choices"][0]
    message = choice["message"]
    assert choice["finish_reason"] == "tool_calls"
    assert message["content"] == ("Let me see." if says.startswith("Let") else None)
    calls = [(c["function"]["name"], json.loads(c["function"]["arguments"])) for c in message["tool_calls"]]
    assert calls == [("weather", {"city": "Rome", "days": 3}), ("get_time", {})]
    streamed, finish = merged(made.post(CHAT, body(stream=True)).events)
    assert finish == "tool_calls"
    assert streamed["tool_calls"] == message["tool_calls"]
    assert streamed["content"] == (message["content"] or "")
    prompt = models[name].tokenizer.decode(scripted.asked[0][0])
    assert '"description": "Tell it."' in prompt
    assert "strict" not in prompt


def test_a_history_of_calls_is_a_prompt(models: dict[str, miaotui.Model]) -> None:
    made, scripted = client(models, "hermes", "It is warm.")
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
    history = [
        {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]},
        *USER,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "25 degrees"},
    ]
    reply = made.post(CHAT, body(messages=history)).json
    assert reply["choices"][0]["message"]["content"] == "It is warm."
    prompt = models["hermes"].tokenizer.decode(scripted.asked[0][0])
    assert "[system] Be brief." in prompt
    assert 'CALL weather {"city": "Rome"}' in prompt
    assert "[tool] 25 degrees" in prompt
    call["function"]["arguments"] = "[1"
    error = made.post(CHAT, body(messages=history)).error
    assert error["param"] == "messages[2].tool_calls[0].function.arguments"


@pytest.mark.parametrize("name", ["hermes", "mistral", "pythonic", "thinking"])
def test_a_call_that_must_come_comes(models: dict[str, miaotui.Model], name: str) -> None:
    """Of a model that never saw one."""
    made, _ = client(models, name)
    pick = {"type": "function", "function": {"name": "weather"}}
    for choice in (pick, "required"):
        asked = body(tool_choice=choice, tools=[WEATHER] if choice == "required" else [CLOCK, WEATHER])
        answer = made.post(CHAT, {**asked, "parallel_tool_calls": False}).json["choices"][0]
        assert answer["finish_reason"] == "tool_calls", answer
        [call] = answer["message"]["tool_calls"]
        assert call["function"]["name"] == "weather"
        assert json.loads(call["function"]["arguments"])["city"] in {"Rome", "Oslo"}
        assert not answer["message"]["content"]


def test_one_call_at_most(models: dict[str, miaotui.Model]) -> None:
    made, _ = client(models, "hermes", f"{CALL}\n{OTHER} and more")
    choice = made.post(CHAT, body(parallel_tool_calls=False)).json["choices"][0]
    assert [call["function"]["name"] for call in choice["message"]["tool_calls"]] == ["weather"]
    assert choice["message"]["content"] is None


def test_no_call_where_none_may_come_or_a_limit_cut_it(models: dict[str, miaotui.Model]) -> None:
    made, scripted = client(models, "hermes", f"So: {CALL}")
    none = made.post(CHAT, body(tool_choice="none")).json["choices"][0]
    assert none["message"]["content"] == f"So: {CALL}"
    assert none["finish_reason"] == "stop"
    assert "TOOLS" not in models["hermes"].tokenizer.decode(scripted.asked[0][0])
    n = len(models["hermes"].tokenizer.encode(f"So: {CALL[:40]}", add_special_tokens=False))
    cut = made.post(CHAT, body(max_tokens=n)).json["choices"][0]
    assert cut["finish_reason"] == "length"
    assert cut["message"]["content"] == "So:"
    assert "tool_calls" not in cut["message"]


def test_reasoning_is_told_apart(models: dict[str, miaotui.Model]) -> None:
    made, scripted = client(models, "thinking", f"Hm, Rome.\n</think>\n\nLet me see.\n{CALL}")
    message = made.post(CHAT, body()).json["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("Hm, Rome.", "Let me see.")
    assert len(message["tool_calls"]) == 1
    streamed, _ = merged(made.post(CHAT, body(stream=True)).events)
    assert streamed["reasoning_content"] == "Hm, Rome."
    scripted.says = '{"a": 1}'
    held = {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}
    plain = made.post(CHAT, {"messages": USER, "temperature": 0, "response_format": held}).json["choices"][0]["message"]
    assert plain["content"] == '{"a": 1}'
    assert models["thinking"].tokenizer.decode(scripted.asked[-1][0]).endswith("<think>\n\n</think>\n\n")


REFUSED: list[tuple[str, dict[str, Any], str, str]] = [
    ("no tools", {}, "tools", "this model's chat template tells it of none"),
    ("none", {}, "tools", "how this model writes calls is not known"),
    ("hermes", {"tools": [CLOCK, CLOCK]}, "tools[1].function.name", "there is another 'get_time'"),
    ("hermes", {"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name", "letters"),
    ("hermes", {"tools": [{"type": "retrieval"}]}, "tools[0].type", "function"),
    ("hermes", {"tools": [{"type": "function", "function": {"name": "f", "x": 1}}]}, "tools[0].function.x", "no such"),
    ("hermes", {"tools": [], "tool_choice": "required"}, "tool_choice", "there are no tools"),
    ("hermes", {"tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice", "no function 'g'"),
    ("hermes", {"response_format": {"type": "json_object"}}, "response_format", "can call nothing"),
    ("hermes", {"regex": "a+"}, "regex", "can call nothing"),
    ("hermes", {"functions": [{}]}, "functions", "no such field"),
    (
        "hermes",
        {
            "tool_choice": "required",
            "tools": [CLOCK, {"type": "function", "function": {"name": "f", "parameters": {"not": {}}}}],
        },
        "tools[1].function.parameters",
        "not",
    ),
    (
        "mistral",
        {"tools": [{"type": "function", "function": {"name": "f", "strict": True}}]},
        "tools[0].function.strict",
        "special token",
    ),
]


@pytest.mark.parametrize(("name", "more", "param", "says"), REFUSED, ids=[f"{n} {p}" for n, _, p, _ in REFUSED])
def test_what_cannot_be_is_refused_by_name(
    models: dict[str, miaotui.Model], name: str, more: dict[str, Any], param: str, says: str
) -> None:
    made, scripted = client(models, name, "Hello")
    reply = made.post(CHAT, body(**more))
    assert reply.status == 400
    assert reply.error["param"] == param
    assert says in reply.error["message"]
    assert not scripted.asked


def test_strict_functions_get_the_arguments_that_they_ask_for(models: dict[str, miaotui.Model]) -> None:
    made, scripted = client(models, "hermes", f"So: {CALL}")
    strict = {"type": "function", "function": {**WEATHER["function"], "strict": True}}  # type: ignore[dict-item]
    choice = made.post(CHAT, body(tools=[strict])).json["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert "grammar" in scripted.asked[0][1]


def blocks(reply: Reply) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Content as a client puts it together of a stream of messages', and the last delta of the message."""
    made: list[dict[str, Any]] = []
    open_: list[int] = []
    last: dict[str, Any] = {}
    names = [line.removeprefix("event: ") for line in reply.body.decode().splitlines() if line.startswith("event: ")]
    data = [json.loads(line[6:]) for line in reply.body.decode().splitlines() if line.startswith("data: ")]
    assert [event["type"] for event in data] == names
    assert names[:2] == ["message_start", "ping"]
    assert names[-2:] == ["message_delta", "message_stop"]
    for event in data:
        match event["type"]:
            case "content_block_start":
                assert event["index"] == len(made)
                open_.append(event["index"])
                made.append(dict(event["content_block"]))
            case "content_block_delta":
                assert open_ == [event["index"]]
                kind, *_ = (key for key in event["delta"] if key != "type")
                key = {"partial_json": "json"}.get(kind, kind)
                made[event["index"]][key] = made[event["index"]].get(key, "") + event["delta"][kind]
            case "content_block_stop":
                open_.remove(event["index"])
                if "json" in made[event["index"]]:
                    made[event["index"]]["input"] = json.loads(made[event["index"]].pop("json"))
            case "message_delta":
                last = event
    assert not open_
    return made, last


def said(**more: Any) -> dict[str, Any]:
    tools = [{"name": "weather", "input_schema": PARAMETERS}, {"name": "get_time", "input_schema": {"type": "object"}}]
    return {"messages": USER, "tools": tools, "temperature": 0, "max_tokens": 200, **more}


def test_messages_whole_and_streamed(models: dict[str, miaotui.Model]) -> None:
    made, _ = client(models, "thinking", f"Hm.\n</think>\n\nLet me see.\n{CALL}\n{OTHER}")
    whole = made.post(MESSAGES, said()).json
    assert [block["type"] for block in whole["content"]] == ["thinking", "text", "tool_use", "tool_use"]
    assert whole["content"][2]["input"] == {"city": "Rome", "days": 3}
    assert (whole["stop_reason"], whole["stop_sequence"]) == ("tool_use", None)
    reply = made.post(MESSAGES, said(stream=True))
    content, last = blocks(reply)
    assert content == whole["content"]
    assert last["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert last["usage"]["output_tokens"] == whole["usage"]["output_tokens"] > 0
    count = made.post(f"{MESSAGES}/count_tokens", {"messages": USER, "tools": said()["tools"]}).json
    assert count == {"input_tokens": whole["usage"]["input_tokens"] + whole["usage"]["cache_read_input_tokens"]}


def test_messages_of_blocks_are_a_prompt(models: dict[str, miaotui.Model]) -> None:
    made, scripted = client(models, "hermes", "It is warm. END and more")
    cache = {"cache_control": {"type": "ephemeral"}}
    history = [
        *USER,
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "Hm.", "signature": ""}, {"type": "text", "text": "Let me see."},
            {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Rome"}},
        ]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "25", **cache}]},
            {"type": "text", "text": "And?"},
        ]},
    ]  # fmt: skip
    asked = said(messages=history, system=[{"type": "text", "text": "Be brief."}], stop_sequences=["NEVER", "END"])
    whole = made.post(MESSAGES, asked, {"x-api-key": "k", "anthropic-version": "2023-06-01"}).json
    assert whole["content"] == [{"type": "text", "text": "It is warm. "}]
    assert (whole["stop_reason"], whole["stop_sequence"]) == ("stop_sequence", "END")
    lines = models["hermes"].tokenizer.decode(scripted.asked[0][0]).strip().splitlines()
    assert lines[1:] == [
        "[system] Be brief.", f"[user] {USER[0]['content']}", '[assistant]Hm. Let me see.CALL weather {"city": "Rome"}',
        "[tool] 25", "[user] And?", "[assistant]",
    ]  # fmt: skip
    _, last = blocks(made.post(MESSAGES, {**asked, "stream": True}))
    assert last["delta"] == {"stop_reason": "stop_sequence", "stop_sequence": "END"}


def test_messages_that_must_call(models: dict[str, miaotui.Model]) -> None:
    made, scripted = client(models, "hermes")
    for choice in ({"type": "tool", "name": "weather"}, {"type": "any", "disable_parallel_tool_use": True}):
        whole = made.post(MESSAGES, said(tool_choice=choice, tools=said()["tools"][:1])).json
        [use] = whole["content"]
        assert use["name"] == "weather"
        assert use["input"]["city"] in {"Rome", "Oslo"}
    scripted.says = "no"
    made.post(MESSAGES, said(tool_choice={"type": "none"}))
    assert "TOOLS" not in models["hermes"].tokenizer.decode(scripted.asked[-1][0])


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"max_tokens": None}, "max_tokens: this field is missing"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking"),
        ({"mcp_servers": []}, "mcp_servers"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "messages[0].content"),
        ({"messages": [{"role": "assistant", "content": [{"type": "tool_result", "tool_use_id": "t"}]}]},
         "messages[0].content[0].type: tool_result found"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0]"),
        ({"tools": [{"name": "a b", "input_schema": {"type": "object"}}]}, "tools[0].name: 'a b' found"),
        ({"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}}, "output_config.format"),
    ],
)  # fmt: skip
def test_messages_refuse_by_name_in_their_own_form(
    models: dict[str, miaotui.Model], more: dict[str, Any], says: str
) -> None:
    made, _ = client(models, "hermes", "Hello")
    reply = made.post(MESSAGES, said(**more))
    assert reply.status == 400
    assert reply.json["type"] == "error"
    assert reply.json["error"]["type"] == "invalid_request_error"
    assert says in reply.json["error"]["message"]


def test_json_of_a_schema_as_a_message(models: dict[str, miaotui.Model]) -> None:
    made, _ = client(models, "hermes")
    config = {"format": {"type": "json_schema", "schema": PARAMETERS}}
    whole = made.post(MESSAGES, {"messages": USER, "max_tokens": 60, "output_config": config}).json
    assert set(json.loads(whole["content"][0]["text"])) == {"city", "days"}


def wanted(**more: Any) -> dict[str, Any]:
    tools = [
        {"type": "function", "name": "weather", "parameters": PARAMETERS},
        {"type": "function", "name": "get_time"},
    ]
    return {"input": USER[0]["content"], "tools": tools, "temperature": 0, "max_output_tokens": 200, **more}


def plain(item: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in item.items() if key != "id"}


def test_responses_whole_and_streamed(models: dict[str, miaotui.Model]) -> None:
    made, _ = client(models, "thinking", f"Hm.\n</think>\n\nLet me see.\n{CALL}\n{OTHER}")
    whole = made.post(RESPONSES, wanted()).json
    assert [item["type"] for item in whole["output"]] == ["reasoning", "message", "function_call", "function_call"]
    assert json.loads(whole["output"][2]["arguments"]) == {"city": "Rome", "days": 3}
    assert whole["status"] == "completed"
    usage = whole["usage"]
    assert usage["input_tokens"] + usage["output_tokens"] == usage["total_tokens"]
    assert 0 < usage["output_tokens_details"]["reasoning_tokens"] < usage["output_tokens"]
    text = made.post(RESPONSES, wanted(stream=True)).body.decode()
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]
    assert [event["sequence_number"] for event in events] == [*range(len(events))]
    assert [f"event: {event['type']}" for event in events] == [
        line for line in text.splitlines() if line.startswith("event: ")
    ]
    assert events[-1]["type"] == "response.completed"
    last = events[-1]["response"]
    assert [plain(item) for item in last["output"]] == [
        plain({**item, "call_id": mine["call_id"]} if "call_id" in item else item)
        for item, mine in zip(whole["output"], last["output"], strict=True)
    ]
    deltas = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    assert deltas == "Let me see."
    assert last["usage"]["output_tokens_details"] == usage["output_tokens_details"]


def test_items_are_a_prompt(models: dict[str, miaotui.Model]) -> None:
    made, scripted = client(models, "hermes", "It is warm.")
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]},
        {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city": "Rome"}'},
        {"type": "function_call", "call_id": "c2", "name": "get_time", "arguments": "{}", "status": "completed"},
        {"type": "function_call_output", "call_id": "c1", "output": "25"},
        {"type": "function_call_output", "call_id": "c2", "output": "noon"},
    ]
    whole = made.post(RESPONSES, wanted(input=items, instructions="Be brief.")).json
    assert whole["output"][0]["content"][0]["text"] == "It is warm."
    lines = models["hermes"].tokenizer.decode(scripted.asked[0][0]).strip().splitlines()
    assert lines[1:] == [
        "[system] Be brief.", "[user] Weather?", '[assistant]Hm. CALL weather {"city": "Rome"}CALL get_time {}',
        "[tool] 25", "[tool] noon", "[assistant]",
    ]  # fmt: skip


def test_responses_of_json_and_of_a_limit(models: dict[str, miaotui.Model]) -> None:
    made, scripted = client(models, "hermes")
    form = {"format": {"type": "json_schema", "name": "w", "schema": PARAMETERS}}
    whole = made.post(RESPONSES, {"input": "Rome?", "text": form, "max_output_tokens": 60}).json
    assert set(json.loads(whole["output"][0]["content"][0]["text"])) == {"city", "days"}
    assert whole["text"] == form
    forced = made.post(RESPONSES, wanted(tool_choice={"type": "function", "name": "weather"})).json
    assert [item["type"] for item in forced["output"]] == ["function_call"]
    scripted.says = "It is warm in Rome."
    cut = made.post(RESPONSES, wanted(max_output_tokens=4)).json
    assert (cut["status"], cut["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert cut["output"][0]["status"] == "incomplete"


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"store": True}, "store"),
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
        ({"include": ["reasoning.encrypted_content"]}, "include"),
        ({"reasoning": {"effort": "low"}}, "reasoning"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].type"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"adapter": "nobody"}, "adapter"),
        ({"text": {"format": {"type": "json_object"}}}, "text.format"),
    ],
)
def test_responses_refuse_by_name(models: dict[str, miaotui.Model], more: dict[str, Any], param: str) -> None:
    made, _ = client(models, "hermes", "Hello")
    reply = made.post(RESPONSES, wanted(**more))
    assert reply.status == 400
    assert reply.error["param"].startswith(param)


def test_a_format_by_name(models: dict[str, miaotui.Model]) -> None:
    made, scripted = client(models, "none", CALL)
    served = Served({"m": scripted}, tool_calls="hermes")  # type: ignore[dict-item]  # as above
    made.state.served = served
    assert len(made.post(CHAT, body()).json["choices"][0]["message"]["tool_calls"]) == 1


HISTORY: list[dict[str, Any]] = [
    {"role": "user", "content": [{"type": "text", "text": "Rome?"}]},
    {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "weather", "input": {"city": "Rome"}}]},
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "25", "is_error": True}]},
]
ITEMS: list[dict[str, Any]] = [
    {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Rome?"}]},
    {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "Hm."}]},
    {"type": "function_call", "call_id": "t", "name": "weather", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "t", "output": [{"type": "input_text", "text": "25"}]},
]
BODIES: list[tuple[str, dict[str, Any]]] = [
    (CHAT, body(tool_choice="auto", parallel_tool_calls=False, stream=True, max_tokens=4)),
    (CHAT, body(tool_choice={"type": "function", "function": {"name": "weather"}}, max_tokens=4)),
    (
        MESSAGES,
        said(messages=HISTORY, tool_choice={"type": "any"}, system=[{"type": "text", "text": "x"}], max_tokens=4),
    ),
    (RESPONSES, wanted(input=ITEMS, text={"format": {"type": "text"}}, tool_choice="required", max_output_tokens=4)),
]
ODD = st.sampled_from(
    [None, True, 0, -1, 2**70, 1e300, "", "x", "\x00", [], {}, [[]], [{}], {"type": "x"}, "{{ 7 * 7 }}"]
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inside for place in places(item, (*path, key)))]


@given(st.sampled_from(BODIES), st.data(), st.lists(ODD, min_size=1, max_size=2))
@settings(max_examples=40)
def test_no_body_is_the_server_s_fault(
    models: dict[str, miaotui.Model], good: tuple[str, dict[str, Any]], data: st.DataObject, odd: list[Any]
) -> None:
    path, changed = good[0], copy.deepcopy(good[1])
    for value in odd:
        *where, last = data.draw(st.sampled_from(places(changed)[1:]))
        at = changed
        for key in where:
            at = at[key]
        at[last] = copy.deepcopy(value)
    made, _ = client(models, "hermes", "Hi")
    reply = made.post(path, changed)
    assert reply.status in {200, 400, 404}, reply.body
    if reply.status != 200:
        assert len(reply.json["error"]["message"]) > 10
