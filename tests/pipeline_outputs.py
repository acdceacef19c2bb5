"""What transformers 4.57.6 gives for the cases of tests/test_pipeline_outputs.py, stored in tests/data/pipelines.json.

In an environment of its own (the last release that has all of these pipelines), from the repository's root:

    pip install transformers==4.57.6 torch==2.13.0 hypothesis
    PYTHONPATH=tests python tests/pipeline_outputs.py tests/data/pipelines.json

Models are random and made anew, by NumPy: nothing but results is stored. Two numbers more, a seed and how many texts
are drawn, make others: `./dev soak pipelines` compares with new ones, by the Python that MIAOTUI_TRANSFORMERS4 names.
"""

from __future__ import annotations

import copy
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

__all__ = ["Case", "cases", "stored_form"]

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
    *(
        "Ana",
        "Ruiz",
        "Berlin",
        "London",
        "flew",
        "to",
        "in",
        "the",
        "a",
        "good",
        "company",
        "Reykjavik",
        "日本語",
        "中文",
    ),
    *(
        "😀",
        "🇩🇪",
        "שלום",
        "مرحبا",
        "é",
        "e\N{COMBINING ACUTE ACCENT}",
        "ß",
        ".",
        ",",
        "-",
        "'",
        "\r\n",
        "\t",
        " ",
        "  ",
        "\N{NO-BREAK SPACE}",
        "x1",
        "ﬁ",
    ),
)


