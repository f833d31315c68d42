import copy
import math

import pytest
import torch
from tiny_arl import Around, Recorder, fit, part, random_batch, same, snapshot, tiny_arl, tiny_data
from tiny_shards import write_shards

from arl_lightning.errors import UserError
from arl_lightning.models.patches import patchify, unpatchify
from arl_lightning.objectives.adversarial import compose, discriminator_loss, generator_loss
from arl_lightning.objectives.mim import denormalize_patches, normalize_patches, reconstruction_loss
from arl_lightning.pretraining.arl import ARL
from arl_lightning.pretraining.options import Reconstruction, SelfDistillation

STEP = {"train/gradient_norm/student", "train/learning_rate/student", "train/nonfinite_steps"}
SD = {"train/loss/self_distillation", "train/teacher/entropy", "train/teacher/prototypes_used"}
MIM = {"train/loss/reconstruction"}
DISCRIMINATOR = {"train/gradient_norm/discriminator", "train/learning_rate/discriminator"}
ADVERSARIAL = DISCRIMINATOR | {
    "train/loss/adversarial",
    "train/loss/discriminator",
    "train/adaptive_weight",
    "train/adversarial_weight",
    "train/gradient_norm/reconstruction",
    "train/gradient_norm/adversarial",
    "train/discriminator/real_accuracy",
    "train/discriminator/fake_accuracy",
}
NO_SD = {"self_distillation": {"enabled": False}}
NO_ADVERSARIAL = {"adversarial": {"enabled": False}}
NO_MIM = {"reconstruction": {"enabled": False}}
ALL = STEP | SD | MIM | ADVERSARIAL

VARIANTS: dict[str, tuple[dict, set[str]]] = {
    "mim": (NO_SD | NO_ADVERSARIAL, STEP | MIM),
    "mim + adversarial": (NO_SD, STEP | MIM | ADVERSARIAL),
    "mim + sd": (NO_ADVERSARIAL, STEP | MIM | SD),
    "sd": (NO_MIM, STEP | SD),
    "sd, full view": ({**NO_MIM, "self_distillation": {"student_view": "full"}}, STEP | SD),
    "all": ({}, ALL),
    "no conditioning": ({"encoder": {"conditioning": "none"}}, ALL),
    "grouped kernel": ({"encoder": {"kernel": "grouped"}}, ALL),
    "recomputed activations": ({"encoder": {"checkpoint_gradients": True}}, ALL),
    "registers": ({"encoder": {"register_tokens": 2}}, ALL),
    "full view": ({"self_distillation": {"student_view": "full"}}, ALL),
    "patches": ({"self_distillation": {"patch_weight": 1.0}}, ALL | {"train/loss/patch_distillation"}),
    "koleo": ({"self_distillation": {"koleo_weight": 0.1}}, ALL | {"train/loss/koleo"}),
    "sinkhorn": ({"self_distillation": {"targets": "sinkhorn"}}, ALL),
    "hinge": ({"adversarial": {"loss": "hinge"}}, ALL),
    "constant": ({"adversarial": {"weighting": "constant"}}, ALL),
    "update_every": ({"adversarial": {"update_every": 2}}, ALL),
    "waiting": ({"adversarial": {"start_share": 1.0}}, STEP | SD | MIM | DISCRIMINATOR),
    "norm_pix_loss": ({"reconstruction": {"norm_pix_loss": True}}, ALL),
    "block masks": ({"masking": {"kind": "block", "ratio": 0.6}}, ALL),
    "accumulation": ({"optimization": {"accumulate_batches": 2}}, ALL),
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("shards"), [16, 16])


def finite(module: ARL) -> bool:
    return all(torch.isfinite(value).all() for value in module.state_dict().values())


@pytest.mark.parametrize("name", VARIANTS)
def test_three_steps_train_and_log_what_they_compute(shards, name):
    changes, expected = VARIANTS[name]
    module, recorder = tiny_arl(**changes), Recorder()
    before = copy.deepcopy(module)
    trainer = fit(module, tiny_data(shards), 3, [recorder])
    assert trainer.global_step == 3
    assert len(recorder.metrics) == 3 * module.optimization.accumulate_batches
    assert recorder.metrics[-1].keys() == expected
    assert all(math.isfinite(value) for metrics in recorder.metrics for value in metrics.values())
    assert recorder.metrics[-1]["train/nonfinite_steps"] == 0
    assert finite(module)
    still = [n for n, p in module.student.named_parameters() if torch.equal(p, before.student.get_parameter(n))]
    assert not still
    assert not same(dict(module.teacher.state_dict()), dict(before.teacher.state_dict()))


def test_max_steps_counts_batches(shards):
    recorder = Recorder()
    trainer = fit(tiny_arl(), tiny_data(shards), 7, [recorder])
    assert trainer.global_step == len(recorder.keys) == 7


