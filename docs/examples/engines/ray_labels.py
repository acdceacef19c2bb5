"""Labels for the rows of a data set, by Ray Data: two actors with a model each (`pip install miaotui 'ray[data]'`)."""

from __future__ import annotations

import ray
from miaotui.batch import Model


def main() -> None:
    """Label some texts."""
    rows = [{"id": 1, "text": "We liked it."}, {"id": 2, "text": "We did not."}, {"id": 3, "text": "It is a film."}]
    labelled = ray.data.from_items(rows).map_batches(
        Model,
        fn_constructor_args=("sentiment-analysis",),
        fn_constructor_kwargs={"workers": 2, "output": "label"},
        compute=ray.data.ActorPoolStrategy(size=2),
        batch_size=256,
    )
    for row in sorted(labelled.take_all(), key=lambda row: row["id"]):
        print(row["id"], row["label"]["label"])


if __name__ == "__main__":
    main()
