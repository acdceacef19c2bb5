"""Labels for the rows of a table, by Daft: two processes with a model each (`pip install 'miaotui[daft]'`)."""

from __future__ import annotations

import daft
from daft import DataType
from miaotui.batch import Model

LABEL = DataType.struct({"label": DataType.string(), "score": DataType.float64()})


@daft.cls(max_concurrency=2, use_process=True)
class Labels(Model):
    """`Model` as it is; Daft needs to know the type of its results."""

    of = daft.method.batch(return_dtype=LABEL, batch_size=256)(Model.__call__)


def main() -> None:
    """Label some texts."""
    table = daft.from_pydict({"id": [1, 2, 3], "text": ["We liked it.", "We did not.", "It is a film."]})
    labels = Labels("sentiment-analysis", workers=2)
    table = table.with_column("label", labels.of(table["text"]))
    for row in table.iter_rows():
        print(row["id"], row["label"]["label"])


if __name__ == "__main__":
    main()
