import math

import lightning.pytorch as pl
import pytest
import torch
from tiny_arl import Recorder, fit, random_batch, tiny_arl

from arl_lightning.errors import UserError
from arl_lightning.pretraining.callbacks import CollapseMonitor, NonFiniteGuard, ReconstructionPictures
from arl_lightning.pretraining.callbacks.collapse import rank_me, symptoms
from arl_lightning.pretraining.callbacks.pictures import reconstruction_panels
from arl_lightning.training.checkpoints import RunCheckpoints
from arl_lightning.training.progress import Throughput

BATCHES = [random_batch(seed=seed) for seed in range(4)]
HEALTHY = {"train/teacher/entropy": 0.5, "train/teacher/prototypes_used": 40.0}


def poison(module, place="student.decoder.last", calls=range(10**6)) -> None:
    """Make a network's output NaN at the given calls."""
    numbers = iter(range(10**6))
    module.get_submodule(place).register_forward_hook(
        lambda *parts: parts[2] * math.nan if next(numbers) in calls else None
    )


# ---------------------------------------------------------------- the guard


def test_the_guard_stops_a_streak_and_leaves_the_last_good_weights(tmp_path):
    module, recorder = tiny_arl(), Recorder()
    poison(module, calls=range(2, 100))
    with pytest.raises(UserError, match=r"step 2: 10 steps in a row were not finite.*nonfinite\.ckpt"):
        fit(module, BATCHES, 100, [NonFiniteGuard(RunCheckpoints(tmp_path, 1, 1)), recorder])
    assert [path.name for path in tmp_path.iterdir()] == ["nonfinite.ckpt"]
    saved = torch.load(tmp_path / "nonfinite.ckpt", weights_only=True)
    assert saved["global_step"] == 2
    assert all(torch.isfinite(value).all() for value in saved["state_dict"].values())
    assert len(recorder.keys) == 11  # two good ones and nine bad ones before the tenth


def test_the_guard_lets_short_streaks_pass(tmp_path):
    module = tiny_arl()
    poison(module, calls={0, 1, 3, 4, 6, 7})
    trainer = fit(module, BATCHES, 4, [NonFiniteGuard(RunCheckpoints(tmp_path, 1, 1), max_streak=3)])
    assert (trainer.global_step, module.nonfinite_steps) == (4, 6)
    assert not (tmp_path / "nonfinite.ckpt").exists()


# ---------------------------------------------------------------- collapse


def test_rank_me_by_hand():
    assert rank_me(torch.eye(8) * 3).item() == pytest.approx(8, rel=1e-4)
    assert rank_me(torch.ones(8, 1) * torch.arange(1.0, 6.0)).item() == pytest.approx(1, rel=1e-4)
    # Singular values 3 and 1: shares 3/4 and 1/4.
    expected = math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert rank_me(torch.diag(torch.tensor([3.0, 1.0]))).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("rank", "changes", "words"),
    [
        (1.2, {}, "features collapse: RankMe 1.20"),
        (20.0, {"train/teacher/entropy": 0.995}, "targets are uniform"),
        (20.0, {"train/teacher/prototypes_used": 1.1}, "same prototype"),
    ],
)
def test_symptoms_name_the_collapse(rank, changes, words):
    found = symptoms(rank, HEALTHY | changes)
    assert len(found) == 1
    assert words in found[0]


def test_healthy_numbers_have_no_symptoms():
    assert symptoms(20.0, HEALTHY) == []
    assert symptoms(20.0, {}) == []  # without self-distillation there is no teacher to judge


class Watched(pl.LightningModule):
    """Trains nothing, and gives out the class tokens it was told to."""

    def __init__(self, tokens: torch.Tensor) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.tokens = tokens

    def training_step(self, batch, batch_idx):
        self.manual_backward(self.weight**2)
        self.optimizers().step()
        return {"cls_tokens": self.tokens}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def watch(tokens: torch.Tensor, max_steps: int = 20, **arguments) -> list[float]:
    recorder = Recorder()
    fit(Watched(tokens), BATCHES, max_steps, [CollapseMonitor(**arguments), recorder])
    return [metrics["train/rank_me"] for metrics in recorder.metrics if "train/rank_me" in metrics]


