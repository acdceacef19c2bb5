"""What transformers 4.57.6 writes for the cases of tests/test_generation_outputs.py: tests/data/generation.json.

In the environment that tests/pipeline_outputs.py describes, and jinja2 for the conversations:

    PYTHONPATH=tests python tests/generation_outputs.py tests/data/generation.json
"""

# ruff: noqa: E501 - a row is a case

from __future__ import annotations

import importlib.metadata
import json
import sys
import tempfile
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from generation_models import write_writer
from pipeline_outputs import TRAPS, stored_form

__all__ = ["CASES", "Case"]

A, LONG = TRAPS[0], " ".join(TRAPS) * 2
Calls = list[tuple[list[Any], dict[str, Any]]]


@dataclass(frozen=True)
class Case:
    """Calls of one pipeline: a kind of model with what its files say, the task, what it is made with."""

    kind: str
    task: str
    calls: Calls
    made_with: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    generation: dict[str, Any] | None = None

    def write(self, directory: Path) -> Path:
        """The model, in a folder of its own."""
        return write_writer(directory / "model", self.kind, self.generation, **self.config)


FEW = {"max_new_tokens": 8}
_ANSWERS: Calls = [
    ([A], FEW), ([[A, TRAPS[2], TRAPS[4]]], FEW), ([A], {"num_beams": 1, **FEW}), ([A], {"return_tensors": True, **FEW}),
    ([[A, TRAPS[3]]], {"num_return_sequences": 3, **FEW}), ([[A]], {"num_beams": 2, "num_return_sequences": 2, **FEW}),
    ([A], {"num_return_sequences": 2, "return_tensors": True, **FEW}), ([LONG], {"truncation": True, **FEW}),
    ([TRAPS[5]], {"min_length": 6, "no_repeat_ngram_size": 2, "length_penalty": 2.0, "early_stopping": True, **FEW}),
    ([A], {"min_new_tokens": 7, "repetition_penalty": 1.5, "num_beams": 1, **FEW}), ([A], {"max_length": 12}),
    ([TRAPS[6]], {"clean_up_tokenization_spaces": True, **FEW}), ([A], {"stop_sequence": "a", "num_beams": 1, **FEW}),
]  # fmt: skip
_SAYS = {
    "summarization": {"prefix": "tea: ", "max_length": 9, "num_beams": 2, "early_stopping": True},
    "translation_en_to_de": {"prefix": "to Berlin: ", "num_beams": 3, "max_new_tokens": 6},
}
_IDS = {"decoder_start_token_id": 0, "eos_token_id": 3, "pad_token_id": 0}
_LANGUAGES = {
    "nllb": {"src_lang": "deu_Latn", "tgt_lang": "fra_Latn"}, "mbart": {"src_lang": "de_DE", "tgt_lang": "fr_XX"},
}  # fmt: skip
_BACK = {
    "nllb": {"src_lang": "fra_Latn", "tgt_lang": "eng_Latn"}, "mbart": {"src_lang": "fr_XX", "tgt_lang": "en_XX"},
}  # fmt: skip
_CHAT = [{"role": "user", "content": "Ana flew to"}]
_BEGUN = [*_CHAT, {"role": "assistant", "content": "Berlin and"}]
GREEDY = {"do_sample": False, **FEW}
_TEXTS: Calls = [
    ([A], GREEDY), ([[A]], GREEDY), ([list(TRAPS[:7])], GREEDY), ([A], {"return_full_text": False, **GREEDY}),
    ([A], {"return_tensors": True, **GREEDY}), ([[A, "the"]], {"num_beams": 3, "num_return_sequences": 2, **GREEDY}),
    ([A], {"num_beams": 2, "length_penalty": 0.5, **GREEDY}), ([_CHAT], GREEDY), ([[_CHAT, _BEGUN]], GREEDY),
    ([_BEGUN], GREEDY), ([_BEGUN], {"continue_final_message": False, **GREEDY}),
    ([_BEGUN], {"continue_final_message": True, "return_full_text": False, **GREEDY}),
    ([_CHAT], {"tokenizer_encode_kwargs": {"tools": [{"name": "f"}]}, **GREEDY}), ([A], {"prefix": "tea ", **GREEDY}),
    ([LONG], {"handle_long_generation": "hole", **GREEDY}), ([A], {"add_special_tokens": False, **GREEDY}),
    ([A], {"clean_up_tokenization_spaces": False, **GREEDY}), ([A], {"stop_sequence": "a", **GREEDY}),
    ([A], {"repetition_penalty": 1.4, "no_repeat_ngram_size": 2, **GREEDY}), ([LONG], {"truncation": True, **GREEDY}),
    ([A], {"skip_special_tokens": False, **GREEDY}), ([A], {"min_new_tokens": 8, **GREEDY}),
]  # fmt: skip

