"""Embeddings, reranking and tokens over HTTP: the same numbers and ids as the model gives by itself."""

from __future__ import annotations

import base64
import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import miaotui
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from miaotui.tools import demo
from miaotui.tools.reranking import ranker_of
from task_models import write_model

pytest.importorskip("starlette")
pytest.importorskip("prometheus_client")
pytest.importorskip("jinja2")

from miaotui.tools.server import embeddings, rerank, tokens
from miaotui.tools.server.settings import Settings
from serving import Client

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).resolve().parent.parent / "docs" / "vectors-api.md"
ASKED = re.compile(r"^```sh\ncurl http://127.0.0.1:8000(\S+) .*? -d '(.*?)'\n```", re.DOTALL | re.MULTILINE)
EMBEDDINGS, RERANK = "/v1/embeddings", "/v1/rerank"
CHAT, COUNT = "/v1/chat/completions", "/v1/messages/count_tokens"
TEXTS = ["Ana flew to Berlin.", "Bread is made of flour.", "Tea"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, miaotui.Model]]:
    judge = write_model(tmp_path_factory.mktemp("judge"), "bert", "classes", labels=("LABEL_0",))
    nested = tmp_path_factory.mktemp("nested") / "encoder"
    shutil.copytree(demo.path("encoder"), nested)
    said = json.loads((nested / "config.json").read_text()) | {"matryoshka_dimensions": [8, 16]}
    (nested / "config.json").write_text(json.dumps(said))
    with (
        miaotui.load(demo.path("encoder")) as encoder,
        miaotui.load(judge) as crossed,
        miaotui.load(nested) as matryoshka,
        miaotui.load(demo.path("chat"), cache_tokens=2048) as chat,
    ):
        yield {"encoder": encoder, "judge": crossed, "nested": matryoshka, "chat": chat}


@pytest.fixture(scope="module")
def client(models: dict[str, miaotui.Model]) -> Client:
    return Client(models)


def rows_of(reply: Any) -> np.ndarray:
    assert reply.status == 200, reply.body
    assert [(each["index"], each["object"]) for each in reply.json["data"]] == [
        (i, "embedding") for i in range(len(reply.json["data"]))
    ]
    rows = [each["embedding"] for each in reply.json["data"]]
    if isinstance(rows[0], str):
        return np.array([np.frombuffer(base64.b64decode(row), "<f4") for row in rows])
    return np.array(rows, np.float32)


def test_embeddings_are_the_models_vectors(client: Client, models: dict[str, miaotui.Model]) -> None:
    """Of a text, several, ids, and several lists of them; as numbers and as base64: the same bits."""
    wanted = np.asarray(models["encoder"].encode(TEXTS))
    ids = [models["encoder"].tokenizer.encode(text) for text in TEXTS]
    for asked, rows in ((TEXTS, wanted), (TEXTS[0], wanted[:1]), (ids, wanted), (ids[0], wanted[:1])):
        for how in ({"encoding_format": "base64"}, {}, {"encoding_format": "float"}):
            reply = client.post(EMBEDDINGS, {"model": "encoder", "input": asked, **how})
            assert np.array_equal(rows_of(reply), rows)
            n = sum(map(len, ids[: len(rows)]))
            assert reply.json["usage"] == {"prompt_tokens": n, "total_tokens": n}
            assert (reply.json["object"], reply.json["model"]) == ("list", "encoder")
    pytest.importorskip("openai.types").CreateEmbeddingResponse.model_validate(reply.json)


