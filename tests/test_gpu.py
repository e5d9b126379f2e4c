"""What must hold on a CUDA device. Skipped where there is none; run by hand with `pytest -m gpu`."""

from __future__ import annotations

import gc
import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from loratory.engine import compiling, sums
from loratory.engine.hardware import Hardware
from loratory.errors import OutOfMemoryError
from loratory.estimating import fits
from loratory.methods import spec_from_flags
from loratory.models.families import FAMILIES
from loratory.models.flat import Classifier
from loratory.models.flat_attention import ATTENTION
from loratory.run import Run, train
from loratory.setup import prepare
from loratory.spec import HardwareSpec, RunSpec

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

ROOT = Path(__file__).parents[1]

FLAT = sorted(name for name, family in FAMILIES.items() if family.flat)


def _logits(model: Path, dataset: Path, **flags: Any) -> torch.Tensor:
    from loratory.engine.predict import predict

    spec = spec_from_flags(
        {"method": "standard", "model": str(model), "dataset": str(dataset), "max_length": 48, **flags}
    )
    setup = prepare(spec, Hardware.of(spec.hardware))
    assert setup.classifier.flat == (setup.base.config._attn_implementation == ATTENTION)
    return predict(setup.classifier, setup.tokens["test"], hardware=setup.hardware)


@pytest.mark.parametrize("family", FLAT)
def test_flat_batches_on_cuda_agree_with_the_cpu(family: str, model_directory: Any, tiny_csv: Path) -> None:
    directory = model_directory(family)
    reference = _logits(directory, tiny_csv, device="cpu", precision="fp32")
    exact = _logits(directory, tiny_csv, device="cuda", precision="fp32")
    rounded = _logits(directory, tiny_csv, device="cuda", precision="bf16")
    assert torch.linalg.vector_norm(exact - reference) < 1e-3 * torch.linalg.vector_norm(reference)
    assert torch.linalg.vector_norm(rounded - reference) < 3e-2 * torch.linalg.vector_norm(reference)


def _train(tmp_path: Path, model: Path, dataset: Path, method: str, **flags: Any) -> Run:
    values = {"method": method, "model": str(model), "dataset": str(dataset), "device": "cuda", "epochs": 4, "lr": 3e-3}
    return train(
        spec_from_flags({**values, "max_length": 48, "batch_size": 8, "dropout": 0.0, **flags}),
        output=tmp_path / method,
    )


@pytest.mark.parametrize("method", ["standard", "lora", "hybrid", "head"])
def test_every_method_trains_on_cuda_and_comes_back_on_the_cpu(
    method: str, tmp_path: Path, tiny_bert: Path, tiny_csv: Path
) -> None:
    from loratory import trained

    run = _train(tmp_path, tiny_bert, tiny_csv, method)
    record = run.record
    history = [json.loads(line) for line in (run.directory / "history.jsonl").read_text("utf8").splitlines()]
    assert history[-1]["loss"] < history[0]["loss"]
    assert record.environment["device_type"] == "cuda"
    assert record.environment["precision"] == "bf16"
    memory = record.cost["peak_memory_bytes"]
    assert 0 < memory["allocated"] <= memory["reserved"]
    opened = trained.open_trained(run.directory, hardware=HardwareSpec(device="cpu", precision="fp32"))
    accuracy = trained.evaluate(run.directory, opened).quality.accuracy
    assert accuracy == pytest.approx(record.quality["test"]["accuracy"], abs=0.05)


