"""Metrics of made texts: BLEU and chrF by sacrebleu, ROUGE by rouge-score-rs, and how many are exactly right."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING, Any

from ...errors import BackendError, InputError
from ...loader.files import printable
from .measured import Measured, lacking

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ROUGES", "made_bleu", "text_scores"]

ROUGES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
#: Tokenizers of sacrebleu that cut into characters, for which ROUGE counts characters too.
BY_CHARACTER = ("zh", "char")


def text_scores(said: Sequence[str], references: Sequence[Sequence[str]], tokenize: str | None = None) -> Measured:
    """BLEU, chrF, ROUGE (F1 of the best reference) and exact match, all from 0 to 100.

    `tokenize`: sacrebleu's, by default 13a; zh for Chinese, char. Errors: `InputError` where sacrebleu has none such,
    `BackendError` without the libraries of the extra `eval`.
    """
    bleu = made_bleu(tokenize)
    from sacrebleu.metrics.chrf import CHRF  # noqa: PLC0415 - an extra, which is there

    most = max(map(len, references))
    streams = [[r[i] if i < len(r) else None for r in references] for i in range(most)]
    chrf = CHRF()
    metrics = {
        "bleu": float(bleu.corpus_score(list(said), streams).score),
        "chrf": float(chrf.corpus_score(list(said), streams).score),
    }
    metrics |= _rouge(said, references, tokenize)
    right = [text.strip() in {r.strip() for r in rs} for text, rs in zip(said, references, strict=True)]
    metrics["exact_match"] = 100 * fmean(right)
    notes = [f"sacrebleu: {bleu.get_signature()}; {chrf.get_signature()}"]
    return Measured(metrics, notes=notes)


def made_bleu(tokenize: str | None = None) -> Any:  # noqa: ANN401 - a class of an extra
    """sacrebleu's BLEU. Errors: `InputError`: a tokenizer that it lacks; `BackendError`: something is not installed."""
    try:
        from sacrebleu.metrics.bleu import BLEU  # noqa: PLC0415 - an extra
    except ImportError as e:
        raise lacking(library="sacrebleu", what="BLEU and chrF") from e
    known = tuple(BLEU.TOKENIZERS)
    if tokenize is not None and tokenize not in known:
        msg = f"--tokenize {tokenize}: expected one of sacrebleu's, {', '.join(map(str, known))}"
        raise InputError(msg)
    try:
        return BLEU(tokenize=tokenize)
    except (ImportError, RuntimeError, OSError, AssertionError) as e:  # some need a library, or download a file
        why = printable(" ".join(str(e).split()))
        msg = f"--tokenize {tokenize}: sacrebleu cannot make it ({why}); install what it needs, or name another"
        raise BackendError(msg) from e


def _rouge(said: Sequence[str], references: Sequence[Sequence[str]], tokenize: str | None) -> dict[str, float]:
    try:
        from rouge_score_rs import rouge_scorer  # noqa: PLC0415 - an extra
        from rouge_score_rs.tokenizers import CharacterTokenizer  # noqa: PLC0415 - an extra
    except ImportError as e:
        raise lacking(library="rouge-score-rs", what="ROUGE") from e
    cut: Any = CharacterTokenizer() if tokenize in BY_CHARACTER else None
    scorer = rouge_scorer.RougeScorer(list(ROUGES), use_stemmer=cut is None, tokenizer=cut)
    best = [scorer.score_multi(list(rs), text) for text, rs in zip(said, references, strict=True)]
    return {name: 100 * fmean(score[name].fmeasure for score in best) for name in ROUGES}
