"""A Ray cluster of two nodes, one of which is killed at work: the output is that of one process, byte by byte.

`pip install 'miaotui[daft]' 'daft[ray]' 'ray[data]'`, and `./dev soak engines --minutes 0`.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import soak
from miaotui.batch import Model
from task_models import write_model

if TYPE_CHECKING:
    from collections.abc import Iterator

LABELS = ("negative", "neutral", "positive")
WORDS = ["a", "good", "bad", "film", "company", "Ana", "flew", "to", "Berlin", "日本語", "😀"]
#: Of a node: cores that Ray counts, and bytes of its object store, near the least that Ray takes.
NODE = {"num_cpus": 2, "object_store_memory": 96 << 20}
SHARES = (0.2, 0.6)
#: How Ray calls a process while it runs our code.
AT_WORK = (b"ray::UDFActor.", b"ray::MapWorker(MapBatches(Model)")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("cluster") / "classes", "bert", "classes", labels=LABELS)


@pytest.fixture
def cluster() -> Iterator[Any]:
    """One node that runs nothing, and two that do."""
    ray = pytest.importorskip("ray")
    made = pytest.importorskip("ray.cluster_utils").Cluster(
        initialize_head=True, head_node_args={**NODE, "num_cpus": 0}
    )
    nodes = [made.add_node(**NODE) for _ in range(2)]
    yield made, nodes
    ray.shutdown()
    with suppress(Exception):  # one of its nodes is gone
        made.shutdown()


def texts(n: int, seed: int) -> list[str]:
    drawn = random.Random(seed)  # noqa: S311 - words
    return [" ".join(drawn.choices(WORDS, k=drawn.randint(1, 30))) for _ in range(n)]


def at_work(node: Any) -> list[bytes]:
    """Names of a node's processes that do parts for Daft, or batches for Ray Data, now."""
    raylet = node.all_processes["raylet"][0].process.pid
    told = Path(f"/proc/{raylet}/task/{raylet}/children").read_text(encoding="utf-8").split()
    names = list[bytes]()
    for pid in told:
        with suppress(OSError):
            names.append(Path(f"/proc/{pid}/cmdline").read_bytes())
    return [name for name in names if name.startswith(AT_WORK)]


def kill_one(cluster: Any, nodes: list[Any]) -> None:
    """A node that is at work."""
    while not (node := next((each for each in nodes if at_work(each)), None)):
        time.sleep(0.001)
    nodes.remove(node)
    for name in at_work(node):
        soak.count(f"killed with its node: {name.strip(bytes(1)).decode()}")
    cluster.remove_node(node, allow_graceful=False)
    soak.count("nodes killed")


def size_of(folder: Path) -> int:
    """Bytes of results, those of parts too."""
    total = 0
    for path in folder.rglob("*.jsonl"):
        with suppress(OSError):
            total += path.stat().st_size
    return total


def _begun(command: list[str], said: Path) -> subprocess.Popen[bytes]:
    with said.open("w", encoding="utf-8") as err:
        return subprocess.Popen(command, stderr=err)


@pytest.mark.soak("engines")
def test_a_run_on_a_cluster_that_loses_a_node(
    tmp_path: Path, classifier: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray does the node's parts again, or the query ends and the same command goes on; a new node comes meanwhile."""
    pytest.importorskip("daft")
    made, nodes = cluster
    (tmp_path / "in").mkdir()
    for i in range(3):
        rows = [json.dumps({"id": n, "text": text}) for n, text in enumerate(texts(3000, i))]
        rows[i * 500] = "{"
        (tmp_path / "in" / f"{i}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    words = [sys.executable, "-m", "miaotui", "run", "text-classification", "--model", str(classifier)]
    words += ["--input", str(tmp_path / "in")]
    command = {
        name: [*words, "--output", str(tmp_path / name), "--errors", str(tmp_path / f"{name}s")] for name in "ab"
    }
    done = subprocess.run(command["a"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    whole = size_of(tmp_path / "a")
    monkeypatch.setenv("DAFT_RUNNER", "ray")
    monkeypatch.setenv("RAY_ADDRESS", made.address)
    command["b"] += ["--engine", "daft", "--workers", "2"]
    going, kills = _begun(command["b"], tmp_path / "said"), 0
    while True:
        at = SHARES[kills] * whole if kills < len(SHARES) else float("inf")
        while going.poll() is None and not (size_of(tmp_path / "b") >= at and any(map(at_work, nodes))):
            time.sleep(0.001)
        if going.poll() is None:
            kill_one(made, nodes)
            kills += 1
            nodes.append(made.add_node(**NODE))
            continue
        said = (tmp_path / "said").read_text(encoding="utf-8")
        if going.returncode == 0:
            break
        assert "the same command goes on from there" in said, said
        soak.count("queries that ended with a node")
        going = _begun(command["b"], tmp_path / "said")
    assert kills > 0
    for folder in ("", "s"):
        for i in range(3):
            one, two = (tmp_path / f"{name}{folder}" / f"{i}.jsonl" for name in "ab")
            assert one.read_bytes() == two.read_bytes()


@pytest.mark.soak("engines")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray's, of itself
def test_ray_data_on_a_cluster_that_loses_a_node(classifier: Path, cluster: Any) -> None:
    """Actors with a `Model` each, on two nodes; the rows that were lost are done again."""
    ray = pytest.importorskip("ray")
    pytest.importorskip("ray.data")
    made, nodes = cluster
    ray.init(address=made.address, log_to_driver=False)
    rows = texts(4000, 7)
    with Model("text-classification", classifier) as model:
        wanted = dict(enumerate(model(rows)))
    labelled = ray.data.from_items(
        [{"id": n, "text": text} for n, text in enumerate(rows)], override_num_blocks=80
    ).map_batches(
        Model,
        fn_constructor_args=("text-classification", str(classifier)),
        fn_constructor_kwargs={"workers": 2, "output": "label"},
        compute=ray.data.ActorPoolStrategy(size=2),
        batch_size=50,
    )
    told: dict[int, Any] = {}
    for row in labelled.iter_rows():
        told[int(row["id"])] = row["label"]
        if len(told) == 500:
            kill_one(made, nodes)
    assert told == wanted
