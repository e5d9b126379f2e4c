"""How many test sentences of the packaged data come from a document of which training has sentences too.

python benchmarks/documents.py

The published files number a sentence as DOCUMENT_SENTENCE where texts are parts of documents.
"""

from __future__ import annotations

from loratory.data import fetch, make_dataset
from loratory.data.hutto import DOMAINS, SHARED
from loratory.spec import DataSpec


def main() -> None:
    """Print a line for each such domain."""
    for domain, what in SHARED.items():
        lines = (fetch("hutto") / DOMAINS[domain]).read_text("utf8", errors="replace").split("\n")
        documents = [line.partition("\t")[0].rpartition("_")[0] for line in lines]
        dataset = make_dataset(DataSpec(dataset=f"hutto:{domain}"))
        trained = {documents[row] for row in dataset.train.rows}
        test = [documents[row] for row in dataset.test.rows]
        shared = sum(document in trained for document in test)
        print(f"{domain} ({what}): {shared:,} of {len(test):,} test sentences share a document with training")


if __name__ == "__main__":
    main()
