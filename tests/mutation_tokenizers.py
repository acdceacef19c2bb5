"""Tokenizers that a mutation begins with: every kind of model, normalizer, splitter, framing and decoder."""

from __future__ import annotations

from typing import Any

from broken import tokenizer

__all__ = ["small_files", "tokenizer_makes"]

#: What lies next to tokenizer.json.
_SMALL_FILES: dict[str, Any] = {
    "tokenizer_config.json": {
        "bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": False, "__type": "AddedToken"},
        "added_tokens_decoder": {"8": {"content": "<x>", "special": True, "lstrip": False}}, "pad_token": None,
        "clean_up_tokenization_spaces": True, "model_max_length": 10**30, "add_prefix_space": True,
        "additional_special_tokens": ["<y>"], "chat_template": "{{ x }}", "unk_token": "<unk>",
    },
    "special_tokens_map.json": {"bos_token": "<s>", "eos_token": {"content": "</s>", "single_word": False},
                                "additional_special_tokens": ["<y>", {"content": "<z>"}]},
    "added_tokens.json": {"<x>": 8, "<y>": 9},
    "generation_config.json": {"bos_token_id": 1, "eos_token_id": [2, 3], "do_sample": True, "temperature": 0.6,
                               "repetition_penalty": 1.1, "no_repeat_ngram_size": 3, "bad_words_ids": [[1]],
                               "suppress_tokens": [1], "top_k": 50, "max_length": 20, "begin_suppress_tokens": [1]},
    "kept_vocab.json": {"format": "miaotui-vocab", "version": 1, "kept": "0-5,7", "fallback": "bytes"},
}  # fmt: skip


def small_files(make: dict[str, Any]) -> dict[str, Any]:
    """What lies next to a tokenizer.json; the tokens that it adds have the next ids."""
    n = len(make["model"]["vocab"])
    config = _SMALL_FILES["tokenizer_config.json"]
    token = next(iter(config["added_tokens_decoder"].values()))
    files = {"tokenizer_config.json": {**config, "added_tokens_decoder": {str(n): token}}}
    return {**_SMALL_FILES, **files, "added_tokens.json": {"<x>": n, "<y>": n + 1}}


def tokenizer_makes() -> dict[str, Any]:
    """Every kind of model, normalizer, splitter, framing and decoder that published tokenizers have."""
    letters = [chr(b) for b in (*range(33, 127), *range(161, 173), *range(174, 256))]
    letters += [chr(256 + n) for n in range(256 - len(letters))]
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = [{"id": 0, "content": "<unk>", **special}, {"id": 1, "content": "<s>", **special}]
    pieces = [["<unk>", 0.0], ["<s>", 0.0], ["</s>", 0.0], *([f"<0x{b:02X}>", -9.0] for b in range(256))]
    pieces += [["▁", -2.0], ["a", -1.5], ["▁a", -1.0], ["b", -3.5]]
    base = tokenizer()
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    split = {"type": "Split", "pattern": {"Regex": "\\p{N}{1,3}| ?\\p{L}+|\\s+(?!\\S)|\\s+"}, "behavior": "Isolated",
             "invert": False}  # fmt: skip
    frame = {"type": "TemplateProcessing",
             "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
             "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
             "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}}  # fmt: skip
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    sequence = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace]}
    fused = {"type": "Sequence", "decoders": [
        {**replace, "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}  # fmt: skip
    limits = {"truncation": {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0},
              "padding": {"strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
                          "pad_type_id": 0, "pad_token": "<unk>"}}  # fmt: skip
    bpe = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
           "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
           "vocab": {c: i for i, c in enumerate([*letters, "ab", "abc"])},
           "merges": [["a", "b"], ["ab", "c"]]}  # fmt: skip
    wordpiece = {"type": "WordPiece", "unk_token": "<unk>", "continuing_subword_prefix": "##",
                 "max_input_chars_per_word": 100, "vocab": {"<unk>": 0, "<s>": 1, "a": 2, "##b": 3}}  # fmt: skip
    bert = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None,
            "lowercase": True}  # fmt: skip
    return {
        "words": {**base, "added_tokens": added, "post_processor": frame, **limits},
        "bytes": {**base, "model": bpe, "decoder": level, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            split, {**level, "use_regex": False}]}, "post_processor": {**level, "type": "ByteLevel"}},
        "unigram": {**base, "added_tokens": added, "normalizer": sequence, "pre_tokenizer": None, "decoder": fused,
                    "model": {"type": "Unigram", "unk_id": 0, "vocab": pieces, "byte_fallback": True}},
        "wordpiece": {**base, "normalizer": bert, "pre_tokenizer": {"type": "BertPreTokenizer"}, "model": wordpiece,
                      "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True}, "post_processor": frame},
    }  # fmt: skip
