"""Metrics of classes: scikit-learn's report and confusion matrix; and of entities, as seqeval counts them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from .measured import Confusion, Measured, lacking, reliability

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .measured import Outcome

    Entities = frozenset[tuple[str, int, int]]

__all__ = ["classes", "entities"]


def classes(gold: Sequence[str], outcomes: Sequence[Outcome], order: Sequence[str] = ()) -> Measured:
    """Accuracy, macro and weighted means, a row for each class that occurs, and the confusion matrix.

    `order`: the classes as the model has them; others follow. A class that is never predicted has precision 0.
    Errors: `BackendError` without scikit-learn, of the extra `eval`.
    """
    try:
        from sklearn.metrics import classification_report  # noqa: PLC0415 - an extra
    except ImportError as e:
        raise lacking(library="scikit-learn", what="a classification report") from e
    predicted = [outcome.answer for outcome in outcomes]
    there = {*gold, *predicted}
    labels = [label for label in order if label in there]
    labels += sorted(there - {*labels})
    number = {label: i for i, label in enumerate(labels)}  # a class may be called "accuracy", as a mean is
    numbers = [[number[label] for label in side] for side in (gold, predicted)]
    report = classification_report(*numbers, labels=list(number.values()), output_dict=True, zero_division=0)
    means = report["macro avg"], report["weighted avg"]
    metrics = {"accuracy": float(report["accuracy"])}
    metrics |= {
        f"{how}_{name}": float(mean[key])
        for how, mean in zip(("macro", "weighted"), means, strict=True)
        for name, key in (("f1", "f1-score"), ("precision", "precision"), ("recall", "recall"))
    }
    rows = {label: {name: float(report[str(i)][name]) for name in _COLUMNS} for label, i in number.items()}
    pairs = Counter(zip(gold, predicted, strict=True))
    counts = [[pairs[a, b] for b in labels] for a in labels]
    sure = [outcome.score for outcome in outcomes if outcome.score is not None]
    right = [g == p for g, p in zip(gold, predicted, strict=True)]
    bins, error = reliability(sure, right) if len(sure) == len(right) else ([], 0.0)
    metrics |= {"calibration_error": error} if bins else {}
    return Measured(metrics, rows, Confusion(labels, counts), bins)


_COLUMNS = ("precision", "recall", "f1-score", "support")


def entities(gold: Iterable[Entities], predicted: Iterable[Entities]) -> Measured:
    """Precision, recall and F1 of whole entities: type, first and last word must be right.

    The headline is over all entities (seqeval's micro average); macro_f1 is the mean over types.
    """
    right: Counter[str] = Counter()
    wanted: Counter[str] = Counter()
    given: Counter[str] = Counter()
    for true, said in zip(gold, predicted, strict=True):
        wanted.update(kind for kind, _, _ in true)
        given.update(kind for kind, _, _ in said)
        right.update(kind for kind, _, _ in true & said)
    rows = {kind: _scores(right[kind], given[kind], wanted[kind]) for kind in sorted(wanted | given)}
    whole = _scores(right.total(), given.total(), wanted.total())
    macro = sum(row["f1-score"] for row in rows.values()) / max(len(rows), 1)
    metrics = {"f1": whole["f1-score"], "precision": whole["precision"], "recall": whole["recall"], "macro_f1": macro}
    return Measured(metrics, rows)


def _scores(right: int, given: int, wanted: int) -> dict[str, float]:
    """0 where there is nothing to divide by, as scikit-learn with `zero_division=0`."""
    precision, recall = right / given if given else 0.0, right / wanted if wanted else 0.0
    both = precision + recall
    f1 = 2 * precision * recall / both if both else 0.0
    return dict(zip(_COLUMNS, (precision, recall, f1, float(wanted)), strict=True))