def test_fp32_losses_on_cuda_are_those_of_the_cpu(tmp_path: Path, tiny_bert: Path, tiny_csv: Path) -> None:
    losses = []
    for device in ("cpu", "cuda"):
        run = _train(tmp_path / device, tiny_bert, tiny_csv, "lora", device=device, precision="fp32", epochs=1)
        losses.append(json.loads((run.directory / "history.jsonl").read_text("utf8").splitlines()[0])["loss"])
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("method", ["standard", "lora"])
def test_captured_steps_give_the_losses_of_steps_run_one_by_one(
    method: str, accumulate: int, precision: str, tmp_path: Path, tiny_bert: Path, tiny_csv: Path
) -> None:
    losses = {}
    for graphs in ("auto", "off"):
        run = _train(
            tmp_path / graphs, tiny_bert, tiny_csv, method, graphs=graphs, precision=precision,
            accumulate=accumulate, dropout=0.1, seed=3,
        )  # fmt: skip
        assert (run.record.environment["engine"]["graphs"] > 0) == (graphs == "auto")
        rows = (run.directory / "history.jsonl").read_text("utf8").splitlines()
        losses[graphs] = [json.loads(row)["loss"] for row in rows]
    assert losses["auto"] == losses["off"]  # dropout draws the same numbers, too
    assert losses["auto"][-1] < losses["auto"][0]


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs bitsandbytes")
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT calls it by its old name
@pytest.mark.parametrize("kind", ["8bit", "4bit"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3"])
def test_lora_beside_a_quantised_base_trains_comes_back_and_stock_peft_gives_its_logits(
    family: str, kind: str, tmp_path: Path, model_directory: Any, tiny_csv: Path
) -> None:
    from peft import AutoPeftModelForSequenceClassification
    from transformers import AutoTokenizer, BitsAndBytesConfig

    from loratory import trained
    from loratory.models.quantized import SETTINGS

    sizes = {"n_embd": 64} if family == "gpt2" else {"hidden_size": 64, "intermediate_size": 128}
    model, losses = model_directory(family, **sizes), {}
    for graphs in ("off", "auto"):
        run = _train(tmp_path / graphs, model, tiny_csv, "lora", quantize=kind, graphs=graphs, precision="fp32")
        assert (run.record.environment["engine"]["graphs"] > 0) == (graphs == "auto" and kind == "4bit")
        rows = (run.directory / "history.jsonl").read_text("utf8").splitlines()
        losses[graphs] = [json.loads(row)["loss"] for row in rows]
    assert losses["auto"] == losses["off"]
    assert losses["auto"][-1] < losses["auto"][0]
    opened = trained.open_trained(run.directory, hardware=HardwareSpec(device="cuda", precision="fp32"))
    assert trained.evaluate(run.directory, opened).quality.accuracy == run.record.quality["test"]["accuracy"]
    own = {"bnb_4bit_compute_dtype": torch.float32} if kind == "4bit" else {}
    config = BitsAndBytesConfig(**SETTINGS[kind], **own, llm_int8_skip_modules=["score"])
    stock = AutoPeftModelForSequenceClassification.from_pretrained(
        run.directory, num_labels=2, quantization_config=config, dtype=torch.float32, device_map={"": 0}
    ).eval()
    tokenizer, texts = AutoTokenizer.from_pretrained(run.directory), ["w0 w1 w2", "w3", "w4 w5 w40 w41"]
    with torch.no_grad():
        found = [stock(**tokenizer(text, return_tensors="pt").to("cuda")).logits[0].cpu() for text in texts]
    expected = opened.logits(texts)
    apart = (torch.stack(found) - expected).abs().max() / expected.abs().max()
    assert apart < (0.1 if kind == "8bit" else 1e-3)


@pytest.mark.parametrize("family", FLAT)
def test_every_flat_family_can_be_captured(family: str, model_directory: Any, tmp_path: Path, tiny_csv: Path) -> None:
    run = _train(tmp_path, model_directory(family), tiny_csv, "lora")
    assert run.record.environment["engine"]["graphs"] > 0, run.record.environment["engine"]


def test_a_model_that_cannot_be_captured_trains_eagerly_and_says_so(
    tmp_path: Path, tiny_bert: Path, tiny_csv: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    eager = _train(tmp_path / "off", tiny_bert, tiny_csv, "lora", graphs="off", dropout=0.1)
    forward = Classifier.__call__

    def waits(*args: Any, **kwargs: Any) -> torch.Tensor:
        logits = forward(*args, **kwargs)
        logits.sum().item()  # what no capture allows, after dropout has been drawn in it
        return logits

    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "__call__", waits)
        run = _train(tmp_path / "waits", tiny_bert, tiny_csv, "lora", dropout=0.1)
    said = run.record.environment["engine"]
    assert said["graphs"] == 0
    assert "captur" in said["why_eager"]
    assert f"no CUDA graphs: {said['why_eager']}" in caplog.text
    history = [(each.directory / "history.jsonl").read_text("utf8").splitlines() for each in (eager, run)]
    losses = [[json.loads(row)["loss"] for row in rows] for rows in history]
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)  # the same dropout
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    reserved = torch.cuda.memory_reserved()
    used = torch.empty(64 << 20, dtype=torch.uint8, device="cuda")
    used.record_stream(torch.cuda.Stream())
    del used
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() <= reserved  # for torch, no capture is under way any more
    after = _train(tmp_path / "after", tiny_bert, tiny_csv, "lora", dropout=0.1)
    assert after.record.environment["engine"]["graphs"] > 0


def test_a_family_that_runs_padded_is_not_captured_and_says_so(
    model_directory: Any, tmp_path: Path, tiny_csv: Path
) -> None:
    run = _train(tmp_path, model_directory("mpnet"), tiny_csv, "lora")
    said = run.record.environment["engine"]
    assert said["graphs"] == 0
    assert said["why_eager"] == "batches run padded"
    assert said["compiled"] == {"layers": 0, "why": "steps are not captured"}


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # torch's own, tracing
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # torch's own, importing its compiler
@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores:UserWarning")  # fp32 is what is compared here
def test_layers_are_compiled_where_steps_pay_for_it_and_the_record_says_so(
    model_directory: Any, tmp_path: Path, tiny_csv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_directory("modernbert")
    plain = _train(tmp_path / "few", model, tiny_csv, "lora", precision="fp32")
    said = plain.record.environment["engine"]["compiled"]
    assert said["layers"] == 0
    assert said["why"].endswith("do not pay for it")
    monkeypatch.setattr(compiling, "SECONDS", 0.0)
    run = _train(tmp_path / "paid", model, tiny_csv, "lora", precision="fp32")
    said = run.record.environment["engine"]["compiled"]
    assert "compiled_step_seconds" in said, said["why"]
    faster = said["compiled_step_seconds"] < said["step_seconds"]
    assert said["layers"] == (AutoConfig.from_pretrained(model).num_hidden_layers if faster else 0)
    assert (said["why"] is None) == faster
    assert run.record.environment["engine"]["graphs"] > 0
    history = [(each.directory / "history.jsonl").read_text("utf8").splitlines() for each in (plain, run)]
    losses = [[json.loads(row)["loss"] for row in rows] for rows in history]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_peak_memory_holds_nothing_of_earlier_runs(tmp_path: Path, tiny_bert: Path, tiny_csv: Path) -> None:
    def peak(name: str, method: str) -> int:
        return int(_train(tmp_path / name, tiny_bert, tiny_csv, method).record.cost["peak_memory_bytes"]["allocated"])

    _train(tmp_path / "warm", tiny_bert, tiny_csv, "lora", epochs=1)
    first = peak("first", "lora")
    others = [peak(f"other{number}", "standard") for number in range(3)]
    assert max(others) - min(others) < 2**20
    assert abs(peak("last", "lora") - first) < 2**20  # 32 MiB would be one workspace


@pytest.mark.parametrize("graphs", ["auto", "off"])
def test_the_parts_of_time_are_the_devices_own_and_add_up(
    graphs: str, tmp_path: Path, tiny_bert: Path, tiny_csv: Path
) -> None:
    run = _train(tmp_path, tiny_bert, tiny_csv, "standard", graphs=graphs)
    assert (run.record.environment["engine"]["graphs"] > 0) == (graphs == "auto")
    parts = run.record.cost["time_parts_seconds"]
    assert set(parts) == {"forward", "backward", "optimizer", "data", "gaps"}
    assert sum(parts.values()) == pytest.approx(run.record.cost["train_seconds"])
    assert min(parts[part] for part in ("forward", "backward", "optimizer")) > 0


def test_a_deterministic_run_gives_the_same_bytes_in_fresh_processes_and_when_it_was_interrupted(
    tiny_csv: Path,
) -> None:
    script = ROOT / "benchmarks" / "same.py"
    words = f"--device cuda --model tiny --dataset {tiny_csv} --processes 2 --at-once 6 --steps 4"
    done = subprocess.run([sys.executable, script, *words.split()], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("the same bytes in all") == 6


def test_where_memory_runs_out_what_is_said_to_fit_does(model_directory: Any, tmp_path: Path) -> None:
    model = model_directory(
        "bert", hidden_size=256, intermediate_size=1024, num_hidden_layers=4, max_position_embeddings=512
    )
    path = tmp_path / "long.csv"
    rows = [f"w{n % 90} {'w1 w2 w3 ' * 130}w{n},{'good' if n % 2 else 'bad'}\n" for n in range(90)]
    path.write_text("text,label\n" + "".join(rows), encoding="utf8")
    flags = {"model": str(model), "dataset": str(path), "device": "cuda", "epochs": 1, "max_length": 400}

    def given(**more: Any) -> RunSpec:
        return spec_from_flags({"method": "standard", "batch_size": 60, **flags, **more})

    gc.collect()
    torch.cuda.empty_cache()
    total = torch.cuda.mem_get_info()[1]
    try:
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (500 << 20)) / total)
        with pytest.raises(OutOfMemoryError, match="by the estimate each of these fits: --accumulate") as caught:
            train(given(), output=tmp_path / "first")
        said = str(caught.value)
        parts = re.search(r"--accumulate (\d+)", said)
        assert parts is not None
        assert not fits(given(accumulate=int(parts[1]) // 2)), said
        again = train(given(accumulate=int(parts[1])), output=tmp_path / "second")
        assert again.record.status == "completed", said
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_a_bucket_of_gradients_is_summed_once_the_replayed_pass_has_filled_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the place of another process, whose gradients are the same, a sum is a doubling on the stream of the call."""

    def doubled(tensor: torch.Tensor, *, async_op: bool) -> Any:
        tensor.mul_(2)
        event = torch.cuda.current_stream().record_event()
        return SimpleNamespace(wait=lambda: torch.cuda.current_stream().wait_event(event))

    monkeypatch.setattr(sums.dist, "all_reduce", doubled)
    monkeypatch.setattr(sums, "BUCKET", 1 << 14)  # a layer's weight
    net = torch.nn.Sequential(*(torch.nn.Linear(64, 64) for _ in range(3))).cuda()
    x, parameters = torch.randn(8, 64, device="cuda"), list(net.parameters())
    together, graph, stream = sums.Sums(parameters, single=True), torch.cuda.CUDAGraph(), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        with together.silent(), together.backward():
            net(x).square().sum().backward()
        with torch.cuda.graph(graph, stream=stream):
            torch.cuda._sleep(20_000_000)  # what is replayed comes long after the sums were asked for
            with together.backward():
                net(x).square().sum().backward()
    torch.cuda.current_stream().wait_stream(stream)
    full = together.full
    assert len(full) > 3
    for _ in range(3):
        x.normal_()
        expected = torch.autograd.grad(net(x).square().sum(), parameters)
        graph.replay()
        together.finish(full)
        for parameter, gradient in zip(parameters, expected, strict=True):
            torch.testing.assert_close(parameter.grad, 2 * gradient)
