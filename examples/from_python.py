"""The Python interface: two runs and their table, labels of new texts, and cross-validation by scikit-learn.
Needs reviews.csv, with the columns review and stars; leaves two runs in models/."""

import csv

from sklearn.model_selection import cross_val_score

import loratory

settings = {"dataset": "reviews.csv", "text_column": "review", "label_column": "stars", "epochs": 1}
runs = [loratory.train(method=name, output=f"models/python-{name}", **settings) for name in ("standard", "lora")]
print(loratory.compare(runs).to_markdown())

said = loratory.predict(runs[1], ["A quiet, funny film.", "Two hours I will not get back."])
for label, probabilities in zip(said.chosen, said.probabilities, strict=True):
    print(label, dict(zip(said.labels, probabilities.round(3).tolist(), strict=True)))

with open("reviews.csv", encoding="utf8", newline="") as file:
    rows = list(csv.DictReader(file))
texts, stars = [row["review"] for row in rows], [int(row["stars"]) for row in rows]
scores = cross_val_score(loratory.TextClassifier("lora", epochs=1), texts, stars, cv=3, scoring="f1_macro")
print(f"macro-F1 in each of 3 folds: {scores.round(3).tolist()}")
