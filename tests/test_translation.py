"""From a text to its translation, as `transformers` makes it: SentencePiece-like tokenizers, languages, the command."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import miaotui
import numpy as np
import pytest
import tokenizers
from helpers import complaint
from miaotui.errors import InputError, PlanError, TokenizerError
from miaotui.loader.prune.plan import PrunePlan
from miaotui.tools import cli
from test_seq2seq import ids_of, made, near
from tokenizers import decoders, normalizers, pre_tokenizers, processors, trainers

if TYPE_CHECKING:
    from pathlib import Path

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

FRA, UNKNOWN = "fra_Latn", "<unk>"
LANGUAGES = ["deu_Latn", "eng_Latn", "fra_Latn"]
TEXTS = [
    "The red ball rolled under the old table.", "  two  spaces and a tab\t", "naïve café — 12,5 €", "",
    "Der rote Ball rollte unter den alten Tisch.", "a<pad>b fra_Latn c",
]  # fmt: skip


def unigram(*, source: str | None) -> tokenizers.Tokenizer:
    """As SentencePiece's are converted: T5's frame, or, with a `source` language, NLLB's."""
    t = tokenizers.Tokenizer(tokenizers.models.Unigram())
    t.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(tokenizers.Regex(" {2,}"), " ")])
    t.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    t.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    special = ["<s>", "<pad>", "</s>", "<unk>"] if source else ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=150, special_tokens=special, show_progress=False, max_piece_length=6, unk_token=UNKNOWN
    )
    t.train_from_iterator(TEXTS * 20, trainer)
    if source:
        t.add_special_tokens(LANGUAGES)
    frame = f"{source} $A </s>" if source else "$A </s>"
    t.post_processor = processors.TemplateProcessing(
        frame, special_tokens=[(x, t.token_to_id(x)) for x in ("</s>", *([source] if source else []))]
    )
    return t


def written(directory: Path, config: Any, t: tokenizers.Tokenizer) -> tuple[Any, Any]:
    """A random model and its tokenizer; transformers' own of both."""
    model = made(config, directory, 5)
    t.save(str(directory / "tokenizer.json"))
    named = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    (directory / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **named})
    )
    return model, transformers.AutoTokenizer.from_pretrained(directory)