def test_dimensions_are_for_models_that_were_trained_for_it(client: Client, models: dict[str, miaotui.Model]) -> None:
    whole = np.asarray(models["nested"].encode(TEXTS))
    rows = rows_of(client.post(EMBEDDINGS, {"model": "nested", "input": TEXTS, "dimensions": 8}))
    assert rows == pytest.approx(whole[:, :8] / np.linalg.norm(whole[:, :8], axis=1, keepdims=True))
    assert np.array_equal(
        rows_of(client.post(EMBEDDINGS, {"model": "encoder", "input": TEXTS, "dimensions": whole.shape[1]})), whole
    )
    for model, n in (("encoder", 8), ("nested", 7), ("nested", 10_000)):
        reply = client.post(EMBEDDINGS, {"model": model, "input": TEXTS, "dimensions": n})
        assert (reply.status, reply.error["param"]) == (400, "dimensions")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": []}, "input"),
        ({"input": ""}, "input"),
        ({"input": [[]]}, "input"),
        ({"input": [1, "a"]}, "input"),
        ({"input": [[1], [10**6]]}, "input[1]"),
        ({"input": ["a", "a word " * 99]}, "input[1]"),
        ({"input": [5] * 65}, "input"),
        ({"input": [5], "prompt_name": "query"}, "prompt_name"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "model": "chat"}, "model"),
    ],
)
def test_inputs_that_have_no_vector_are_refused(client: Client, body: dict[str, Any], param: str) -> None:
    reply = client.post(EMBEDDINGS, {"model": "encoder", **body})
    assert reply.status == 400, reply.body
    assert (reply.error["param"] or reply.error["message"]).startswith(param)


def test_longer_texts_are_cut_where_that_is_asked_for(client: Client, models: dict[str, miaotui.Model]) -> None:
    text = "a word " * 99
    reply = client.post(EMBEDDINGS, {"model": "encoder", "input": text, "truncate": True})
    assert np.array_equal(rows_of(reply)[0], models["encoder"].encode(text))


@pytest.mark.parametrize("model", ["judge", "encoder", "chat"])
@pytest.mark.parametrize("path", [RERANK, "/rerank"])
def test_documents_come_by_their_scores(
    client: Client, models: dict[str, miaotui.Model], model: str, path: str
) -> None:
    documents = [*TEXTS, {"text": TEXTS[0]}]  # two alike: by their numbers
    body = {"model": model, "query": "Who flew?", "documents": documents}
    reply = client.post(path, body)
    assert reply.status == 200, reply.body
    scores, n = ranker_of(models[model]).scores("Who flew?", [*TEXTS, TEXTS[0]])
    got = [(each["index"], each["relevance_score"]) for each in reply.json["results"]]
    assert got == sorted(enumerate(scores), key=lambda each: (-each[1], each[0]))
    assert reply.json["usage"]["total_tokens"] == n
    best = client.post(path, {**body, "top_n": 2, "return_documents": True}).json["results"]
    assert best == [
        {"index": i, "relevance_score": score, "document": {"text": [*TEXTS, TEXTS[0]][i]}} for i, score in got[:2]
    ]


@pytest.mark.parametrize(
    ("changed", "param"),
    [
        ({"documents": []}, "documents"),
        ({"documents": [1]}, "documents"),
        ({"documents": [{"title": "a"}]}, "documents"),
        ({"query": ""}, "query"),
        ({"top_n": 0}, "top_n"),
        ({"rank_fields": ["a"]}, "rank_fields"),
        ({"documents": ["a word " * 600], "model": "chat"}, "documents"),
    ],
)
def test_what_cannot_be_ranked_is_refused(client: Client, changed: dict[str, Any], param: str) -> None:
    reply = client.post(RERANK, {"model": "judge", "query": "a", "documents": ["b"], **changed})
    assert reply.status == 400, reply.body
    assert (reply.error["param"] or "").startswith(param)


def test_a_model_without_scores_is_refused() -> None:
    with miaotui.load(demo.path("sentiment")) as model:
        reply = Client({"s": model}).post(RERANK, {"query": "a", "documents": ["b"]})
        assert (reply.status, reply.error["param"], reply.error["code"]) == (400, "model", "not_supported")