def drawn(n: int, seed: int, words: int = 12) -> list[str]:
    """Texts of parts, most with spaces between them."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(n):
        parts = [PARTS[i] for i in rng.integers(0, len(PARTS), rng.integers(1, words))]
        out.append("".join(part + (" " if rng.random() < 0.7 else "") for part in parts))
    return out


@dataclass(frozen=True)
class Texts:
    """What the calls read: the traps, and drawn ones. Question answering takes no empty text, nor one of blanks."""

    seed: int
    n: int

    @property
    def long(self) -> str:
        return " ".join(drawn(30, self.seed + 2))

    @property
    def all(self) -> list[str]:
        return [*TRAPS, *drawn(self.n, self.seed)]

    @property
    def contexts(self) -> list[str]:
        return [text for text in (*TRAPS, *drawn(self.n, self.seed + 1), self.long) if text.strip()]


@dataclass(frozen=True)
class Case:
    """Calls (arguments, keywords) of one pipeline: a kind of model, its head and labels, the task, what made with."""

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


def _classes(kind: str, texts: Texts) -> list[Case]:
    pair = {"text": "Ana flew to Berlin.", "text_pair": "日本語 e\N{COMBINING ACUTE ACCENT}"}
    calls: list[tuple[list[Any], dict[str, Any]]] = [
        ([texts.all], {"truncation": True}), ([TRAPS[0]], {}), ([TRAPS[0]], {"top_k": 1}), ([pair], {}),
        ([texts.all[:3]], {"top_k": 2}),
        ([[pair, {"text": "a"}]], {"top_k": None}), ([texts.long], {"truncation": True}),
        ([[texts.long, "a"]], {"truncation": True, "max_length": 17}), ([texts.all[:3]], {"function_to_apply": "none"}),
        ([texts.all[:3]], {"function_to_apply": "sigmoid", "top_k": 3}),
        ([{"text": texts.long, "text_pair": texts.long[:99]}], {"truncation": True}),
        ([{"text": "a good film", "text_pair": texts.long}], {"truncation": "only_second", "max_length": 20}),
    ]  # fmt: skip
    return [
        Case(kind, "classes", "text-classification", calls, LABELS),
        Case(
            kind,
            "classes",
            "sentiment-analysis",
            [([texts.all[0]], {}), ([texts.all[:2]], {})],
            LABELS,
            {"top_k": None},
        ),
        Case(kind, "classes", "text-classification", [([texts.all[:4]], {}), ([texts.all[0]], {})], ("score",)),
    ]


def _entities(kind: str, texts: Texts) -> Case:
    words = ["Ana", "Ruiz", "flew", "to", "Rey\N{COMBINING ACUTE ACCENT}kjavik", "日本", "😀."]
    calls: list[tuple[list[Any], dict[str, Any]]] = [
        *(([texts.all], {"aggregation_strategy": how}) for how in ("none", "simple", "first", "average", "max")),
        ([texts.all[0]], {}), ([[texts.all[0]]], {}), ([texts.all[0]], {"ignore_labels": []}),
        ([texts.all[0]], {"ignore_labels": ["PER", "O"], "aggregation_strategy": "simple"}),
        ([texts.long], {"aggregation_strategy": "simple", "stride": 10}),
        ([[texts.long, "Ana"]], {"aggregation_strategy": "max", "stride": 0}),
        ([words], {"is_split_into_words": True}),
        ([[words, words[:2]]], {"is_split_into_words": True, "aggregation_strategy": "first"}),
        ([words], {"is_split_into_words": True, "delimiter": "", "aggregation_strategy": "simple"}),
    ]  # fmt: skip
    if kind == "roberta":  # whose tokenizer takes no words there: it would lose the spaces between them
        calls = [call for call in calls if "is_split_into_words" not in call[1]]
    return Case(kind, "token_classes", "token-classification", calls, ENTITIES)


def _answers(kind: str, texts: Texts) -> Case:
    contexts = texts.contexts
    one = {"question": "who flew to Berlin 😀?", "context": contexts[0]}
    long = {"question": "who", "context": texts.long}
    calls: list[tuple[list[Any], dict[str, Any]]] = [
        ([], {"question": ["where is Ana?"] * len(contexts), "context": contexts}), ([], one),
        ([], one | {"top_k": 3}), ([], one | {"max_answer_len": 1}), ([], one | {"align_to_words": False, "top_k": 2}),
        ([], one | {"handle_impossible_answer": True, "top_k": 3}),
        ([], {"question": ["who?", "where"], "context": contexts[0]}), ([], long | {"top_k": 5, "max_answer_len": 30}),
        ([], long | {"doc_stride": 20, "max_seq_len": 40}), ([], long | {"handle_impossible_answer": True}),
        ([], long | {"doc_stride": 3, "align_to_words": False, "top_k": 4}),
    ]  # fmt: skip
    return Case(kind, "spans", "question-answering", calls)


def _masks(kind: str, texts: Texts) -> Case:
    m = "<mask>" if kind == "roberta" else "[MASK]"
    calls: list[tuple[list[Any], dict[str, Any]]] = [
        ([f"Ana flew to {m}."], {}), ([[f"Ana flew to {m}."]], {}), ([[f"{m}\r\nParis", f"日本{m} 😀"]], {"top_k": 2}),
        ([f"the {m} of {m} e\N{COMBINING ACUTE ACCENT}"], {"top_k": 3}), ([m], {"top_k": 1}),
        ([f"a {m} film"], {"targets": ["a", "b", "."]}), ([f"a {m} film"], {"targets": "x", "top_k": 2}),
        ([f"{m} {texts.long}"], {"tokenizer_kwargs": {"truncation": True}, "top_k": 1}),
    ]  # fmt: skip
    return Case(kind, "masked_lm", "fill-mask", calls)


def _zero_shot(kind: str, texts: Texts) -> Case:
    labels = {"bert": ("entailment", "not_entailment"), "roberta": ("contradiction", "neutral", "entailment")}.get(
        kind, LABELS
    )
    calls: list[tuple[list[Any], dict[str, Any]]] = [
        ([TRAPS[0], ["sport", "politics", "science 😀"]], {}),
        ([[TRAPS[2], TRAPS[4]]], {"candidate_labels": "sport, tea,a"}),
        ([TRAPS[0], ["sport", "tea"]], {"multi_label": True}), ([TRAPS[0], "tea"], {}),
        ([texts.long, ["a", "tea"]], {"hypothesis_template": "Ana: {}!"}),
    ]  # fmt: skip
    return Case(kind, "classes", "zero-shot-classification", calls, labels)


def _older_names(kind: str, texts: Texts) -> list[Case]:
    """Parameters that 4.57.6 takes with a warning."""
    one = {"question": "who flew to Berlin 😀?", "context": texts.contexts[0]}
    scores = {"return_all_scores": True}
    calls: list[tuple[list[Any], dict[str, Any]]] = [
        ([TRAPS[0]], scores), ([texts.all[:2]], scores), ([texts.all[:2]], {"return_all_scores": False}),
        ([TRAPS[0]], scores | {"top_k": 2}), ([[{"text": TRAPS[0]}]], scores), ([TRAPS[0]], {"top_k": None}),
    ]  # fmt: skip
    words: list[dict[str, Any]] = [
        {"grouped_entities": True}, {"grouped_entities": False}, {"ignore_subwords": True},
        {"grouped_entities": True, "ignore_subwords": True}, {"grouped_entities": True, "aggregation_strategy": "max"},
        {"grouped_entities": True, "ignore_subwords": False, "ignore_labels": []},
    ]  # fmt: skip
    asked: list[tuple[list[Any], dict[str, Any]]] = [
        ([], one | {"topk": 3}), ([], {"data": [one, one]}), ([], {"X": one, "top_k": 2}), ([], {"data": one}),
        ([one, one | {"question": "who"}], {}),
    ]  # fmt: skip
    labels = {"candidate_labels": "sport, tea"}
    judged: list[tuple[list[Any], dict[str, Any]]] = [
        ([TRAPS[0]], labels | {"multi_class": True}), ([], labels | {"sequences": TRAPS[0], "multi_class": False}),
    ]  # fmt: skip
    return [
        Case(kind, "classes", "text-classification", calls, LABELS),
        Case(kind, "classes", "text-classification", calls, LABELS, scores),
        Case(kind, "classes", "text-classification", calls, LABELS, {"top_k": 2}),
        Case(kind, "token_classes", "ner", [([texts.all], how) for how in words], ENTITIES),
        Case(kind, "token_classes", "ner", [([texts.all], {})], ENTITIES, {"grouped_entities": True}),
        Case(kind, "spans", "question-answering", asked),
        Case(kind, "classes", "zero-shot-classification", judged, LABELS),
    ]


def cases(seed: int = 1, n: int = 8) -> list[Case]:
    """Every task of every kind of model, with `n` drawn texts besides those that are traps."""
    texts = Texts(seed, n)
    short = {"truncation": True, "tokenize_kwargs": {"max_length": 5}}
    features: list[tuple[list[Any], dict[str, Any]]] = [(["Ana"], {}), ([["é", "日"]], {}), ([texts.long], short)]
    return [
        case
        for kind in KINDS
        for case in (
            *_classes(kind, texts), _entities(kind, texts), _answers(kind, texts), _masks(kind, texts),
            _zero_shot(kind, texts), Case(kind, "", "feature-extraction", features),
        )
    ] + _older_names("bert", texts)  # fmt: skip


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
        for case in cases(*map(int, sys.argv[2:])):
            pipe = transformers.pipeline(case.task, str(case.write(Path(folder))), device="cpu", **case.made_with)
            out.append(
                [stored_form(pipe(*copy.deepcopy(args), **copy.deepcopy(keywords))) for args, keywords in case.calls]
            )
    versions = {name: importlib.metadata.version(name) for name in ("transformers", "torch", "tokenizers", "numpy")}
    lines = ",\n".join(json.dumps(each, ensure_ascii=False, separators=(",", ":")) for each in out)
    text = f'{{"made by": "tests/pipeline_outputs.py", "versions": {json.dumps(versions)}, "outputs": [\n{lines}\n]}}\n'
    Path(sys.argv[1]).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