def test_the_monitor_warns_of_collapsed_features():
    with pytest.warns(UserWarning, match=r"step 10: features collapse: RankMe 1\.00"):
        ranks = watch(torch.ones(16, 8), every_n_steps=10)
    assert ranks[-1] == pytest.approx(1, abs=1e-3)


def test_the_monitor_is_quiet_on_healthy_features(recwarn):
    ranks = watch(torch.eye(16, 8), every_n_steps=10)
    assert ranks[-1] == pytest.approx(8, abs=1e-2)
    assert not [warning for warning in recwarn if "collapse" in str(warning.message)]


def test_the_monitor_waits_for_the_first_steps(recwarn):
    watch(torch.ones(16, 8), max_steps=11, every_n_steps=5, grace_share=0.95)
    assert not [warning for warning in recwarn if "collapse" in str(warning.message)]


def test_the_monitor_measures_the_latest_features():
    monitor = CollapseMonitor(num_features=6)
    for value in range(5):
        monitor._remember(torch.full((4, 2), float(value)))
    assert torch.cat(list(monitor._tokens))[:, 0].tolist() == [3.0] * 4 + [4.0] * 4


def test_the_monitor_survives_features_that_are_not_finite():
    # A step that overflows is skipped; the monitor must not stop the run that the guard lets go on.
    module, recorder = tiny_arl(), Recorder()
    poison(module, "teacher.encoder.norm", calls={0, 2})
    fit(module, BATCHES, 3, [CollapseMonitor(every_n_steps=1), recorder])
    assert module.nonfinite_steps == 2
    assert all(1 <= metrics["train/rank_me"] <= 24 for metrics in recorder.metrics if "train/rank_me" in metrics)
    assert recorder.metrics[-1]["train/rank_me"] > 1


def test_the_monitor_watches_real_training():
    recorder = Recorder()
    fit(tiny_arl(), BATCHES, 4, [CollapseMonitor(every_n_steps=2), recorder])
    assert ["train/rank_me" in metrics for metrics in recorder.metrics] == [False, True, True, True]
    assert 1 < recorder.metrics[-1]["train/rank_me"] < 24


# ---------------------------------------------------------------- the rest


def test_throughput_counts_images_and_the_loader_s_waiting(monkeypatch):
    # Batches of 4 that end every 2 s, half a second of which the loader was waited for.
    times, waited = iter([2.0, 4.0, 6.0]), iter([0.5, 1.0, 1.5])
    monkeypatch.setattr("time.perf_counter", lambda: next(times))
    logged: list[dict] = []
    module = type("Module", (), {"log_dict": lambda self, values, batch_size: logged.append(values)})()
    throughput = Throughput()
    for batch_idx in range(3):
        loader = type("Loader", (), {"seconds_waited": next(waited)})()
        trainer = type("Trainer", (), {"world_size": 3, "train_dataloader": loader})()
        throughput.on_train_batch_end(trainer, module, None, BATCHES[0], batch_idx)
    assert logged == [{"train/images_per_second": 6.0, "train/data_wait_share": 0.25}] * 2


def test_pictures_show_the_reconstruction_where_patches_are_hidden(tmp_path):
    module, batch = tiny_arl().float().eval(), BATCHES[0]
    panels = reconstruction_panels(module, batch["global_views"][:, 0], batch["anatomy"], batch["seed"])
    image, masked, reconstruction, pasted = panels.unbind(1)
    torch.testing.assert_close(image, batch["global_views"][:, 0] / 255)
    hidden = (masked - 0.35).abs() < 1e-6
    assert hidden.float().mean().item() == pytest.approx(0.75, abs=0.01)
    torch.testing.assert_close(masked[~hidden], image[~hidden])
    torch.testing.assert_close(pasted, torch.where(hidden, reconstruction, image))


def test_pictures_are_drawn_on_time(tmp_path):
    fit(tiny_arl(), BATCHES, 3, [ReconstructionPictures(tmp_path / "pictures", every_n_steps=2)])
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == ["step-0000002.png", "step-0000003.png"]
