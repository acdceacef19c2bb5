"""The clients that people have, over loopback: their typed models of every answer and every event.

`pip install openai==3.57.0 anthropic==2.14.0 canitoolcall==0.1.1`, and `./dev soak clients`.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import miaotui
import pytest
from miaotui.tools import demo

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TOOL = {
    "name": "weather",
    "description": "Tell the weather.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"enum": ["Rome", "Oslo"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
CALLED = {"city": "Rome"}
SAYS = 'Hm.\n</think>\n\nLet me see.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
MESSAGES = [{"role": "user", "content": "What is the weather in Rome?"}]


@contextmanager
def serving_here(models: dict[str, Any]) -> Iterator[str]:
    """A server on loopback, in a thread."""
    from miaotui.tools.server.served import Served
    from miaotui.tools.server.settings import Settings
    from serving import on_loopback

    with on_loopback(Served(models), Settings(temperature=0.0)) as at:
        yield at


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    from scripted import TEMPLATES, Scripted, load_with

    directory: Path = tmp_path_factory.mktemp("model")
    with (
        load_with(TEMPLATES["thinking"], directory) as model,
        miaotui.load(demo.path("encoder")) as encoder,
        serving_here({"m": Scripted(model, SAYS), "free": model, "encoder": encoder}) as at,
    ):
        yield at


@pytest.fixture(scope="module")
def openai(url: str) -> Any:
    return pytest.importorskip("openai").OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def anthropic(url: str) -> Any:
    return pytest.importorskip("anthropic").Anthropic(base_url=url, api_key="none", max_retries=0)


def strictly(value: Any) -> Any:
    """Parsed again with every type checked, which the clients do not do; JSON comes back as it was."""
    type(value).model_validate(json.loads(value.model_dump_json(exclude_unset=True, by_alias=True)))
    return value


@pytest.mark.soak("clients")
def test_chat_completions(openai: Any) -> None:
    tools = [{"type": "function", "function": TOOL}]
    made = strictly(openai.chat.completions.create(model="m", messages=MESSAGES, tools=tools))
    [call] = made.choices[0].message.tool_calls
    assert json.loads(call.function.arguments) == CALLED
    assert made.choices[0].message.content == "Let me see."
    assert made.usage.prompt_tokens_details.cached_tokens >= 0
    with openai.chat.completions.stream(model="m", messages=MESSAGES, tools=tools) as stream:
        for event in stream:
            if event.type == "chunk":
                strictly(event.chunk)
        final = stream.get_final_completion()
    assert final.choices[0].message.tool_calls[0].id == call.id
    back = [
        *MESSAGES,
        made.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "25 degrees"},
    ]
    strictly(openai.chat.completions.create(model="m", messages=back, tools=tools))
    forced = openai.chat.completions.create(
        model="free",
        messages=MESSAGES,
        tools=tools,
        tool_choice={"type": "function", "function": {"name": "weather"}},
        max_tokens=64,
    )
    assert json.loads(strictly(forced).choices[0].message.tool_calls[0].function.arguments)["city"] in {"Rome", "Oslo"}


@pytest.mark.soak("clients")
def test_responses(openai: Any) -> None:
    tools = [{"type": "function", "strict": False, **TOOL}]
    made = strictly(openai.responses.create(model="m", input="What is the weather in Rome?", tools=tools))
    assert [item.type for item in made.output] == ["reasoning", "message", "function_call"]
    assert made.output_text == "Let me see."
    events = [strictly(event) for event in openai.responses.create(model="m", input="Rome?", tools=tools, stream=True)]
    assert [event.sequence_number for event in events] == [*range(len(events))]
    assert events[-1].type == "response.completed"
    with openai.responses.stream(model="m", input="Rome?", tools=tools) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert final.output_text == "Let me see."
    assert "response.function_call_arguments.done" in kinds
    back = [
        *MESSAGES,
        *(item.model_dump(exclude_none=True) for item in made.output),
        {"type": "function_call_output", "call_id": made.output[2].call_id, "output": "25 degrees"},
    ]
    strictly(openai.responses.create(model="m", input=back, tools=tools, instructions="Be brief."))
    form = {"type": "json_schema", "name": "w", "schema": TOOL["parameters"], "strict": True}
    held = strictly(openai.responses.create(model="free", input="Rome?", text={"format": form}, max_output_tokens=64))
    assert json.loads(held.output_text)["city"] in {"Rome", "Oslo"}


@pytest.mark.soak("clients")
def test_messages(anthropic: Any) -> None:
    tools = [{"name": TOOL["name"], "description": TOOL["description"], "input_schema": TOOL["parameters"]}]
    asked = {"model": "m", "max_tokens": 200, "messages": MESSAGES, "tools": tools}
    made = strictly(anthropic.messages.create(**asked))
    assert [block.type for block in made.content] == ["thinking", "text", "tool_use"]
    assert made.content[2].input == CALLED
    assert made.stop_reason == "tool_use"
    for event in anthropic.messages.create(**asked, stream=True):
        strictly(event)
    with anthropic.messages.stream(**asked) as stream:
        kinds = {event.type for event in stream}
        final = strictly(stream.get_final_message())
    assert [block.model_dump() for block in final.content[:2]] == [block.model_dump() for block in made.content[:2]]
    assert final.content[2].input == CALLED
    assert {"text", "thinking", "input_json", "message_stop"} <= kinds
    back = [
        *MESSAGES,
        {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in made.content]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": made.content[2].id, "content": "25"}]},
    ]
    strictly(anthropic.messages.create(**{**asked, "messages": back}))
    count = strictly(anthropic.messages.count_tokens(model="m", messages=MESSAGES, tools=tools))
    assert count.input_tokens == made.usage.input_tokens + made.usage.cache_read_input_tokens


@pytest.mark.soak("clients")
def test_texts_models_and_log_probabilities(openai: Any) -> None:
    """As OpenAI's API, and against its types, echo has null for the first log-probability, and chunks for a finish."""
    listed = [strictly(model) for model in openai.models.list()]
    assert [model.id for model in listed] == ["m", "free", "encoder"]
    assert strictly(openai.models.retrieve("free")).id == "free"
    asked = {"model": "free", "prompt": ["Once upon", "A dog"], "max_tokens": 4, "n": 2, "logprobs": 2}
    whole = strictly(openai.completions.create(**asked, temperature=1, seed=1))
    assert [choice.index for choice in whole.choices] == [0, 1, 2, 3]
    single = {**asked, "n": 1, "stream": True, "stream_options": {"include_usage": True}}
    chunks = [*openai.completions.create(**single)]
    assert all(strictly(chunk) for chunk in chunks if not chunk.choices or chunk.choices[0].finish_reason is not None)
    assert chunks[-1].usage.total_tokens == chunks[-1].usage.prompt_tokens + 8
    told = {"model": "free", "messages": MESSAGES, "max_tokens": 3, "n": 2, "logprobs": True, "top_logprobs": 3}
    made = strictly(openai.chat.completions.create(**told, temperature=1, seed=1))
    assert len(made.choices[1].logprobs.content[0].top_logprobs) == 3
    streamed = openai.chat.completions.create(**told, stream=True, stream_options={"include_usage": True})
    *_, last = [strictly(chunk) for chunk in streamed]
    assert (last.choices, last.usage.completion_tokens) == ([], 6)


