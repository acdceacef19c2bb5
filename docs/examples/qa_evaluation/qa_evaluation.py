"""A question-answering data set, from texts and answers to a classification report. See README.md."""

import argparse
import json
from pathlib import Path

import miaotui as mt
from miaotui.errors import MiaotuiError
from miaotui.tools.evaluate.metrics_answers import exact, f1
from sklearn.metrics import classification_report
from tqdm import tqdm

DATA = Path(__file__).with_name("colours.jsonl")


def main() -> None:
    """Ask every question, and say how often the answer is right."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="a directory or a hub name (default: the included model)")
    args = parser.parse_args()

    rows = [json.loads(line) for line in DATA.read_text(encoding="utf-8").splitlines()]
    texts = [{"question": row["question"], "context": row["context"]} for row in rows]
    answers = [row["answer"] for row in rows]

    with mt.pipeline("question-answering", args.model) as ask:
        results = tqdm(ask(iter(texts)), total=len(texts), unit="question")  # packed into passes without padding
        predictions = [result["answer"] for result in results]

    known = [said if said in answers else "(other)" for said in predictions]
    print(classification_report(answers, known, zero_division=0))
    for name, metric in (("exact match", exact), ("F1", f1)):
        print(f"{name} {sum(map(metric, answers, predictions)) / len(answers):.3f}")


if __name__ == "__main__":
    try:
        main()
    except MiaotuiError as error:
        raise SystemExit(str(error)) from None