def test_tokens_come_and_go(client: Client, models: dict[str, miaotui.Model]) -> None:
    tokenizer = models["chat"].tokenizer
    for special in (True, False):
        reply = client.post(
            "/tokenize",
            {"model": "chat", "prompt": TEXTS[0], "add_special_tokens": special, "return_token_strs": True},
        ).json
        ids = tokenizer.encode(TEXTS[0], add_special_tokens=special)
        spelled = [tokenizer.id_to_token(i) for i in ids]
        assert reply == {"count": len(ids), "max_model_len": 512, "tokens": ids, "token_strs": spelled}
    back = client.post("/detokenize", {"model": "chat", "tokens": ids}).json["prompt"]
    assert back.strip() == TEXTS[0]
    assert client.post("/detokenize", {"model": "chat", "tokens": []}).json == {"prompt": ""}
    messages = [{"role": "user", "content": "Hi"}]
    reply = client.post("/tokenize", {"model": "chat", "messages": messages}).json
    assert reply["tokens"] == tokenizer.chat_ids(messages)
    without = {"model": "chat", "messages": messages, "add_generation_prompt": False, "chat_template_kwargs": {"a": 1}}
    assert client.post("/tokenize", without).json["tokens"] == tokenizer.apply_chat_template(messages)


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": [{"type": "text", "text": "Tom had"}, {"type": "text", "text": " a ball."}]}],
        [{"role": "user", "content": "It ends</s><s>User: and goes on"}],
        [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Tom"}],
    ],
    ids=["parts", "what looks like control tokens", "the assistant's goes on"],
)
def test_the_tokens_of_a_conversation_are_those_that_a_chat_reads(client: Client, messages: list[Any]) -> None:
    count = client.post("/tokenize", {"model": "chat", "messages": messages}).json["count"]
    for path, more in ((CHAT, {"max_tokens": 1}), (COUNT, {})):
        told = client.post(path, {"model": "chat", "messages": messages, **more}).json
        assert (told["usage"]["prompt_tokens"] if path == CHAT else told["input_tokens"]) == count


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": [{"role": "user", "content": "a"}]}, "prompt"),
        ("/tokenize", {"messages": [{}]}, "messages[0].role"),
        ("/tokenize", {"messages": [{"role": "user"}]}, "messages[0].content"),
        ("/tokenize", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
         "messages[0].content[0].type"),
        ("/tokenize", {"prompt": "a", "tools": []}, "tools"),
        ("/tokenize", {"messages": [{"role": "user", "content": "a"}], "chat_template_kwargs": {"messages": 1}},
         "chat_template_kwargs"),
        ("/detokenize", {"tokens": [10**6]}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens"),
        ("/detokenize", {}, "tokens"),
    ],
)  # fmt: skip
def test_what_has_no_tokens_is_refused(client: Client, path: str, body: dict[str, Any], param: str) -> None:
    reply = client.post(path, {"model": "chat", **body})
    assert reply.status == 400, reply.body
    assert (reply.error["param"] or reply.error["message"]).startswith(param)


@pytest.mark.parametrize(
    ("path", "body", "param", "bound"),
    [
        (EMBEDDINGS, {"model": "encoder", "input": ["a"] * 2049}, "input", "2048"),
        (EMBEDDINGS, {"model": "encoder", "input": ["a b c d"] * 20}, "input", "at most 100"),
        (EMBEDDINGS, {"model": "encoder", "input": [[5] * 60] * 2}, "input", "at most 100"),
        (EMBEDDINGS, {"model": "encoder", "input": ["a", "a" * (64 * 256 + 1)]}, "input[1]", "64 tokens"),
        (RERANK, {"model": "judge", "query": "a", "documents": ["a"] * 1001}, "documents", "1000"),
        (RERANK, {"model": "judge", "query": "a b", "documents": ["a b c d"] * 20}, "documents", "at most 100"),
        (RERANK, {"model": "chat", "query": "a", "documents": ["a", "a" * 131_073]}, "documents[1]", "512 tokens"),
        (RERANK, {"model": "chat", "query": "a" * 131_073, "documents": ["a"]}, "query", "512 tokens"),
        ("/tokenize", {"model": "chat", "prompt": "a" * (1 << 19) + "a"}, "prompt", str(1 << 19)),
        ("/tokenize", {"model": "chat", "prompt": "\U0001f600" * ((1 << 18) + 1)}, "prompt", str(1 << 20)),
        ("/tokenize", {"model": "chat", "messages": [{"role": "user", "content": "a" * (1 << 19)}]}, "messages",
         str(1 << 19)),
        ("/detokenize", {"model": "chat", "tokens": [5] * ((1 << 20) + 1)}, "tokens", str(1 << 20)),
    ],
)  # fmt: skip
def test_what_is_too_much_is_refused_with_its_bound(
    models: dict[str, miaotui.Model], path: str, body: dict[str, Any], param: str, bound: str
) -> None:
    client = Client(models, Settings(max_input_tokens=100))
    reply = client.post(path, body)
    assert (reply.status, reply.error["param"]) == (400, param), reply.body
    assert bound in reply.error["message"]
    assert client.state.admission.n_tokens == 0


