"""The prompts that fill a gap, for tokenizers made as those of StarCoder2, Qwen2.5 Coder and Code Llama are.

Theirs have 50,000 entries and more, and lie on a hub; these have the same parts, the same special tokens, and merges
of a small text.
"""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import hypothesis.strategies as st
import pytest
from hypothesis import given
from miaotui.errors import InputError
from miaotui.loader.text.fim import infill_of
from miaotui.loader.text.tokenizer import Tokenizer
from tokenizers import AddedToken, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Made
from tokenizers.models import BPE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CODE = [
    "def area(r):\n    return 3.14 * r * r\n\n\nprint(area(2))\n",
    "for i in range(10):\n        left = [x for x in arr if x < pivot]\n",
    "import numpy as np\n\nclass Point:\n    x: int\n    y: int\n",
]
#: Of starcoder2's tokenizer_config.json, in the order of its ids.
STARCODER2 = (
    "<|endoftext|>", "<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<fim_pad>", "<repo_name>", "<file_sep>",
    "<issue_start>", "<issue_comment>", "<issue_closed>", "<jupyter_start>", "<jupyter_text>", "<jupyter_code>",
    "<jupyter_output>", "<jupyter_script>", "<empty_output>", "<code_to_intermediate>",
    "<intermediate_to_code>", "<pr>",
)  # fmt: skip
#: Of Qwen2.5-Coder's, from 151643 on.
QWEN = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>", "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>",
    "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>",
)  # fmt: skip
#: Of Code Llama's, from 32007 on.
CODE_LLAMA = ("\u2581<PRE>", "\u2581<SUF>", "\u2581<MID>", "\u2581<EOT>")


def starcoder2() -> Made:
    made = Made(BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(CODE, of_bytes(special_tokens=list(STARCODER2)))
    return made


def qwen() -> Made:
    made = Made(BPE())
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(CODE, of_bytes())
    made.add_special_tokens([AddedToken(name, normalized=False) for name in QWEN if name[1] == "|"])
    made.add_tokens([AddedToken(name, normalized=False) for name in QWEN if name[1] != "|"])
    return made


def code_llama() -> Made:
    """SentencePiece's, as transformers converts it: a space before a text, bytes where a character has no entry."""
    made = Made(BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))  # noqa: S106 - a token of text
    made.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    names = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    made.train_from_iterator(CODE, trainers.BpeTrainer(vocab_size=600, special_tokens=names, show_progress=False))
    made.add_special_tokens([AddedToken(name, normalized=False) for name in CODE_LLAMA])
    begin = made.token_to_id("<s>")
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", begin)])
    file = json.loads(made.to_str())
    kept = {"<unk>", "<s>", "</s>", *CODE_LLAMA}  # bytes are entries, and no special tokens
    file["added_tokens"] = [token for token in file["added_tokens"] if token["content"] in kept]
    return Made.from_str(json.dumps(file))


def of_bytes(**more: Any) -> trainers.BpeTrainer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    return trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False, **more)


KINDS: dict[str, tuple[Callable[[], Made], dict[str, Any]]] = {
    "starcoder2": (starcoder2, {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}),
    "qwen": (qwen, {"bos_token": None, "eos_token": "<|endoftext|>"}),
    "code llama": (code_llama, {"bos_token": "<s>", "eos_token": "</s>"}),
}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Tokenizer, Made]]:
    """By kind: ours, and the library's."""

    def read(directory: Path, made: Made, config: dict[str, Any]) -> tuple[Tokenizer, Made]:
        made.save(str(directory / "tokenizer.json"))
        (directory / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
        return Tokenizer.from_directory(directory), made

    return {kind: read(tmp_path_factory.mktemp("coder"), make(), config) for kind, (make, config) in KINDS.items()}


TEXTS = [
    ("def area(r):\n    return ", "\n\nprint(area(2))\n"),
    ("", "print(1)"),
    ("    x", ""),
    ("", ""),
    ("a = [", "]\n"),
    ("# na\u00efve \u6f22\u5b57 ", " 12345\t\n  return x"),
    ("left = [x ", "  for x in arr]"),
]
texts = st.text(st.sampled_from("ab x=(1)\n\t[]:.\u00e9\u6f22"), max_size=12)


def asked_of_qwen(made: Made, prefix: str, suffix: str) -> list[int]:
    """As the example of its repository: one text, in which control tokens are found."""
    return made.encode(f"<|fim_prefix|>{prefix}<|fim_suffix|>{suffix}<|fim_middle|>").ids


def asked_of_starcoder2(made: Made, prefix: str, suffix: str) -> list[int]:
    """As its paper (arXiv:2402.19173, section 5.1): one text, without a name of a repository or a file."""
    return made.encode(f"<fim_prefix>{prefix}<fim_suffix>{suffix}<fim_middle>").ids


def asked_of_code_llama(made: Made, prefix: str, suffix: str) -> list[int]:
    """As its paper (arXiv:2308.12950) and code: the suffix without the space that begins a text.

    The space goes to a smiley in front, which is taken away again.
    """
    smiley = made.encode("\u263a", add_special_tokens=False).ids
    inside = made.encode(f"\u263a{suffix}", add_special_tokens=False).ids
    assert inside[: len(smiley)] == smiley
    first, second, third, _ = map(made.token_to_id, CODE_LLAMA)
    before = made.encode(prefix, add_special_tokens=False).ids
    return [made.token_to_id("<s>"), first, *before, second, *inside[len(smiley) :], third]


ASKED = {"starcoder2": asked_of_starcoder2, "qwen": asked_of_qwen, "code llama": asked_of_code_llama}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("prefix", "suffix"), TEXTS)
def test_ids_are_those_that_the_model_was_trained_on(
    both: dict[str, tuple[Tokenizer, Made]], kind: str, prefix: str, suffix: str
) -> None:
    ours, made = both[kind]
    assert infill_of(ours, prefix, suffix).ids == ASKED[kind](made, prefix, suffix)