@pytest.fixture(scope="module")
def nllb(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    t, directory = unigram(source="eng_Latn"), tmp_path_factory.mktemp("nllb")
    config = transformers.M2M100Config(
        vocab_size=t.get_vocab_size() + 3, d_model=24, encoder_layers=2, decoder_layers=2, encoder_attention_heads=3,
        decoder_attention_heads=2, encoder_ffn_dim=37, decoder_ffn_dim=31, max_position_embeddings=200,
    )  # fmt: skip
    return directory, *written(directory, config, t)


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    t, directory = unigram(source=None), tmp_path_factory.mktemp("t5")
    config = transformers.T5Config(
        vocab_size=t.get_vocab_size() + 3, d_model=24, d_kv=8, d_ff=37, num_layers=2, num_heads=3,
        feed_forward_proj="gated-gelu", decoder_start_token_id=0, eos_token_id=1, tie_word_embeddings=False,
    )  # fmt: skip
    return directory, *written(directory, config, t)


def theirs(model: Any, t: Any, text: str, **how: Any) -> list[str]:
    """transformers' answers."""
    with torch.no_grad():
        ids = model.generate(**t(text, return_tensors="pt", return_token_type_ids=False), do_sample=False, **how)
    return [t.decode(row, skip_special_tokens=True) for row in ids]


@pytest.mark.parametrize("which", ["nllb", pytest.param("t5", marks=pytest.mark.ci)])
def test_texts_are_answered_as_transformers_answers_them(which: str, request: pytest.FixtureRequest) -> None:
    directory, model, t = request.getfixturevalue(which)
    how: dict[str, Any] = {"max_new_tokens": 12, "no_repeat_ngram_size": 2}
    with miaotui.load(directory, cache_tokens=2048) as ours:
        for text in TEXTS:
            assert ours.tokenizer.encode(text) == t(text)["input_ids"]
            if which == "nllb":
                how["forced_bos_token_id"] = "fra_Latn" if len(text) % 2 else "deu_Latn"
            told = how | {k: t.convert_tokens_to_ids(v) for k, v in how.items() if isinstance(v, str)}
            if "<pad>" in text:  # whose logits are those of a mask that is all ones, as the tokenizer gives
                assert t(text)["attention_mask"] == [1] * len(t(text)["input_ids"])
            assert ours.generate(text, **how).text == theirs(model, t, text, **told, use_cache=False)[0]
            best = ours.generate(text, num_beams=4, num_return_sequences=2, **how)
            got = [a.text for a in (best, *best.alternatives)]
            assert got == theirs(model, t, text, num_beams=4, num_return_sequences=2, **told)
            assert "".join(ours.stream(text, **how)) == ours.generate(text, **how).text
        plain = [ours.generate(text, num_beams=3, **how).text for text in TEXTS]
        assert [a.text for a in ours.generate_all(TEXTS, num_beams=3, **how)] == plain


def test_a_stop_string_ends_an_answer(t5: tuple[Path, Any, Any]) -> None:
    with miaotui.load(t5[0]) as model:
        # a stop string is found in a special token's name too, which the text lacks
        silent = [0, 2, *range(t5[2].vocab_size, model.config.n_vocab), t5[2].convert_tokens_to_ids("▁")]
        how: dict[str, Any] = {
            "max_new_tokens": 30,
            "min_new_tokens": 30,
            "bad_words_ids": [[i] for i in silent],
        }
        for text in TEXTS:
            whole = model.generate(text, **how).text
            assert len(whole) > 8
            for at in (0, 4, 5):
                stop = whole[at : at + 3]
                cut = model.generate(text, **how, stop=stop)
                assert (cut.text, cut.finish_reason) == (whole[: whole.index(stop)], "stop")
                assert "".join(model.stream(text, **how, stop=stop)) == cut.text
    with pytest.raises(InputError, match="at least one character"), miaotui.load(t5[0]) as model:
        model.generate(TEXTS[0], stop="")


def test_languages_are_named_by_their_tokens(nllb: tuple[Path, Any, Any]) -> None:
    directory, _, t = nllb
    fra = t.convert_tokens_to_ids("fra_Latn")
    with miaotui.load(directory) as model:
        assert model.generate("a", max_new_tokens=3, forced_bos_token_id=FRA).ids[0] == fra
        assert model.generate("a", max_new_tokens=3, forced_bos_token_id=np.int64(fra)).ids[0] == fra
        began = model.generate("a", max_new_tokens=5, decoder_start_token_id=FRA)
        with model.sequence("a") as text:
            assert text.generate([fra], max_new_tokens=5).ids == began.ids
            for name in ("decoder_start_token_id", "temprature"):
                with pytest.raises(InputError, match=name):
                    text.generate(**{name: 3})
        for name, value, said in (
            ("forced_bos_token_id", "fra", "did you mean fra_Latn"),
            ("forced_bos_token_id", "fr_Latn", "did you mean fra_Latn"),
            ("decoder_start_token_id", "xx", "no such token"),
            ("decoder_start_token_id", -1, "decoder_start_token_id"),
            ("forced_eos_token_id", 10**6, "forced_eos_token_id=1000000: token id 1000000 is outside the vocabulary"),
        ):
            with pytest.raises(InputError, match=said):
                model.generate("a", **{name: value})


def test_padding_tokens_inside_a_text_have_no_position(nllb: tuple[Path, Any, Any]) -> None:
    """As transformers counts them (`create_position_ids_from_input_ids`), however a text is fed."""
    directory, model, _ = nllb
    ids, decoder_ids = [1, 5, 1, 1, 7, 9, 30, 1, 8, 1], [2, 1, 5, 6, 1, 1, 9, 10, 1]
    with torch.no_grad():
        wanted = model(
            torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), decoder_input_ids=torch.tensor([decoder_ids])
        )
    hidden, logits = wanted.encoder_last_hidden_state[0].numpy(), wanted.logits[0].numpy()
    seen = set()
    for chunk in (1, 3, 60):
        with miaotui.load(directory, prefill_chunk=chunk) as ours:
            assert np.abs(ours.hidden(ids) - hidden).max() <= near(model.config, hidden)
            got = ours.logits(ids, decoder_ids=decoder_ids)
            assert np.abs(got - logits).max() <= near(model.config, logits)
            with ours.sequence(ids) as text:
                rows = [text.feed([i]) for i in decoder_ids]
                assert np.array_equal(rows, got)
                text.truncate(5)
                with text.fork() as other:
                    assert np.array_equal(other.feed(decoder_ids[5:]), got[-1])
                assert np.array_equal(text.feed(decoder_ids[5:7]), got[6])
            seen.add(got.tobytes())
    assert len(seen) == 1
    with pytest.raises(PlanError, match="padding"):
        miaotui.load(directory, prune=PrunePlan(vocab=(2, 3, 4, 5, 6, 7)))


