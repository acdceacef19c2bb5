"""canitoolcall's fixtures: raw answers of real models, and what a server must make of them, however they are cut."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from miaotui.tools.server.tool_calls import FORMATS, Call, Content, Parser, Reasoning, thinks_at_end

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Family of fixtures -> the format, by the model's name where that says it.
FAMILIES = {"qwen3-hermes": "hermes", "qwen3-xml": "qwen3_coder", "mistral": "mistral"}
COUNTS = {"qwen3-hermes": 50, "qwen3-xml": 54, "mistral": 47, "llama": 34}


def test_every_fixture_of_the_formats_that_are_read_passes_however_it_is_cut() -> None:
    """Strictly: white space too. Whole, and as streams: by letters, and in each random way of the suite's."""
    pytest.importorskip("canitoolcall", reason="canitoolcall is not installed: pip install 'miaotui[dev]'")
    from canitoolcall import checks, chunking, fixtures, results

    families = fixtures.load_families()
    strategies = [*chunking.DEFAULT_STRATEGIES[2:], *(chunking.ChunkStrategy("char", seed=n) for n in range(4))]
    passed, failed = Counter[str](), []
    for fixture in fixtures.load_fixtures():
        if fixture.family not in COUNTS:
            continue
        text, made = fixture.raw_output, results.ParseResult
        whole = made(**_parsed(fixture, [text], results))
        streams = {s.id: made(**_parsed(fixture, chunking.split_text(text, s), results)) for s in strategies}
        seen = results.Observation(nonstream=whole, streams=streams)
        rows = checks.run_checks(fixture, families[fixture.family], seen)
        bad = [r for r in rows if r.status is not results.Status.PASS]
        passed[fixture.family] += not bad
        failed += [f"{fixture.id}: {r.check} {r.strategy} {r.status.value} {r.detail}" for r in bad[:1]]
    assert not failed, "\n".join(failed)
    assert dict(passed) == COUNTS


def _parsed(fixture: Any, pieces: Iterable[str], results: Any) -> dict[str, Any]:
    form = FORMATS[FAMILIES.get(fixture.family) or _llama(fixture.models[0])]
    tools = {tool["function"]["name"]: tool["function"].get("parameters") or {} for tool in fixture.tools}
    parser = Parser(form, tools, fixture.id, thinks=thinks_at_end(form, fixture.generation_prompt or ""))
    deltas = [delta for piece in pieces for delta in parser.feed(piece)] + parser.end(cut="truncated" in fixture.tags)
    return {
        "content": "".join(d.text for d in deltas if isinstance(d, Content)) or None,
        "reasoning_content": "".join(d.text for d in deltas if isinstance(d, Reasoning)) or None,
        "tool_calls": tuple(results.ParsedToolCall(d.name, d.arguments) for d in deltas if isinstance(d, Call)),
    }


def _llama(model: str) -> str:
    return "pythonic" if "Llama-4" in model else "llama3_json"
