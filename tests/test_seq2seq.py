"""Encoder-decoders against `transformers` in float64: hidden states, logits, greedy ids and beams; bits; bad input."""

from __future__ import annotations

import json
import shutil
import threading
from typing import TYPE_CHECKING, Any

import miaotui
import numpy as np
import pytest
from checkpoints import SEQ2SEQ as FAMILIES
from generation_models import write_writer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from miaotui.errors import BackendError, CheckpointError, ConfigError, InputError, PlanError
from miaotui.limits import Request
from miaotui.loader.open import open_model
from miaotui.loader.prune.plan import PrunePlan
from miaotui.prepare import prepare
from miaotui.runtime.generate import Draw
from miaotui.runtime.kvcache import PAGE
from miaotui.runtime.pages import Caller
from miaotui.tools.commands.quantize import quantize
from miaotui.tools.prune import prune
from safetensors.numpy import load_file, save_file
from tolerance import bound

if TYPE_CHECKING:
    from pathlib import Path

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

SETTINGS = settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck), print_blob=False)
LONGEST = 70
T5 = ("t5", "mt5", "umt5")
SINUSOIDS = ("marian", "pegasus", "m2m_100")


def bart_like(draw: st.DrawFn, family: str) -> dict[str, Any]:
    """Sizes of BART and its kin; the ids of special tokens are small."""
    heads, other = draw(st.sampled_from([(1, 2), (2, 1), (3, 3), (4, 2)]))
    said = {
        "vocab_size": draw(st.integers(8, 131)),
        "d_model": 12 * draw(st.sampled_from([1, 2, 3])) if family != "bart" else 15,
        "encoder_layers": draw(st.integers(1, 3)),
        "decoder_layers": draw(st.integers(1, 3)),
        "encoder_attention_heads": heads,
        "decoder_attention_heads": other,
        "encoder_ffn_dim": draw(st.integers(1, 67)),
        "decoder_ffn_dim": draw(st.integers(1, 67)),
        "activation_function": draw(st.sampled_from(["gelu", "gelu_new", "relu", "swish"])),
        "max_position_embeddings": LONGEST + 2,
        "scale_embedding": draw(st.booleans()),
        "tie_word_embeddings": draw(st.booleans()),
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "decoder_start_token_id": draw(st.sampled_from([1, 2])),
        "forced_eos_token_id": draw(st.sampled_from([None, 2])),
        "forced_bos_token_id": draw(st.sampled_from([None, 3])),
    }
    if family == "bart":  # odd widths
        said |= {"encoder_attention_heads": draw(st.sampled_from([1, 3, 5])), "decoder_attention_heads": 5}
    if family == "marian" and draw(st.booleans()):
        said |= {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": draw(st.integers(8, 40))}
        said["tie_word_embeddings"] = True
    return said


def t5_like(draw: st.DrawFn, family: str) -> dict[str, Any]:
    """Sizes of T5 and its kin; they tie the head whatever is said, which says whether what it reads is scaled."""
    buckets = draw(st.sampled_from([4, 6, 8, 32]))
    return {
        "vocab_size": draw(st.integers(8, 131)),
        "d_model": draw(st.sampled_from([5, 16, 33])),
        "d_kv": draw(st.sampled_from([1, 7, 16])),
        "d_ff": draw(st.integers(1, 67)),
        "num_layers": draw(st.integers(1, 3)),
        "num_decoder_layers": draw(st.sampled_from([None, 1, 2, 3])),
        "num_heads": draw(st.integers(1, 4)),
        "relative_attention_num_buckets": buckets,
        "relative_attention_max_distance": draw(st.integers(buckets + 1, 128)),
        "feed_forward_proj": draw(st.sampled_from(["relu", "gated-gelu", "gated-silu", "gelu"])),
        "tie_word_embeddings": draw(st.booleans()) if family != "mt5" else True,
        "decoder_start_token_id": 0,
    }


@st.composite
def configs(draw: st.DrawFn, family: str) -> Any:
    """A config of `transformers`."""
    said = t5_like(draw, family) if family in T5 else bart_like(draw, family)
    return transformers.CONFIG_MAPPING[family](**said)


def made(config: Any, directory: Path, seed: int = 0, dtype: Any = None) -> Any:
    """A random model of a config, written to a directory; it is returned in float64, with the numbers of the file."""
    torch.manual_seed(seed)
    model = transformers.AutoModelForSeq2SeqLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:  # not sinusoids
                p.copy_(torch.randn_like(p) * 0.3 + (p if p.dim() == 1 else 0))
        if hasattr(model, "final_logits_bias"):
            model.final_logits_bias.copy_(torch.randn_like(model.final_logits_bias))
    model.to(dtype or torch.float32).save_pretrained(directory)
    again = transformers.AutoModelForSeq2SeqLM.from_pretrained(directory, attn_implementation="eager", dtype="auto")
    return again.double().eval()


def near(config: Any, wanted: np.ndarray) -> float:
    """LayerNorm of few numbers divides by a small spread."""
    if config.model_type in T5:  # whose scores are not scaled: large, and so their errors
        layers = 16 * (config.num_layers + config.num_decoder_layers + 2)
    else:
        layers = config.encoder_layers + config.decoder_layers + 2
    scale = float(np.abs(wanted).max())
    return (1 + 16 / np.sqrt(config.d_model)) * 2 * bound("model", "f32", layers, scale=scale)


def drawn(rng: np.random.Generator, config: Any, n: int, *, decoder: bool = False) -> list[int]:
    """Ids without the padding token, which has no position in M2M100."""
    own = getattr(config, "decoder_vocab_size", None) if decoder else None
    return [int(i) for i in rng.integers(2, own or config.vocab_size, n)]


def family_cases() -> list[Any]:  # about 10 s each
    return [f if f in {"bart", "t5"} else pytest.param(f, marks=pytest.mark.ci) for f in FAMILIES]


@pytest.mark.parametrize("family", family_cases())
def test_states_logits_and_ids_are_those_of_transformers(family: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    @SETTINGS
    @given(configs(family), st.data())
    def holds(config: Any, data: st.DataObject) -> None:
        directory = tmp_path_factory.mktemp(family)
        dtype = torch.float32 if family in SINUSOIDS else data.draw(st.sampled_from([torch.float32, torch.bfloat16]))
        model = made(config, directory, data.draw(st.integers(0, 99)), dtype)
        n, m = data.draw(st.integers(1, LONGEST)), data.draw(st.integers(1, LONGEST))
        rng = np.random.default_rng(n)
        ids, decoder_ids = drawn(rng, config, n), drawn(rng, config, m, decoder=True)
        never = [[config.pad_token_id]]  # whose position M2M100 has none of
        # without a cache: T5's has as many layers as the encoder, also where the decoder has more
        how = {"max_new_tokens": 9, "bad_words_ids": never, "do_sample": False, "use_cache": False}
        with torch.no_grad():
            wanted = model(torch.tensor([ids]), decoder_input_ids=torch.tensor([decoder_ids]))
            new, best = (model.generate(torch.tensor([ids]), num_beams=n, **how) for n in (1, 4))
        hidden, logits = wanted.encoder_last_hidden_state[0].numpy(), wanted.logits[0].numpy()
        with miaotui.load(directory, threads=data.draw(st.integers(1, 2))) as ours:
            assert ours.memory["allocated"] == ours.memory["weights_resident"] + sum(
                ours.memory[part] for part in ("constants", "kv_cache", "activations")
            )
            assert np.abs(ours.hidden(ids) - hidden).max() <= near(config, hidden)
            assert np.abs(ours.logits(ids, decoder_ids=decoder_ids) - logits).max() <= near(config, logits)
            assert ours.generate(ids, max_new_tokens=9, bad_words_ids=never).ids == new[0, 1:].tolist()
            assert ours.generate(ids, max_new_tokens=9, num_beams=4, bad_words_ids=never).ids == _cut(best[0, 1:], ours)

    holds()


def _cut(ids: Any, ours: Any) -> list[int]:
    """Up to the first id that ends: transformers fills what follows."""
    out: list[int] = []
    for i in ids.tolist():
        out.append(i)
        if i in ours.config.eos_ids:
            break
    return out


@pytest.mark.parametrize("kind", ["relu", "gated-gelu"])
def test_a_head_of_its_own_reads_what_is_not_scaled(kind: str, tmp_path: Path) -> None:
    """../shared/faults/next.md, case 3: T5 against T5 1.1, huggingface/transformers#43681."""
    config = transformers.T5Config(
        vocab_size=50, d_model=64, d_kv=16, d_ff=37, num_layers=2, num_heads=4, feed_forward_proj=kind,
        decoder_start_token_id=0,
    )  # fmt: skip
    made(config, tmp_path / "tied")
    said = json.loads((tmp_path / "tied" / "config.json").read_text())
    tensors = load_file(tmp_path / "tied" / "model.safetensors")
    said = {key: value for key, value in said.items() if key != "scale_decoder_outputs"}
    for name, more in (("untied", {"lm_head.weight": tensors["shared.weight"].copy()}), ("lacking", {})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(said | {"tie_word_embeddings": False}))
        save_file(tensors | more, tmp_path / name / "model.safetensors")
    with miaotui.load(tmp_path / "tied") as tied, miaotui.load(tmp_path / "untied") as untied:
        a, b = (m.logits(ids_of(1, 20), decoder_ids=[0, *ids_of(2, 9)]) for m in (tied, untied))
    assert np.array_equal(8 * a, b)
    with pytest.raises(CheckpointError, match=r"lm_head\.weight"):
        miaotui.load(tmp_path / "lacking")


def small_config(**more: Any) -> Any:
    """A BART of two layers each whose texts have up to 300 tokens."""
    return transformers.BartConfig(
        vocab_size=53, d_model=24, encoder_layers=2, decoder_layers=2, encoder_attention_heads=3,
        decoder_attention_heads=2, encoder_ffn_dim=37, decoder_ffn_dim=31, max_position_embeddings=300,
        **more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bart")
    made(small_config(), directory)
    return directory


def ids_of(seed: int, n: int) -> list[int]:
    return [int(i) for i in np.random.default_rng(seed).integers(3, 50, n)]


@pytest.mark.parametrize("kv_cache", ["f32", pytest.param("bf16", marks=pytest.mark.ci), "int8"])
def test_threads_and_chunks_change_no_bit(small: Path, kv_cache: str) -> None:
    ids, decoder_ids = ids_of(1, 200), ids_of(2, 150)
    seen = set()
    for threads, chunk in ((1, 300), (2, 7), (3, 64), (1, 1)):
        with miaotui.load(small, threads=threads, prefill_chunk=chunk, kv_cache=kv_cache) as model:
            seen.add((model.hidden(ids).tobytes(), model.logits(ids, decoder_ids=decoder_ids).tobytes()))
    assert len(seen) == 1


def test_sequences_go_on_with_the_bits_of_one_alone(small: Path) -> None:
    """Two texts take the cache from each other: what was given up is computed again, the encoder's text too."""
    with miaotui.load(small, cache_tokens=384) as model:
        alone = [model.generate(ids_of(i, 290), max_new_tokens=12, ignore_eos=True).ids for i in range(3)]
        streams = [model.tokens(ids_of(i, 290), max_new_tokens=12, ignore_eos=True) for i in range(3)]
        together: list[list[int | None]] = [[] for _ in streams]
        for _ in range(12):
            for i, stream in enumerate(streams):
                together[i].append(next(stream).id)
        assert together == alone
        sequence = model.sequence(ids_of(0, 290))
        first = sequence.feed([2])
        fork = sequence.fork()
        assert fork.feed([5, 6]).tobytes() == sequence.feed([5, 6]).tobytes()
        sequence.truncate(1)
        sequence.truncate(0)
        assert sequence.feed([2]).tobytes() == first.tobytes()


def test_texts_that_need_each_others_room_all_come_to_their_end(small: Path) -> None:
    """Room for one in both caches, the encoder's and the decoder's: who waits for one keeps nothing of the other."""
    texts = [ids_of(i, 200 + i) for i in range(4)]
    how: Any = {"max_new_tokens": 140, "ignore_eos": True}
    with miaotui.load(small, cache_tokens=384, threads=1) as model:
        alone = [model.generate(text, **how).ids for text in texts]
        got: list[Any] = [None] * len(texts)

        def work(i: int) -> None:
            one = model.generate(texts[i], **how).ids
            got[i] = one if i % 2 else [t.id for t in model.tokens(texts[i], **how)]

        workers = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(len(texts))]
        for w in workers:
            w.start()
        for w in workers:
            w.join(timeout=120)
        assert not any(w.is_alive() for w in workers), "they wait for each other"
        assert got == alone


def test_encoders_texts_that_no_pass_needed_do_not_pile_up(small: Path) -> None:
    with miaotui.load(small) as model:
        for _ in range(200):
            model.sequence(ids_of(1, 40)).close()
        assert model.session.sources is not None
        assert len(list(model.session.sources.pages.tables)) < 20


def test_a_handler_that_finds_no_room_for_its_encoders_text_is_refused(small: Path) -> None:
    with miaotui.load(small, cache_tokens=384, threads=1) as model:
        turn, said = model.session.turn, list[str]()
        wanted = model.generate(ids_of(1, 290), max_new_tokens=9, ignore_eos=True).ids

        def nosy(*work: Any) -> Any:
            token = turn(*work)
            if not said:
                said.append("")
                with pytest.raises(InputError) as e:
                    model.generate(ids_of(2, 290), max_new_tokens=2)
                said[0] = str(e.value)
            return token

        model.session.turn = nosy  # type: ignore[method-assign]
        assert model.generate(ids_of(1, 290), max_new_tokens=9, ignore_eos=True).ids == wanted
        assert "the cache is full of a text that this thread is generating" in said[0]


def test_who_is_stopped_as_a_part_of_the_program_is_chosen_leaves_the_next_its_own(small: Path) -> None:
    """Hidden states end before what a decoder reads is written: the machine must not take one for the other."""
    with miaotui.load(small, threads=1) as model:
        hidden, logits = model.hidden([5, 6, 7]), model.logits([5, 6, 7], decoder_ids=[2, 9])
        executor = model.session.backend._executor  # type: ignore[attr-defined]
        bind = executor.bind

        def struck(*where: int, **how: bool) -> None:
            executor.bind = bind
            bind(*where, **how)
            raise KeyboardInterrupt

        model.hidden([5, 6, 7])
        executor.bind = struck
        with pytest.raises(KeyboardInterrupt):
            model.generate([7, 8, 9], max_new_tokens=3)
        assert model.session.backend._bound is None  # type: ignore[attr-defined]
        assert model.hidden([5, 6, 7]).tobytes() == hidden.tobytes()
        assert model.logits([5, 6, 7], decoder_ids=[2, 9]).tobytes() == logits.tobytes()


def test_the_encoder_alone_reads_no_weight_of_the_decoder(small: Path, tmp_path: Path) -> None:
    """Every number of the decoder is NaN: it would show."""
    tensors = load_file(small / "model.safetensors")
    for name, x in tensors.items():
        if ".decoder." in name or name == "final_logits_bias":
            x[:] = np.nan
    for file in ("config.json", "generation_config.json"):
        (tmp_path / file).write_bytes((small / file).read_bytes())
    save_file(tensors, tmp_path / "model.safetensors")
    with miaotui.load(small) as whole, miaotui.load(tmp_path) as half:
        assert half.hidden(ids_of(3, 40)).tobytes() == whole.hidden(ids_of(3, 40)).tobytes()
        with pytest.raises(InputError, match=r"NaN|numbers"):
            half.generate(ids_of(3, 40))


@pytest.mark.parametrize("quantize", ["int8", pytest.param("int4", marks=pytest.mark.ci)])
def test_quantised_models_answer(small: Path, quantize: str) -> None:
    ids = ids_of(4, 30)
    with miaotui.load(small) as plain, miaotui.load(small, quantize=quantize) as model:
        wanted, got = (m.logits(ids, decoder_ids=[2, 5, 9]) for m in (plain, model))
        off = np.abs(got - wanted).max() / np.abs(wanted).max()
        assert 0 < off < (0.1 if quantize == "int8" else 1.0)


def test_a_plan_cuts_the_decoder(small: Path) -> None:
    """Layers, heads and neurons are the decoder's where nothing is said of the encoder, which stays whole."""
    ids = ids_of(5, 30)
    with miaotui.load(small) as whole, miaotui.load(small, prune="keep-layers=0; drop-heads=0:1") as cut:
        assert len(cut.config.decoder.layers) == 1
        assert len(cut.config.encoder.layers) == 2
        assert cut.hidden(ids).tobytes() == whole.hidden(ids).tobytes()
        assert cut.logits(ids, decoder_ids=[2, 7]).shape == (2, 53)


def norm_over(model: Any, kept: list[int]) -> None:
    """Make every norm of a model of `transformers` one of these dimensions, with zeros for the others."""

    def over_kept(norm: Any, inputs: tuple[Any, ...], _: object) -> Any:
        out = torch.zeros_like(inputs[0])
        of = (norm.weight[kept], norm.bias[kept], norm.eps)
        out[..., kept] = torch.nn.functional.layer_norm(inputs[0][..., kept], [len(kept)], *of)
        return out

    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.register_forward_hook(over_kept)


def test_the_width_is_cut_from_both_stacks(small: Path, tmp_path: Path) -> None:
    """A norm takes the mean, and the spread, over the dimensions that are left, and nothing reads the others."""
    kept, ids, decoder_ids = [*range(7), *range(9, 14)], ids_of(5, 30), [2, 7, 19]
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(small, attn_implementation="eager").double().eval()

    norm_over(model, kept)
    with torch.no_grad():
        wanted = model(torch.tensor([ids]), decoder_input_ids=torch.tensor([decoder_ids]))
    hidden, logits = wanted.encoder_last_hidden_state[0].numpy()[:, kept], wanted.logits[0].numpy()
    with miaotui.load(small, prune={"width": kept}) as cut:
        assert cut.config.encoder is not None
        assert (cut.config.encoder.d_model, cut.config.d_model) == (12, 12)
        assert np.abs(cut.hidden(ids) - hidden).max() <= near(model.config, hidden)
        assert np.abs(cut.logits(ids, decoder_ids=decoder_ids) - logits).max() <= near(model.config, logits)
    with pytest.raises(PlanError, match=r"cannot be written as a bart checkpoint: .* the width cannot be cut"):
        prune(small, tmp_path / "narrow", {"width": kept})


@pytest.mark.parametrize("family", ["bart", pytest.param("m2m_100", marks=pytest.mark.ci)])
def test_transformers_loads_what_is_left(family: str, tmp_path: Path) -> None:
    config = transformers.CONFIG_MAPPING[family](
        vocab_size=53, d_model=24, encoder_layers=2, decoder_layers=3, encoder_attention_heads=3,
        decoder_attention_heads=2, encoder_ffn_dim=37, decoder_ffn_dim=31, max_position_embeddings=60,
    )  # fmt: skip
    made(config, tmp_path / "whole", 7)
    (tmp_path / "text.txt").write_text("")
    plan = PrunePlan(layers=(0, 2), ffn={0: tuple(range(20)), 2: tuple(range(3, 23))}, vocab=tuple(range(41)))
    with miaotui.load(tmp_path / "whole", prune=plan) as cut:
        prune(tmp_path / "whole", tmp_path / "left", plan)
        again = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "left", attn_implementation="eager")
        with torch.no_grad():
            wanted = again.double().eval()(torch.tensor([ids_of(1, 9)]) % 41, decoder_input_ids=torch.tensor([[2, 7]]))
        got = cut.logits([i % 41 for i in ids_of(1, 9)], decoder_ids=[2, 7])
        assert np.abs(got - wanted.logits[0].numpy()).max() <= near(config, wanted.logits.numpy())
        with miaotui.load(tmp_path / "left") as left:
            assert left.logits([i % 41 for i in ids_of(1, 9)], decoder_ids=[2, 7]).tobytes() == got.tobytes()


def test_a_quantised_directory_is_what_quantising_while_loading_gives(small: Path, tmp_path: Path) -> None:
    quantize(small, tmp_path / "int8", "int8")
    with miaotui.load(small, quantize="int8") as here, miaotui.load(tmp_path / "int8") as there:
        rows = [m.logits(ids_of(1, 30), decoder_ids=[2, 7, 9]).tobytes() for m in (here, there)]
    assert rows[0] == rows[1]


def test_bad_input_is_refused_by_name(small: Path, tmp_path: Path) -> None:
    with miaotui.load(small) as model:
        for call, said in (
            (lambda: model.logits([5]), "decoder_ids"),
            (model.sequence, "source"),
            (lambda: model.last_logits([[5]]), r"bart is an encoder-decoder; use logits\(ids, decoder_ids=\.\.\.\)"),
            (lambda: model.generate([5], num_beams=2, do_sample=True), "num_beams"),
            (lambda: model.generate([5], num_beams=2, num_return_sequences=3), "num_return_sequences"),
            (lambda: model.generate([5], num_beams=2, early_stopping="soon"), "early_stopping"),
            (lambda: model.generate([5], num_beams=40), "cache_tokens"),
            (lambda: model.stream([5], num_beams=2), "num_beams"),
            (lambda: model.generate([53]), "53"),
            (lambda: model.sequence([5]).generate([[5], [6]]), "answers a list of several"),
            (lambda: model.generate_all("a text"), "several prompts"),
            (lambda: model.generate_all([[5], [6], [99]], num_beams=2), r"99.*prompt 2 of the list"),
            (lambda: model.generate_all([[5], [6]], num_beams=0), "num_beams=0"),
            (lambda: model.generate(list(range(3, 50)) * 7), "context"),
            (lambda: model.generate([5], bad_words_ids=[7]), "bad_words_ids"),
            (lambda: model.generate([5], bad_words_ids=[[99]]), "99"),
            (lambda: model.encode("x"), "encode"),
        ):
            with pytest.raises(InputError, match=said):
                call()
    with open_model(small) as opened, pytest.raises(BackendError, match="bart is an encoder-decoder"):
        prepare(opened, Request(device="cuda"))
    text = (small / "config.json").read_text()
    (tmp_path / "model.safetensors").write_bytes((small / "model.safetensors").read_bytes())
    (tmp_path / "config.json").write_text(text.replace('"is_encoder_decoder": true', '"is_encoder_decoder": false'))
    with pytest.raises(ConfigError, match="is_encoder_decoder"):
        miaotui.load(tmp_path)
    (tmp_path / "config.json").write_text(text.replace('"encoder_ffn_dim": 37', '"encoder_ffn_dim": 38'))
    with pytest.raises(CheckpointError, match=r"encoder\.layers\.0\.fc1"):
        miaotui.load(tmp_path)


def test_what_generation_config_asks_for_and_is_applied_is_not_named(small: Path, tmp_path: Path) -> None:
    shutil.copytree(small, tmp_path, dirs_exist_ok=True)
    said = {"forced_eos_token_id": 2, "bad_words_ids": [[5]], "num_beams": 4, "decoder_start_token_id": 2}
    said |= {"penalty_alpha": 0.6}
    (tmp_path / "generation_config.json").write_text(json.dumps(said))
    with miaotui.load(tmp_path) as model:
        [line] = model.corrections
        assert "penalty_alpha 0.6" in line
        assert "num_beams" not in line
        assert model.generation_defaults["num_beams"] == 4
        assert "forced_eos_token_id" not in line
        assert "bad_words_ids" not in line
        assert model.config.decoding is not None
        assert model.config.decoding.never == ((5,),)


def test_texts_that_have_what_the_other_needs_go_on(tmp_path: Path) -> None:
    """One has the encoder's text in its pool's only page, the other the only page for what is written."""
    path = write_writer(tmp_path / "t5", "t5")
    sources = [[3 + (i + j) % 90 for i in range(PAGE)] for j in range(2)]
    with miaotui.load(path, max_context=PAGE, threads=1) as lone:
        start = lone.config.decoding.start  # type: ignore[union-attr]
        expected = []
        for source in sources:
            with lone.sequence(source) as text:
                expected.append(text.generate([start], max_new_tokens=1).ids)
    caller = Caller()
    with miaotui.load(path, max_context=PAGE, cache_tokens=PAGE, threads=1) as model, caller.going():
        pages, engine = model.session.pages, model.session.engine
        texts = [model.sequence(source) for source in sources]
        assert engine is not None
        assert pages.n_pages == texts[0].table.source.pages.n_pages == 1  # type: ignore[union-attr]
        for text in texts:
            caller.waits_for(text.table)
            text.append([start])
            engine.arrive(text.table)
        with model.session.lock:
            model.session.sources.ensure([texts[0].table.source])  # type: ignore[union-attr,list-item]
            assert pages.reserve(texts[1].table, 1)
        wants = [text.wanted(Draw(None, 1, ())) for text in texts]
        engine.serve(wants)
        assert wants[0].done
        texts[0].taken(wants[0])
        caller.leaves(texts[0].table)
        engine.serve(wants[1:])
        texts[1].taken(wants[1])
        assert [text.ids[1:] for text in texts] == expected