CASES = [
    Case("t5", "text2text-generation", _ANSWERS),
    Case("t5", "text2text-generation", [([A], {})]),  # 256 tokens, four beams
    Case("t5", "text2text-generation", [([A], {}), ([A], {"num_beams": 1}), ([[A]], {"max_new_tokens": 5})], {},
         {"prefix": "good "}, {"max_length": 11, "num_beams": 2, "no_repeat_ngram_size": 2, **_IDS}),
    Case("t5", "text2text-generation", [([A], {}), ([A], {"num_beams": 2})], {"max_new_tokens": 6, "num_beams": 1}, {},
         {"max_new_tokens": 3, "length_penalty": 2.0, **_IDS}),
    Case("t5", "text2text-generation", [([A], {}), ([A], {"num_beams": 1})], {}, {"max_length": 10, "min_length": 7}),
    Case("t5", "summarization", [([A], {}), ([[A, TRAPS[3]]], {"max_new_tokens": 5}), ([A], {"return_tensors": True, **FEW})],
         {}, {"task_specific_params": _SAYS}),
    Case("t5", "translation_en_to_de", [([A], {}), ([[A, TRAPS[3]]], {"num_beams": 1})], {}, {"task_specific_params": _SAYS}),
    Case("t5", "translation", [([A], FEW), ([A], {"src_lang": "en", "tgt_lang": "de", **FEW})], {}, {"task_specific_params": _SAYS}),
    *(Case(kind, "translation", [([A], FEW), ([list(TRAPS[2:6])], FEW), ([A], {**_BACK[kind], **FEW}),
                                 ([LONG], {"truncation": True, **FEW}), ([A], {"return_tensors": True, **FEW})], _LANGUAGES[kind])
      for kind in ("nllb", "mbart")),
    Case("llama", "text-generation", _TEXTS),
    Case("llama", "text-generation", [([A], {}), ([A], {"max_new_tokens": 4})], {"do_sample": False}, {}, {"max_length": 30}),
    Case("llama", "text-generation", [([A], {"max_length": 40})], {"do_sample": False}, {"prefix": "the "}),
]  # fmt: skip


def main() -> None:
    """Write them."""
    import transformers

    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    out = []
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            pipe = transformers.pipeline(case.task, str(case.write(Path(folder))), device="cpu", **case.made_with)
            out.append([stored_form(_lists(pipe(*args, **keywords))) for args, keywords in case.calls])
    versions = {name: importlib.metadata.version(name) for name in ("transformers", "torch", "tokenizers", "numpy")}
    lines = ",\n".join(json.dumps(each, ensure_ascii=False, separators=(",", ":")) for each in out)
    text = (
        f'{{"made by": "tests/generation_outputs.py", "versions": {json.dumps(versions)}, "outputs": [\n{lines}\n]}}\n'
    )
    Path(sys.argv[1]).write_text(text, encoding="utf-8")


def _lists(value: Any) -> Any:
    """Tensors of ids as lists."""
    if isinstance(value, dict):
        return {key: _lists(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_lists(each) for each in value]
    return value.tolist() if hasattr(value, "tolist") else value


if __name__ == "__main__":
    main()
