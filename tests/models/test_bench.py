import pytest
import timm
import torch

from arl_lightning import cli
from arl_lightning.errors import UserError
from arl_lightning.models import bench as bench_module
from arl_lightning.models.bench import bench
from arl_lightning.models.cost import model_cost

TINY = {"model": "avit_tiny_patch16_224", "image_size": 64, "batch_size": 2, "runs": 3}


def test_a_report_of_both_precisions():
    report = bench(**TINY)
    with torch.device("meta"):
        avit = timm.create_model("avit_tiny_patch16_224", img_size=64)
        plain = timm.create_model("vit_tiny_patch16_224", img_size=64, in_chans=1)
    assert report.avit == model_cost(avit, 64)
    assert report.plain == model_cost(plain, 64)
    assert list(report.latency) == ["fp32", "bf16"]
    assert all(min(each.avit, each.plain, each.ratio) > 0 for each in report.latency.values())


def test_the_table_holds_the_numbers():
    latency = {"fp32": bench_module.Latency(3.0, 2.0, 1.51)}
    avit, plain = bench_module.Cost(94_260_000, 17_580_000_000, 65_000_000), bench_module.Cost(10**8, 10**10, 0)
    lines = str(bench_module.Report("avit_base", avit, plain, latency)).splitlines()
    assert [line.split() for line in lines[2:6]] == [
        ["parameters", "(M)", "94.26", "100.00", "0.943"],
        ["GMACs", "an", "image", "17.58", "10.00", "1.758"],
        ["bilinear", "GMACs", "0.07"],
        ["fp32", "ms", "an", "image", "3.00", "2.00", "1.510"],
    ]


def test_runs_alternate_and_the_ratio_is_the_median_of_the_pairs(monkeypatch):
    """Two images a batch. The machine slows down from pair to pair; the ratio stays that of a pair."""
    order, clock = [], iter([9, 9, 12, 10, 50, 55, 120, 100])

    def milliseconds(model, inputs, precision):
        order.append(len(inputs))  # A-ViT gets an anatomy too
        return next(clock)

    monkeypatch.setattr(bench_module, "_milliseconds", milliseconds)
    report = bench(**TINY, precision="fp32")
    assert order == [1, 2, 2, 1, 1, 2, 2, 1]
    latency = report.latency["fp32"]
    assert (latency.avit, latency.plain, latency.ratio) == (27.5, 25, 1.2)  # 55 / 50 would be 1.1


def test_the_offsets_leave_the_regular_grid(monkeypatch):
    seen = []
    monkeypatch.setattr(bench_module, "_milliseconds", lambda model, *_: seen.append(model) or 1.0)
    bench(**TINY, precision="fp32")
    avit, recorded = seen[1], []
    for block in avit.blocks:
        sampling = block.sampling
        monkeypatch.setattr(sampling, "sample", lambda tokens, offsets, *_: recorded.append(offsets.std()) or tokens)
    with torch.no_grad():
        avit(torch.randn(2, 1, 64, 64))
    assert len(recorded) == 12
    assert all(0.3 < deviation < 3 for deviation in recorded)


def test_the_thread_count_is_restored(monkeypatch):
    before, during = torch.get_num_threads(), []

    def fail(*_):
        during.append(torch.get_num_threads())
        raise RuntimeError("interrupted")

    monkeypatch.setattr(bench_module, "_milliseconds", fail)
    with pytest.raises(RuntimeError, match="interrupted"):
        bench(**TINY, threads=before + 1)
    assert during == [before + 1]
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"model": "vit_base"}, "model: 'vit_base' is not one of avit_tiny_patch8_224, "),
        ({"image_size": 72}, "image_size: 72 is not divisible by avit_tiny_patch16_224's patches of 16"),
        ({"batch_size": 0}, "batch_size: must be at least 1, got 0"),
        ({"threads": 0}, "threads: must be at least 1, got 0"),
        ({"runs": -1}, "runs: must be at least 1, got -1"),
    ],
)
def test_a_users_mistake_is_one_line(wrong, message):
    with pytest.raises(UserError, match=message) as error:
        bench(**{**TINY, **wrong})
    assert "\n" not in str(error.value)


def test_the_command_prints_the_report(capsys):
    options = [f"--{name}={value}" for name, value in {**TINY, "runs": 1, "precision": "bf16"}.items()]
    assert cli.main(["bench", "model", *options]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("avit_tiny_patch16_224: 64 x 64 pixels, 1 channel(s), batch 2")
    assert "bf16 ms an image" in printed
    assert "fp32" not in printed