def test_a_step_of_accumulated_batches_counts_once(shards):
    steps: list[int] = []
    module = tiny_arl(optimization={"accumulate_batches": 3})
    fit(module, tiny_data(shards), 2, [Around(after=lambda trainer, *_: steps.append(trainer.global_step))])
    assert steps == [0, 0, 1, 1, 1, 2]


def test_a_run_without_an_objective_is_refused():
    with pytest.raises(UserError, match=r"model\.reconstruction\.enabled and model\.self_distillation\.enabled"):
        ARL(reconstruction=Reconstruction(enabled=False), self_distillation=SelfDistillation(enabled=False))


# ---------------------------------------------------------------- one backward


def plain_gradients(module: ARL, batch, kind: str) -> dict[str, torch.Tensor]:
    """Differentiate `L_SD + L_MIM + lambda * L_adv(G)` and `L_adv(D)` apart, each through its whole graph."""
    views = module.make_views(batch)
    student, images, mask = module.student_output(views), views.global_images, views.mask
    distillation, _ = module.distillation_loss(student, module.teacher_output(views), len(views.anatomy))
    patches, output = patchify(images, 8), student.decoded.reconstruction
    normed = module.reconstruction.norm_pix_loss
    mim = reconstruction_loss(output, normalize_patches(patches) if normed else patches, mask)
    pixels = denormalize_patches(output, patches) if normed else output
    fake = unpatchify(compose(pixels, patches, mask), (4, 4), 8)
    generator = generator_loss(module.discriminator(fake), mask, kind)
    last = module.student.decoder.last.weight
    by_mim, by_adversarial = (torch.autograd.grad(loss, last, retain_graph=True)[0] for loss in (mim, generator))
    weight = (by_mim.norm() / (by_adversarial.norm() + 1e-4)).detach()
    real_logits, fake_logits = module.discriminator(images), module.discriminator(fake.detach())
    gradients: dict[str, torch.Tensor] = {}
    for name, loss in {
        "student": distillation + mim + weight * generator,
        "discriminator": discriminator_loss(real_logits, fake_logits, mask, kind),
    }.items():
        names, parameters = zip(*getattr(module, name).named_parameters(prefix=name), strict=True)
        gradients |= dict(zip(names, torch.autograd.grad(loss, parameters, retain_graph=True), strict=True))
    return gradients


@pytest.mark.parametrize("kind", ["bce", "hinge"])
@pytest.mark.parametrize("norm_pix_loss", [False, True])
def test_the_single_backward_equals_backwards_of_the_plain_losses(norm_pix_loss, kind, monkeypatch):
    module = tiny_arl(adversarial={"loss": kind}, reconstruction={"norm_pix_loss": norm_pix_loss})
    batch, expected, found = random_batch(), {}, {}

    def before(trainer, module, batch_idx):
        expected.update(plain_gradients(module, batch, kind))
        module.distillation.discard()

    monkeypatch.setattr(ARL, "_drop_resting_gradients", lambda self: None)
    monkeypatch.setattr(ARL, "update_networks", lambda self, metrics: (found.update(gradients_of(self)), None)[1])
    trainer_steps = Around(before=before, after=lambda trainer, *_: setattr(trainer, "should_stop", True))
    fit(module, [batch], 1, [trainer_steps], min_steps=0)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-13, msg=name)


def gradients_of(module: ARL) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def test_teacher_and_center_follow_by_their_momenta():
    batch, before, logits = random_batch(), {}, []

    def start(trainer, module, batch_idx):
        before.update(copy.deepcopy(dict(module.teacher.state_dict())))
        logits.append(module.teacher_output(module.make_views(batch)).cls_logits)

    module = tiny_arl(optimization={"teacher_momentum": 0.8}, self_distillation={"center_momentum": 0.7})
    fit(module, [batch], 1, [Around(before=start)])
    for name, value in module.teacher.state_dict().items():
        expected = 0.8 * before[name] + 0.2 * module.student.get_parameter(name)
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-14)
    assert not torch.equal(module.teacher.head.last.weight, before["head.last.weight"])
    torch.testing.assert_close(module.distillation.cls_targets.center, 0.3 * logits[0].mean(0))


# ---------------------------------------------------------------- what rests


def rested_steps(module: ARL, network: str, num_steps: int) -> list[bool]:
    """Train, and tell of each step whether a network's weights and optimizer state stayed bit for bit."""
    states, rested = [], []

    def state(trainer, module):
        parameters = list(getattr(module, network).parameters())
        moments = trainer.optimizers[0].state
        return copy.deepcopy([[p.detach(), dict(moments[p]) if p in moments else {}] for p in parameters])

    def before(trainer, module, batch_idx):
        states.append(state(trainer, module))

    def after(trainer, module, batch_idx):
        rested.append(same(states[-1], state(trainer, module)))

    fit(module, [random_batch(seed=seed) for seed in range(num_steps)], num_steps, [Around(before, after)])
    return rested


def test_the_discriminator_rests_before_its_start():
    assert rested_steps(tiny_arl(adversarial={"start_share": 0.5}), "discriminator", 4) == [True, True, False, False]