@pytest.mark.soak("clients")
def test_vectors_and_decisions(openai: Any) -> None:
    asked = {"model": "encoder", "input": ["a cat", "a dog"]}
    plain = strictly(openai.embeddings.create(**asked, encoding_format="float"))
    packed = strictly(openai.embeddings.create(**asked))  # base64, which the client unpacks
    for one, other in zip(plain.data, packed.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding)
    options = [{"value": name, "description": f"It is {name}."} for name in ("red", "blue")]
    levels = [{"label": name, "description": name} for name in ("low", "high")]
    questions = [
        {"type": "predicate", "name": "p", "instructions": "Is it red?"},
        {"type": "choice", "name": "c", "instructions": "Which?", "choices": options},
        {"type": "score", "name": "s", "instructions": "How?", "levels": levels},
    ]
    made = strictly(openai.decisions.create(model="free", input="The ball is red.", questions=questions))
    assert len(made.answers) == 3


@pytest.mark.soak("clients")
def test_what_is_wrong_comes_as_the_clients_errors(openai: Any, anthropic: Any) -> None:
    with pytest.raises(Exception, match="previous_response_id") as told:
        openai.responses.create(model="m", input="x", previous_response_id="resp_1")
    assert told.value.status_code == 400
    assert told.value.body["param"] == "previous_response_id"
    with pytest.raises(Exception, match="not_found_error") as told:
        anthropic.messages.create(model="nobody", max_tokens=1, messages=MESSAGES)
    assert told.value.status_code == 404


def _called(*calls: tuple[str, dict[str, Any]]) -> str:
    lines = [json.dumps({"name": name, "arguments": given}, ensure_ascii=False) for name, given in calls]
    return "\n".join(f"<tool_call>\n{line}\n</tool_call>" for line in lines)


#: What a good model says in the suite's scenarios, by words of the question.
SCENES = {
    "in Paris right now": _called(("get_weather", {"city": "Paris"})),
    "once per city": _called(("get_weather", {"city": "Paris"}), ("get_weather", {"city": "Tokyo"})),
    "17 + 25": "42",
    "Design review": _called(("create_event", {
        "title": "Design review", "start": "2026-10-01T15:00:00Z", "location": {"city": "Berlin", "room": "4.12"},
        "attendees": [{"name": "Ana", "email": "ana@example.com"}, {"name": "Bo", "email": "bo@example.com"}],
    })),
    "Save a note titled": _called(
        ("save_note", {"title": "Grüße aus Zürich", "body": "Café ☕ in 東京 — naïve résumé 🚀"}),
    ),
    "time is it": _called(("get_server_time", {})),
    "temp_c": "It is 18 degrees and clear.",
    "step by step": _called(("record_answer", {"answer": "9.9"})),
}  # fmt: skip


@pytest.mark.soak("clients")
@pytest.mark.parametrize("template", ["thinking", "hermes"])
def test_the_probe_of_canitoolcall(tmp_path: Path, template: str) -> None:
    """Nine scenarios, whole and streamed, and both alike."""
    probe = pytest.importorskip("canitoolcall.probe")
    from scripted import TEMPLATES, Scripted, load_with

    thought = "Hm.\n</think>\n\n" if template == "thinking" else ""

    def says(prompt: str) -> str:
        if prompt.endswith("<tool_call>\n"):  # a call that is forced begins in the prompt
            assert "Lisbon" in prompt
            return _called(("get_weather", {"city": "Lisbon"})).removeprefix("<tool_call>\n")
        [found] = [said for words, said in SCENES.items() if words in prompt]
        return thought + found

    with (
        load_with(TEMPLATES[template], tmp_path, 4096) as model,
        serving_here({"m": Scripted(model, says)}) as at,
    ):
        report = probe.probe(f"{at}/v1", "m")
    assert report.summary() == {"pass": 27, "fail": 0, "error": 0, "skip": 0}, report.render_text()
    assert not any(outcome.warnings for outcome in report.outcomes), report.render_text()
