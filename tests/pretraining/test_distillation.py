import pytest
import torch
from tiny_arl import random_batch, tiny_arl

from arl_lightning.models.networks import StudentOutput, TeacherOutput
from arl_lightning.objectives.self_distillation import koleo_loss, patch_self_distillation_loss, self_distillation_loss
from arl_lightning.pretraining.distillation import Distillation, Targets
from arl_lightning.pretraining.options import SelfDistillation

B, D, K, V = 3, 6, 5, 4


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def outputs() -> tuple[StudentOutput, TeacherOutput]:
    student = StudentOutput(normal(2 * B, D), normal(3 * B, K, seed=1), normal(2 * B, V, K, seed=2), None)
    return student, TeacherOutput(normal(2 * B, D, seed=3), normal(2 * B, K, seed=4), normal(2 * B, V, K, seed=5))


def distillation(**fields) -> Distillation:
    return Distillation(SelfDistillation(num_prototypes=K, **fields)).double()


def test_the_center_waits_for_the_step():
    targets = Targets(2, "centering", 0.9)
    logits = torch.tensor([[1.0, 0.0], [3.0, 2.0]])
    first = targets(logits, 0.1)
    torch.testing.assert_close(first, (logits / 0.1).softmax(-1))
    assert torch.equal(targets(logits, 0.1), first)
    assert targets.center.tolist() == [0.0, 0.0]
    targets.commit()
    torch.testing.assert_close(targets.center, torch.tensor([0.2, 0.1]))  # 0.1 of the mean (2, 1)
    targets.commit()
    torch.testing.assert_close(targets.center, torch.tensor([0.2, 0.1]))
    torch.testing.assert_close(targets(logits, 0.1), ((logits - torch.tensor([0.2, 0.1])) / 0.1).softmax(-1))


def test_accumulated_batches_move_the_center_together():
    targets = Targets(2, "centering", 0.5)
    targets(torch.tensor([[1.0, 0.0]]), 0.1)
    targets(torch.tensor([[3.0, 4.0]]), 0.1)
    targets.commit()
    torch.testing.assert_close(targets.center, torch.tensor([1.0, 1.0]))


def test_a_skipped_step_leaves_the_center_alone():
    targets = Targets(2, "centering", 0.9)
    targets(torch.full((3, 2), float("nan")), 0.1)
    targets.discard()
    targets.commit()
    assert targets.center.tolist() == [0.0, 0.0]


def test_sinkhorn_has_no_center():
    targets = Targets(2, "sinkhorn", 0.9)
    probabilities = targets(normal(2, 3, 2), 0.1)
    targets.commit()
    assert targets.center.tolist() == [0.0, 0.0]
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(2, 3, dtype=torch.float64))


def test_eq_5_compares_global_views_first_and_view_by_view():
    student, teacher = outputs()
    loss, metrics = distillation(student_temperature=0.2)(student, teacher, B, 0.05)
    targets = (teacher.cls_logits / 0.05).softmax(-1).view(2, B, K)
    expected = self_distillation_loss(student.cls_logits.view(3, B, K), targets, 0.2)
    torch.testing.assert_close(loss, expected)
    assert metrics.keys() == {"train/loss/self_distillation", "train/teacher/entropy", "train/teacher/prototypes_used"}
    torch.testing.assert_close(metrics["train/loss/self_distillation"], expected)


def test_options_add_their_weighted_losses():
    student, teacher = outputs()
    plain, _ = distillation()(student, teacher, B, 0.05)
    loss, metrics = distillation(patch_weight=0.5, koleo_weight=0.25)(student, teacher, B, 0.05)
    patches = patch_self_distillation_loss(student.patch_logits, (teacher.patch_logits / 0.05).softmax(-1), 0.1)
    koleo = koleo_loss(student.cls_tokens[:B])  # of one view: two views of an image should be near each other
    torch.testing.assert_close(loss, plain + 0.5 * patches + 0.25 * koleo)
    torch.testing.assert_close(metrics["train/loss/patch_distillation"], patches)
    torch.testing.assert_close(metrics["train/loss/koleo"], koleo)


def test_both_centers_move_at_a_step():
    student, teacher = outputs()
    module = distillation(patch_weight=0.5, center_momentum=0.0)
    module(student, teacher, B, 0.05)
    module.commit()
    torch.testing.assert_close(module.cls_targets.center, teacher.cls_logits.mean(0))
    torch.testing.assert_close(module.patch_targets.center, teacher.patch_logits.mean((0, 1)))
    module(StudentOutput(*student), TeacherOutput(*(-each for each in teacher)), B, 0.05)
    module.discard()
    module.commit()
    torch.testing.assert_close(module.cls_targets.center, teacher.cls_logits.mean(0))
    torch.testing.assert_close(module.patch_targets.center, teacher.patch_logits.mean((0, 1)))


def test_a_student_without_a_head_is_refused():
    student, teacher = outputs()
    with pytest.raises(ValueError, match="no head"):
        distillation()(student._replace(cls_logits=None), teacher, B, 0.05)


def test_only_the_student_learns():
    module = tiny_arl(self_distillation={"patch_weight": 1.0, "koleo_weight": 0.1})
    views = module.make_views(random_batch())
    loss, _ = module.distillation(module.student_output(views), module.teacher_output(views), 4, 0.05)
    loss.backward()
    assert all(parameter.grad is None for parameter in module.teacher.parameters())
    assert all(parameter.grad is not None for parameter in module.student.head.parameters())
    assert module.student.encoder.patch_embed.proj.weight.grad.norm() > 0