def test_the_discriminator_rests_between_its_updates():
    rested = rested_steps(tiny_arl(adversarial={"update_every": 2}), "discriminator", 4)
    assert rested == [False, True, False, True]


@pytest.mark.parametrize("changes", [{"start_share": 0.5}, {"update_every": 2}])
def test_the_student_never_rests(changes):
    assert rested_steps(tiny_arl(adversarial=changes), "student", 4) == [False] * 4


def test_the_prototypes_are_frozen_at_first():
    trained: list[bool] = []

    def after(trainer, module, batch_idx):
        trained.append(not torch.equal(module.student.head.last.weight, first))

    module = tiny_arl(self_distillation={"freeze_prototypes_share": 0.5})
    first = module.student.head.last.weight.detach().clone()
    fit(module, [random_batch()], 4, [Around(after=after)])
    assert trained == [False, False, True, True]


# ---------------------------------------------------------------- accumulation


def weights_after(batches, batch_size: int, accumulate: int, max_steps: int = 3, **changes) -> ARL:
    module = tiny_arl(batch_size, optimization={"accumulate_batches": accumulate}, **changes)
    fit(module, batches, max_steps)
    return module


def largest_difference(a: ARL, b: ARL) -> float:
    other = b.state_dict()
    return max(float((value - other[name]).abs().max()) for name, value in a.state_dict().items())


@pytest.mark.parametrize(
    "changes",
    [
        NO_SD | NO_ADVERSARIAL,
        NO_ADVERSARIAL,
        {"adversarial": {"weighting": "constant", "weight": 0.1}},
    ],
    ids=["mim", "mim + sd with centering", "all with a constant weight"],
)
def test_accumulated_batches_equal_one_large_batch(changes):
    # All means are over equal numbers of images and the center moves once, so every weight is the same, but for the
    # order of sums. With an adaptive weight it would not be: each accumulated batch has its own lambda. Nor with
    # Sinkhorn, which balances each.
    large = [random_batch(8, seed) for seed in range(3)]
    small = [half for batch in large for half in (part(batch, 0, 4), part(batch, 4, 8))]
    together, accumulated = weights_after(large, 8, 1, **changes), weights_after(small, 4, 2, **changes)
    assert largest_difference(together, accumulated) < 1e-8
    assert largest_difference(together, weights_after(small, 8, 1, **changes)) > 1e-3


# ---------------------------------------------------------------- steps that are not finite


class Poison(Around):
    """Makes a network's output NaN in some batches, and notes of each batch whether everything stayed bit for bit."""

    def __init__(self, bad: set[int], place: str) -> None:
        super().__init__(self.start, self.end)
        self.bad, self.place = bad, place
        self.kept: list[bool] = []

    def start(self, trainer, module, batch_idx) -> None:
        self.state = snapshot(trainer, module)
        if trainer.fit_loop.total_batch_idx in self.bad:
            self.hook = module.get_submodule(self.place).register_forward_hook(lambda *parts: parts[2] * math.nan)

    def end(self, trainer, module, batch_idx) -> None:
        self.kept.append(same(self.state, snapshot(trainer, module)))
        if trainer.fit_loop.total_batch_idx in self.bad:
            self.hook.remove()


BATCHES = [random_batch(seed=seed) for seed in range(6)]


@pytest.mark.parametrize(
    "place", ["student.decoder.last", "teacher.head.last", "student.encoder.norm", "discriminator"]
)
def test_a_step_that_is_not_finite_is_skipped_and_counted(place):
    module, recorder, poison = tiny_arl(), Recorder(), Poison({1, 3}, place)
    trainer = fit(module, BATCHES, 4, [poison, recorder])
    assert poison.kept == [False, True, False, True, False, False]
    assert [metrics["train/nonfinite_steps"] for metrics in recorder.metrics] == [0, 1, 1, 2, 2, 2]
    assert (trainer.global_step, module.nonfinite_streak, module.nonfinite_steps) == (4, 0, 2)
    assert finite(module)


@pytest.mark.parametrize("bad", [{2}, {3}, {2, 3}])
def test_one_bad_batch_spoils_its_whole_accumulated_step(bad):
    module = tiny_arl(optimization={"accumulate_batches": 2})
    poison = Poison(bad, "student.decoder.last")
    trainer = fit(module, BATCHES, 2, [poison])
    assert poison.kept == [True, False, True, True, True, False]
    assert (trainer.global_step, module.nonfinite_steps) == (2, 1)


def test_a_skipped_step_leaves_no_trace_in_later_ones():
    poisoned, clean = tiny_arl(), tiny_arl()
    fit(poisoned, BATCHES[:4], 3, [Poison({1}, "student.decoder.last")])
    fit(clean, [BATCHES[0], *BATCHES[2:4]], 3)
    assert same(dict(poisoned.state_dict()), dict(clean.state_dict()))
