"""Settings that cannot be meant."""

from __future__ import annotations

from bad.case import Case
from bad.data import text

LEARNING = ("train {}", "estimate {}")


def setting(what: str, words: str, *says: str, code: int = 2, also: tuple[str, ...] = ()) -> Case:
    """A setting that train and estimate refuse alike."""
    return Case(what, (*(one.format(words) for one in LEARNING), *also), code, says)


def study(key: str, value: str) -> str:
    """A study with one setting in place of its file's."""
    return f"study run {{file}} --output {{place}}/new --set {key}={value}"


SETTINGS = (
    setting("a method that there is not", "--method lroa", "did you mean 'lora'"),
    setting("a rank of 0", "--method lora --rank 0", "--rank '0'"),
    setting("a negative rank", "--method lora --rank -1", "--rank '-1'"),
    setting("a rank that is no whole number", "--method lora --rank 0.5", "--rank '0.5'"),
    setting("a rank larger than the layers", "--method lora --rank 33", "--rank 33", "32"),
    setting("layers that there are not", "--method lora --targets qurey", "did you mean 'query'"),
    setting("a setting that the method has not", "--method standard --rank 8", "--rank", "lora"),
    setting("a flag that there is not", "--lerning-rate 1", "did you mean '--learning-rate'"),
    setting("a flag with a letter left out", "--epoch 1", "did you mean '--epochs'"),
    setting("--set without a value", "--set training.lr", "a.b=c"),
    setting("--set of a key that there is not", "--set training.lrr=1", "did you mean 'lr'"),
    setting("no epoch", "--epochs 0", "--epochs '0'"),
    setting("a learning rate that is NaN", "--lr nan", "--lr 'nan'"),
    setting("a negative learning rate", "--lr -1", "--lr '-1'"),
    setting("a batch of nothing", "--batch-size 0", "--batch-size '0'"),
    setting("a problem that there is not", "--problem clustering", "--problem"),
    setting("longer texts than the model takes", "--max-length 65", "at most 64 tokens"),
    Case("a device that is not there", ("train --device cuda", "predict --model-path {run} --device cuda w1"), 6,
         ("no CUDA device",), make=lambda b: b.patch.setattr("torch.cuda.is_available", lambda: False)),
    Case("a tracker that there is not", ("train --tracker tensorbord",), 2, ("did you mean 'tensorboard'",)),
    Case("a split that there is not", ("evaluate --model-path {run} --split tset",), 2, ("train, validation or test",)),
    Case("a format that there is not", ("export --model-path {run} --format onyx --output {place}/new",), 2,
         ("did you mean 'onnx'?",)),
    Case("predictions in a format that there is not", ("predict --model-path {run} --output {place}/new.xls w1",), 2,
         (".csv, .jsonl or .parquet",)),
    Case("an adapter of a run that has none",
         ("export --model-path {run} --format adapter --output {place}/new",), 2, ("use merged",)),
    Case("--public without --push", ("export --model-path {run} --format merged --output {place}/new --public",), 2,
         ("give --push REPO_ID",)),
    Case("a file to upload", ("export --model-path {run} --output {place}/new --push me/mine",), 2,
         ("pth is a file", "--format merged")),
    Case("no id of a repository", ("export --model-path {run} --format merged --output {place}/new --push a/b/c",), 2,
         ("--push 'a/b/c'",), theirs=r"(?<='a/b/c': ).*"),
    Case("tensors called otherwise than .pth", ("export --model-path {run} --output {place}/model.json",), 2,
         ("must end in .pth",)),
    Case("one model twice", ("predict --model-path {run} --model-path {place}/./run w1",), 2, ("given twice",)),
    Case("a price that is none", ("compare {run} --price-per-hour -1", "estimate --price-per-hour -1",
                                  "report {study} --price-per-hour -1"), 2, ("--price-per-hour",)),
    Case("an amount of memory that is none", ("estimate --memory much",), 2, ("write it as 24GiB",)),
    Case("a command that there is not", ("tarin",), 2, ("'train'",)),
    Case("a command of data that there is not", ("data shwo",), 2, ("'show'",)),
    Case("a command of study that there is not", ("study rnu",), 2, ("'run'",)),
    Case("no --model-path", ("evaluate", "export --output {place}/new"), 2, ("--model-path",)),
    Case("a flag that compare has not", ("compare --basline {run}",), 2, ("did you mean '--baselines'",)),
    Case("a study without seeds", (study("seeds", "[]"),), 2, ("seeds",)),
    Case("a study of a method that there is not", (study("methods", "[lroa]"),), 2, ("did you mean 'lora'",)),
    Case("a study of a metric that there is not", (study("select", "acuracy"),), 2, ("select",)),
    Case("a study of a setting that there is not", (study("train.epoch", "1"),), 2, ("epoch",)),
    Case("a study's setting that is no value", (study("train.lr", ".nan"),), 2, ("lr",)),
    Case("a study that drops all but one of one rate",
         (study("methods", '[{{"name":"head","tune":{{"lr":[1e-3,2e-3],"halving":1}}}}]'),), 2, ("halving 1",)),
    Case("a study that halves what one epoch tells",
         (study("methods", '[{{"name":"head","tune":{{"lr":[1e-3,2e-3],"halving":2}}}}]'),), 2, ("halving 2",)),
    Case("a study's file that is no YAML", ("study run {given} --output {place}/new",), 2, ("{given}",), "s.yaml",
         text("name: [", "data"), r"(?<=: ).*"),
    Case("a study's file that is not there", ("study run {given} --output {place}/new",), 5, ("{given}",), "s.yaml"),
    Case("an executor that there is not", ("study run {file} --output {place}/new --executor slurm",), 2,
         ("slurm", "local")),
)  # fmt: skip