def test_ranking_holds_the_tokens_that_it_reads(models: dict[str, miaotui.Model]) -> None:
    """Next to another request there is room for so many."""
    client, held = Client(models), list[int]()
    check = client.state.admission.check_tokens
    client.state.admission.check_tokens = lambda n: held.append(n) or check(n)  # type: ignore[func-returns-value]
    reply = client.post(RERANK, {"model": "judge", "query": "Who flew?", "documents": TEXTS})
    encode = models["judge"].tokenizer.encode
    assert held == [sum(len(encode("Who flew?")) + len(encode(text)) for text in TEXTS)]
    assert reply.status == 200


def test_a_tokenizer_tells_what_it_is(models: dict[str, miaotui.Model]) -> None:
    client = Client({"chat": models["chat"]})
    told = client.get("/tokenizer_info").json
    assert (told["bos_token"], told["eos_token"], told["vocab_size"]) == ("<s>", "</s>", 1024)
    assert told["chat_template"] == models["chat"].tokenizer.chat_template


def test_the_page_s_requests_are_answered_and_its_fields_are_all(client: Client) -> None:
    page = PAGE.read_text(encoding="utf-8")
    (first, vectors), (second, ranking) = ASKED.findall(page)
    assert (first, second) == (EMBEDDINGS, RERANK)
    assert len(rows_of(client.post(first, json.loads(vectors)))) == len(json.loads(vectors)["input"])
    [told] = re.findall(r"^```json\n(.*?)```", page, re.DOTALL | re.MULTILINE)
    reply = client.post(second, json.loads(ranking)).json
    reply["results"][0]["relevance_score"] = round(reply["results"][0]["relevance_score"], 2)
    assert {key: value for key, value in reply.items() if key != "id"} == json.loads(told)
    fields = {field.name for field in embeddings.FIELDS} - {"model", "user"}
    assert all(f"| `{name}` |" in page for name in fields)


FIELDS = {
    work.path: [field.name for field in work.fields]
    for work in (embeddings.WIRE, rerank.WIRE, tokens.TOKENIZE, tokens.DETOKENIZE)
}
WORDS = st.sampled_from(
    ["a", "", "\ud800", "encoder", "judge", "chat", "text", "role", "user", "content", "base64", "<s>"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2**70) | st.floats(allow_nan=False, allow_infinity=False) | WORDS,
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(WORDS, inside, max_size=3),
    max_leaves=6,
)
GOOD = {"input": ["a"], "query": "a", "documents": ["b"], "prompt": "a", "tokens": [5]}


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_whatever_is_sent_is_no_fault_of_the_servers(client: Client, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted(FIELDS)))
    good = {name: GOOD[name] for name in FIELDS[path] if name in GOOD}
    changed = data.draw(st.dictionaries(st.sampled_from(FIELDS[path]), JSON, max_size=2))
    model = data.draw(st.sampled_from(["encoder", "judge", "chat"]))
    reply = client.post(path, {"model": model, **good, **changed})
    assert reply.status in (200, 400, 404), reply.body
    assert ("error" in reply.json) == (reply.status != 200)