@pytest.fixture
def miao(capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*arguments: object) -> tuple[Any, str, str]:
        try:
            code: Any = cli.main([str(a) for a in arguments])
        except SystemExit as e:
            code = e.code
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_the_command_translates(nllb: tuple[Path, Any, Any], miao: Any) -> None:
    directory, text = nllb[0], TEXTS[0]
    how: dict[str, Any] = {"max_new_tokens": 9, "forced_bos_token_id": "fra_Latn"}
    options = ["--max-new-tokens", 9, "--forced-bos-token-id", "fra_Latn", "--model", directory]
    with miaotui.load(directory) as model:
        greedy = model.generate(text, **how).text
        best = model.generate(text, num_beams=3, num_return_sequences=2, length_penalty=2.0, early_stopping=True, **how)
        rules = model.generate(
            text, min_new_tokens=5, no_repeat_ngram_size=1, encoder_no_repeat_ngram_size=1, forced_eos_token_id=2,
            bad_words_ids=[[7], [9, 11]], decoder_start_token_id=4, **how,
        ).text  # fmt: skip
        n_read = len(model.tokenizer.encode(text)) + 1
    code, out, err = miao("generate", text, "--stats", *options)
    assert (code, out) == (0, f"{greedy}\n")  # the prompt is no beginning of the answer
    assert f"{n_read} tokens" in err
    beams = ["--num-beams", 3, "--num-return-sequences", 2, "--length-penalty", 2, "--early-stopping", "true"]
    code, out, err = miao("generate", text, "--stats", *beams, *options)
    assert (code, out) == (0, f"{best.text}\n{best.alternatives[0].text}\n")
    assert [float(line.split()[1]) for line in err.splitlines() if line.startswith("score")] == pytest.approx(
        [best.score, best.alternatives[0].score], abs=1e-4
    )
    more = ["--min-new-tokens", 5, "--no-repeat-ngram-size", 1, "--encoder-no-repeat-ngram-size", 1]
    more += ["--forced-eos-token-id", 2, "--bad-words-ids", 7, "--bad-words-ids", "9,11"]
    assert miao("generate", text, *more, "--decoder-start-token-id", 4, *options)[:2] == (0, f"{rules}\n")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--num-beams", "0"], "--num-beams 0: expected an integer >= 1"),
        (["--num-beams", "2", "--temperature", "1"], "--num-beams 2: sampling and beams do not go together here"),
        (
            ["--num-return-sequences", "2"],
            "--num-return-sequences 2: the likeliest answer is one; sample, or give --num-beams",
        ),
        (["--early-stopping", "soon"], "--early-stopping: expected true, false or never, found 'soon'"),
        (["--bad-words-ids", "x"], "--bad-words-ids: expected token ids such as 17 or 5,9, found 'x'"),
        (["--forced-bos-token-id", "fra"], "--forced-bos-token-id fra: the tokenizer has no such token; did you mean "),
        (["--decoder-start-token-id", "9999"], "--decoder-start-token-id: id 9999"),
        (["--num-beams", "50"], "--num-beams 50: that many texts of up to 201 tokens need a larger --cache-tokens: "),
    ],
)
def test_the_command_says_what_is_wrong(nllb: tuple[Path, Any, Any], miao: Any, options: list[str], said: str) -> None:
    code, out, err = miao("generate", "a", "--model", nllb[0], *options)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert complaint(err).startswith(f"miaotui: error: {said}")


@pytest.mark.parametrize(
    ("kind", "names", "slow"),
    [
        ("Marian", ("source.spm", "target.spm", "vocab.json"), True),
        ("M2M100", ("sentencepiece.bpe.model", "vocab.json"), True),
        ("T5", ("spiece.model",), False),
        ("MT5", ("spiece.model",), False),
        ("MBart", ("sentencepiece.bpe.model",), False),
        ("Roberta", ("vocab.json", "merges.txt"), False),
    ],
)
def test_what_has_no_tokenizer_json_is_told_what_to_do(
    t5: tuple[Path, Any, Any],
    tmp_path: Path,
    kind: str,
    names: tuple[str, ...],
    slow: bool,  # noqa: FBT001 - a case
) -> None:
    shutil.copytree(t5[0], tmp_path, dirs_exist_ok=True)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": f"{kind}Tokenizer"}))
    for name in names:
        (tmp_path / name).write_bytes(b"")
    with miaotui.load(tmp_path) as model:
        with pytest.raises(TokenizerError, match=names[0]) as e:
            model.generate("a")
        assert ("save_pretrained" in str(e.value)) != slow
        assert ("input_ids" in str(e.value)) == slow
        pieces = any("vocab" not in name and "merges" not in name for name in names)  # of sentencepiece
        needs = "transformers" + " sentencepiece" * pieces + " protobuf" * (pieces and not slow)
        assert f"(pip install {needs})" in str(e.value)
        reader = "T5Tokenizer" if "T5" in kind else "AutoTokenizer"
        assert f"{reader}.from_pretrained({str(tmp_path)!r})" in str(e.value)
        assert model.generate(ids_of(1, 4), max_new_tokens=2).ids  # ids need none