@given(kind=st.sampled_from(list(KINDS)), prefix=texts, suffix=texts)
def test_ids_of_any_two_texts(both: dict[str, tuple[Tokenizer, Made]], kind: str, prefix: str, suffix: str) -> None:
    ours, made = both[kind]
    assert infill_of(ours, prefix, suffix).ids == ASKED[kind](made, prefix, suffix)


#: What ends a middle besides the model's own end: of Qwen, those of its example's `eos_token_ids`.
ENDS = {
    "starcoder2": {"<|endoftext|>", "<file_sep>", "<fim_pad>", *STARCODER2[1:4]},
    "qwen": {"<|endoftext|>", "<|im_end|>", "<|repo_name|>", "<|file_sep|>", *QWEN[16:20]},
    "code llama": {*CODE_LLAMA},
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_ends_a_middle(both: dict[str, tuple[Tokenizer, Made]], kind: str) -> None:
    ours, made = both[kind]
    assert {made.id_to_token(end) for end in infill_of(ours, "a", "b").ends} == ENDS[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_control_tokens_in_a_text_are_text(both: dict[str, tuple[Tokenizer, Made]], kind: str) -> None:
    """A file about such tokens does not end its own prefix."""
    ours, made = both[kind]
    for name in {"starcoder2": STARCODER2, "qwen": QWEN, "code llama": CODE_LLAMA}[kind]:
        asked = infill_of(ours, f"a {name} b", f"{name}c{name}").ids
        bare = infill_of(ours, "a", "c").ids
        if made.token_to_id(name) in ours.special_ids:
            assert asked.count(made.token_to_id(name)) == bare.count(made.token_to_id(name)), name
            told = ours.decode(asked, skip_special_tokens=True)
            wanted = f"a{name}b{name}c{name}"
            assert _without_spaces(told) == _without_spaces(wanted), name


def test_a_text_that_cannot_be_marked_is_told_from_a_model_that_fills_no_gaps(tmp_path: Path) -> None:
    pytest.importorskip("starlette")
    pytest.importorskip("prometheus_client")
    from miaotui.tools.server import completions
    from miaotui.tools.server.errors import RequestError

    def asked(made: Made, prompt: str, suffix: str) -> object:
        made.save(str(tmp_path / "tokenizer.json"))
        model: Any = SimpleNamespace(tokenizer=Tokenizer.from_directory(tmp_path))
        return completions._infilled(model, prompt, suffix, {"eos_token_id": [0]})

    made = starcoder2()
    made.add_special_tokens([AddedToken("\u00a7", normalized=False)])
    assert asked(made, "a", "b")
    for texts_ in (("a \u00a7 b", "c"), ("a", "b \u00a7")):
        with pytest.raises(InputError, match="cannot read as text"):
            asked(made, *texts_)
    with pytest.raises(RequestError, match="no tokens to fill in the middle with"):
        asked(Made(BPE({"a": 0}, [])), "a", "b")


def _without_spaces(text: str) -> str:
    """SentencePiece reads its own sign of a space as one."""
    return text.replace(" ", "").replace("\u2581", "")
