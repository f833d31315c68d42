import shutil
from functools import partial
from unittest import mock

import pytest
import torch
from tiny_arl import SIZE, Recorder, fit, part, random_batch, tiny_arl
from torch._dynamo.utils import counters

from arl_lightning.errors import UserError
from arl_lightning.models import registry
from arl_lightning.pretraining.callbacks import ReconstructionPictures

NUM_STEPS = 3
BATCHES = [random_batch(seed=seed) for seed in range(NUM_STEPS)]
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


def train(compile: bool) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
    recorder = Recorder()
    module = tiny_arl(compile=compile, decoder={"depth": 2}, optimization={"base_lr": 0.01})
    fit(module, BATCHES, NUM_STEPS, [recorder])
    return dict(module.state_dict()), recorder.metrics


@needs_compiler
def test_compiled_blocks_train_as_eager_ones_and_share_their_graphs():
    weights, metrics = train(compile=False)
    torch._dynamo.reset()
    counters.clear()
    compiled_weights, compiled_metrics = train(compile=True)
    assert compiled_weights.keys() == weights.keys()
    for name, value in compiled_weights.items():
        torch.testing.assert_close(value, weights[name], rtol=0, atol=1e-9, msg=name)
    for found, expected in zip(compiled_metrics, metrics, strict=True):
        assert found == pytest.approx(expected, rel=1e-6)
    # The teacher's full view, the student's masked and its local views; the decoder's blocks. No batch adds to these.
    assert counters["stats"]["unique_graphs"] == 4
    assert not counters["graph_break"]


def test_more_blocks_held_out_images_and_pictures_need_no_more_graphs(tmp_path):
    torch._dynamo.reset()
    counters.clear()
    pictures = ReconstructionPictures(tmp_path, every_n_steps=1, max_rows=3)
    batches = [part(batch, 0, 2) for batch in BATCHES]
    batches[0]["anatomy"], batches[1]["anatomy"] = torch.tensor([1, 1]), torch.tensor([2, 3])  # one row, then three
    deep = mock.patch.dict(registry.SIZES, {"tiny": {**SIZE, "depth": 4}})
    with deep, mock.patch.object(torch, "compile", partial(torch.compile, backend="eager")):
        fit(tiny_arl(compile=True, decoder={"depth": 3}), batches, 2, [pictures], held_out=batches[2:])
    assert len(list(tmp_path.iterdir())) == 2
    assert counters["stats"]["unique_graphs"] == 4


def test_a_missing_compiler_is_named(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=r"model\.compile: found no C\+\+ compiler; install g\+\+"):
        fit(tiny_arl(compile=True), BATCHES, 1)


def test_stochastic_depth_is_not_compiled():
    with pytest.raises(UserError, match=r"model\.compile: with stochastic depth"):
        tiny_arl(compile=True, encoder={"drop_path": 0.1})


def test_without_a_trainer_nothing_is_compiled():
    module = tiny_arl(compile=True)
    assert "forward" not in vars(module.student.encoder.blocks[0])
