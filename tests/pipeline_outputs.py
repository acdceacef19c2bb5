"""What transformers 4.57.6 gives for the cases of tests/test_pipeline_outputs.py, stored in tests/data/pipelines.json.

In an environment of its own (the last release that has all of these pipelines), from the repository's root:

    pip install transformers==4.57.6 torch==2.13.0 hypothesis
    PYTHONPATH=tests python tests/pipeline_outputs.py tests/data/pipelines.json

Models are random and made anew, by NumPy: nothing but texts and results is stored.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import tempfile
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from task_models import ENTITIES, KINDS, write_model

__all__ = ["CASES", "Case", "stored_form"]

TRAPS = (
    "Ana Ruiz flew to Berlin.",
    "",
    "cafe\N{COMBINING ACUTE ACCENT} n\N{COMBINING TILDE}o Ana e\N{COMBINING ACUTE ACCENT}\N{COMBINING CEDILLA}",
    "😀 Ana 👩\N{ZERO WIDTH JOINER}👩 🇩🇪 in Berlin",
    "שלום Ana مرحبا London",
    "日本語 中文字Ana",
    "Ana\r\nRuiz\r\n\r\nParis\t.",
    "the\N{ZERO WIDTH SPACE}city  of\N{NO-BREAK SPACE}Paris  ",
    "\N{MATHEMATICAL BOLD CAPITAL A}na ﬁlm Ⅳ Reykjavik",
    "x" * 120,
)
PARTS = (
    *"Ana|Ruiz|Berlin|London|flew|to|in|the|a|good|bad|company|Reykjavik|日本語|中文|😀|🇩🇪|שלום|مرحبا|é".split("|"),
    *("e\N{COMBINING ACUTE ACCENT}", "ß", ".", ",", "-", "'", "\r\n", "\t", " ", "  ", "\N{NO-BREAK SPACE}", "x1", "ﬁ"),
)


def drawn(n: int, seed: int, words: int = 12) -> list[str]:
    """Texts of parts, most with spaces between them."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(n):
        parts = [PARTS[i] for i in rng.integers(0, len(PARTS), rng.integers(1, words))]
        out.append("".join(part + (" " if rng.random() < 0.7 else "") for part in parts))
    return out


LONG = " ".join(drawn(30, 7))
TEXTS = [*TRAPS, *drawn(14, 1)]
#: Question answering takes no empty text; a context of blanks has no token.
CONTEXTS = [text for text in (*TRAPS, *drawn(8, 2), LONG) if text.strip()]


@dataclass(frozen=True)
class Case:
    """Calls (arguments, keywords) of one pipeline: a kind of model, its head and labels, the task, what it is made with."""

    kind: str
    head: str
    task: str
    calls: list[tuple[list[Any], dict[str, Any]]]
    labels: tuple[str, ...] = ()
    made_with: dict[str, Any] = field(default_factory=dict)

    def write(self, directory: Path) -> Path:
        """The model, in a folder of its own."""
        return write_model(
            directory / f"{self.kind}-{self.head}-{len(self.labels)}", self.kind, self.head, labels=self.labels
        )


LABELS = ("negative", "neutral", "positive")


def _classes(kind: str) -> list[Case]:
    pair = {"text": "Ana flew to Berlin.", "text_pair": "日本語 e\N{COMBINING ACUTE ACCENT}"}
    calls: list[tuple[list[Any], dict[str, Any]]] = [
        ([TEXTS], {"truncation": True}), ([TEXTS[0]], {}), ([TEXTS[0]], {"top_k": 1}), ([TEXTS[:3]], {"top_k": 2}), ([pair], {}),
        ([[pair, {"text": "a"}]], {"top_k": None}), ([LONG], {"truncation": True}),
        ([[LONG, "a"]], {"truncation": True, "max_length": 17}), ([TEXTS[:3]], {"function_to_apply": "none"}),
        ([TEXTS[:3]], {"function_to_apply": "sigmoid", "top_k": 3}),
        ([{"text": LONG, "text_pair": LONG[:99]}], {"truncation": True}),
        ([{"text": "a good film", "text_pair": LONG}], {"truncation": "only_second", "max_length": 20}),
    ]  # fmt: skip
    return [
        Case(kind, "classes", "text-classification", calls, LABELS),
        Case(kind, "classes", "sentiment-analysis", [([TEXTS[0]], {}), ([TEXTS[:2]], {})], LABELS, {"top_k": None}),
        Case(kind, "classes", "text-classification", [([TEXTS[:4]], {}), ([TEXTS[0]], {})], ("score",)),
    ]


