"""The included models where no model is named: the same one in `pipeline`, `run` and `evaluate`, and all say which."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

import miaotui as mt
import pytest
from helpers import complaint
from miaotui.errors import InputError
from miaotui.tools import cli, demo
from miaotui.tools.demo.recipes import written
from miaotui.tools.evaluate import formats
from miaotui.tools.pipelines.registry import TASKS

if TYPE_CHECKING:
    from pathlib import Path

DATES = written.held_out(12)
TEXTS = {
    "text-classification": "Norvale costs rise",
    "token-classification": "Please send it to Nora in Oslo.",
    "text2text-generation": DATES[0][0],
    "text-generation": "Once upon a time",
}


def test_every_task_has_one_or_is_refused_by_name() -> None:
    known = {task.name for task in TASKS} | set(formats.TASKS) | {"chat"}  # of `miaotui chat`
    assert set(demo.OF_TASKS) < known
    assert set(demo.OF_TASKS.values()) == set(demo.NAMES)
    for task in sorted(known - set(demo.OF_TASKS)):
        with pytest.raises(InputError, match=f"^model: not given, and no included model does {task} "):
            demo.stand_in(task)


@pytest.mark.parametrize("task", TEXTS)
def test_pipeline_run_and_evaluate_take_the_same(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    name, few = demo.OF_TASKS[task], {"max_new_tokens": 4} if "generation" in task else {}
    with mt.pipeline(task, **few) as pipe:
        assert pipe.model.config.family == json.loads((demo.path(name) / "config.json").read_text())["model_type"]
        does = f", which {demo.DOES[name]}" if name in demo.DOES else ""
        said = f"miaotui: no model is given; {task} uses the included model {name!r}{does}\n"
        assert complaint(capfd.readouterr().err).endswith(said)
        more = {"seed": 0} if "generation" in task else {}
        wanted = json.loads(json.dumps([next(iter(pipe(iter([TEXTS[task]]), **more)))]))
    source, out = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_text(TEXTS[task] + "\n")
    words = [word for key, value in few.items() for word in ("--set", f"{key}={value}")]
    assert cli.main(["run", task, "--input", str(source), "--output", str(out), *words]) == 0
    assert complaint(capfd.readouterr().err).startswith(f"note: no --model is given; {task} uses the included model")
    assert [json.loads(line)["output"] for line in out.read_text().splitlines()] == wanted
    monkeypatch.setenv("MIAOTUI_QUIET", "1")
    out.with_name("out.jsonl.journal").unlink()
    assert cli.main(["run", task, "--input", str(source), "--output", str(out), *words, "--restart"]) == 0
    assert complaint(capfd.readouterr().err).startswith(f"{out}: 1 line; ")
    mt.pipeline(task).close()
    assert capfd.readouterr().err == ""


def test_a_task_without_one_is_no_story(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in.txt").write_text("Ana flew to [MASK].\n")
    words = ["--input", str(tmp_path / "in.txt"), "--output", str(tmp_path / "out.jsonl")]
    assert cli.main(["run", "text-ranking", *words]) == 2
    assert "--model: not given, and no included model does text-ranking" in capfd.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()


def metrics(task: str, data: Path, *words: str) -> dict[str, Any]:
    out = data.with_suffix(".report.json")
    assert cli.main(["evaluate", task, "--data", str(data), "--json", str(out), *words]) == 0
    report: dict[str, Any] = json.loads(out.read_text())
    return report


@pytest.mark.ci  # 8 s
def test_made_texts_are_evaluated_as_the_pipeline_makes_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Dates to ISO form by the included model: BLEU, chrF, ROUGE and exact match of what `mt.pipeline` gives."""
    sacrebleu, rouge = pytest.importorskip("sacrebleu"), pytest.importorskip("rouge_score_rs.rouge_scorer")
    data, each = tmp_path / "dates.jsonl", tmp_path / "each.jsonl"
    data.write_text("".join(json.dumps({"source": s, "target": t}) + "\n" for s, t in DATES))
    report = metrics("text2text-generation", data, "--predictions", str(each))
    assert report["model"] == {"name": "dates", "family": "t5", "included": True}
    assert "\nmodel: dates (t5, included)\n" in capsys.readouterr().out
    with mt.pipeline("text2text-generation") as pipe:
        said = [row["generated_text"] for row in pipe([source for source, _ in DATES], truncation=True)]
    assert [json.loads(line)["answer"] for line in each.read_text().splitlines()] == said
    wanted = [target for _, target in DATES]
    got = report["metrics"]
    assert got["exact_match"] == pytest.approx(100 * sum(map(str.__eq__, said, wanted)) / len(DATES))
    assert 30 < got["exact_match"] < 100  # its card says 69
    assert got["bleu"] == pytest.approx(sacrebleu.corpus_bleu(said, [wanted]).score)
    assert got["chrf"] == pytest.approx(sacrebleu.corpus_chrf(said, [wanted]).score)
    scorer = rouge.RougeScorer(["rougeL"], use_stemmer=True)
    by_hand = [scorer.score(t, s)["rougeL"].fmeasure for t, s in zip(wanted, said, strict=True)]
    assert got["rougeL"] == pytest.approx(100 * sum(by_hand) / len(by_hand))
    greedy = metrics("text2text-generation", data, "--max-new-tokens", "1")["metrics"]
    assert greedy["exact_match"] == 0


def test_entities_by_another_name_of_the_task() -> None:
    from miaotui.tools.demo.recipes import messages

    text, spans = next(m for m in itertools.islice(messages.training(1), 200) if len(m[1]) > 1)
    with mt.pipeline("ner", aggregation_strategy="first") as pipe:
        named = {(e["entity_group"], text[e["start"] : e["end"]]) for e in pipe(text)}
    assert named & {(span.slot, text[span.start : span.end]) for span in spans}