def _entities(kind: str) -> Case:
    words = ["Ana", "Ruiz", "flew", "to", "Rey\N{COMBINING ACUTE ACCENT}kjavik", "日本", "😀."]
    calls: list[tuple[list[Any], dict[str, Any]]] = [
        *(([TEXTS], {"aggregation_strategy": how}) for how in ("none", "simple", "first", "average", "max")),
        ([TEXTS[0]], {}), ([[TEXTS[0]]], {}), ([TEXTS[0]], {"ignore_labels": []}),
        ([TEXTS[0]], {"ignore_labels": ["PER", "O"], "aggregation_strategy": "simple"}),
        ([LONG], {"aggregation_strategy": "simple", "stride": 10}),
        ([[LONG, "Ana"]], {"aggregation_strategy": "max", "stride": 0}),
        ([words], {"is_split_into_words": True}),
        ([[words, words[:2]]], {"is_split_into_words": True, "aggregation_strategy": "first"}),
        ([words], {"is_split_into_words": True, "delimiter": "", "aggregation_strategy": "simple"}),
    ]  # fmt: skip
    if kind == "roberta":  # whose tokenizer takes no words there: it would lose the spaces between them
        calls = [call for call in calls if "is_split_into_words" not in call[1]]
    return Case(kind, "token_classes", "token-classification", calls, ENTITIES)


def _answers(kind: str) -> Case:
    items = [{"question": "where is Ana?", "context": text} for text in CONTEXTS]
    one = {"question": "who flew to Berlin 😀?", "context": CONTEXTS[0]}
    long = {"question": "who", "context": LONG}
    calls: list[tuple[list[Any], dict[str, Any]]] = [
        ([], {"question": [item["question"] for item in items], "context": CONTEXTS}), ([], one),
        ([], one | {"top_k": 3}), ([], one | {"max_answer_len": 1}), ([], one | {"align_to_words": False, "top_k": 2}),
        ([], one | {"handle_impossible_answer": True, "top_k": 3}),
        ([], {"question": ["who?", "where"], "context": CONTEXTS[0]}), ([], long | {"top_k": 5, "max_answer_len": 30}),
        ([], long | {"doc_stride": 20, "max_seq_len": 40}), ([], long | {"handle_impossible_answer": True}),
        ([], long | {"doc_stride": 3, "align_to_words": False, "top_k": 4}),
    ]  # fmt: skip
    return Case(kind, "spans", "question-answering", calls)


def _masks(kind: str) -> Case:
    m = "<mask>" if kind == "roberta" else "[MASK]"
    calls: list[tuple[list[Any], dict[str, Any]]] = [
        ([f"Ana flew to {m}."], {}), ([[f"Ana flew to {m}."]], {}), ([[f"{m}\r\nParis", f"日本{m} 😀"]], {"top_k": 2}),
        ([f"the {m} of {m} e\N{COMBINING ACUTE ACCENT}"], {"top_k": 3}), ([m], {"top_k": 1}),
        ([f"a {m} film"], {"targets": ["a", "b", "."]}), ([f"a {m} film"], {"targets": "x", "top_k": 2}),
        ([f"{m} {LONG}"], {"tokenizer_kwargs": {"truncation": True}, "top_k": 1}),
    ]  # fmt: skip
    return Case(kind, "masked_lm", "fill-mask", calls)


def _zero_shot(kind: str) -> Case:
    labels = {"bert": ("entailment", "not_entailment"), "roberta": ("contradiction", "neutral", "entailment")}.get(
        kind, LABELS
    )
    calls: list[tuple[list[Any], dict[str, Any]]] = [
        ([TRAPS[0], ["sport", "politics", "science 😀"]], {}), ([[TRAPS[2], TRAPS[4]]], {"candidate_labels": "sport, tea,a"}),
        ([TRAPS[0], ["sport", "tea"]], {"multi_label": True}), ([TRAPS[0], "tea"], {}),
        ([LONG, ["a", "tea"]], {"hypothesis_template": "Ana: {}!"}),
    ]  # fmt: skip
    return Case(kind, "classes", "zero-shot-classification", calls, labels)


CASES = [
    case
    for kind in KINDS
    for case in (
        *_classes(kind), _entities(kind), _answers(kind), _masks(kind), _zero_shot(kind),
        Case(kind, "", "feature-extraction", [(["Ana"], {}), ([["é", "日"]], {}), ([LONG], {"truncation": True, "tokenize_kwargs": {"max_length": 5}})]),
    )
]  # fmt: skip


def stored_form(value: Any) -> Any:
    """Lists, objects, texts, numbers: what JSON gives back; numbers of seven digits."""
    if isinstance(value, dict):
        return {str(key): stored_form(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [stored_form(each) for each in value]
    if isinstance(value, float | np.floating):
        return float(f"{float(value):.7g}")
    return int(value) if isinstance(value, np.integer) else value


def main() -> None:
    """Write them."""
    import transformers

    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    out = []
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            pipe = transformers.pipeline(case.task, str(case.write(Path(folder))), device="cpu", **case.made_with)
            out.append([stored_form(pipe(*args, **keywords)) for args, keywords in case.calls])
    versions = {name: importlib.metadata.version(name) for name in ("transformers", "torch", "tokenizers", "numpy")}
    lines = ",\n".join(json.dumps(each, ensure_ascii=False, separators=(",", ":")) for each in out)
    text = f'{{"made by": "tests/pipeline_outputs.py", "versions": {json.dumps(versions)}, "outputs": [\n{lines}\n]}}\n'
    Path(sys.argv[1]).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
