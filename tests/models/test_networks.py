import pytest
import torch

from arl_lightning.models.decoder import Decoder
from arl_lightning.models.encoder import AViT
from arl_lightning.models.heads import DINOHead
from arl_lightning.models.networks import Student, Teacher

ANATOMY = torch.tensor([1, 4])  # of 4: `other` is the second image's
MASK = torch.stack([torch.arange(16) % 4 != index % 4 for index in range(4)])


def student(head: bool = True, decoder: bool = True) -> Student:
    torch.manual_seed(0)
    encoder = AViT(
        img_size=32, patch_size=8, in_chans=1, embed_dim=24, depth=2, num_heads=2, num_classes=0, num_anatomies=4
    )
    for block in encoder.blocks:
        torch.nn.init.normal_(block.sampling.offset_pointwise.weight)
    return Student(
        encoder,
        DINOHead(24, num_prototypes=10, hidden_dim=16, bottleneck_dim=8) if head else None,
        Decoder(24, (4, 4), 64, depth=1, dim=16, num_heads=2) if decoder else None,
    ).eval()


@pytest.fixture
def views():
    draw = torch.Generator().manual_seed(0)
    return torch.randn(4, 1, 32, 32, generator=draw), torch.randn(6, 1, 16, 16, generator=draw)


def test_student_output_shapes(views):
    output = student()(*views, ANATOMY, MASK, distil_patches=True)
    assert output.cls_tokens.shape == (4, 24)
    assert output.cls_logits.shape == (4 + 6, 10)
    assert output.patch_logits.shape == (4, 4, 10)
    assert output.decoded.reconstruction.shape == (4, 16, 64)


def test_rows_are_view_by_view_and_each_gets_its_images_anatomy(views):
    """Two global and three local views of two images: row v * 2 + b is view v of image b."""
    network = student()
    output = network(*views, ANATOMY, MASK)
    for row in range(4):
        alone = network.encoder.forward_features(views[0][row, None], ANATOMY[row % 2, None], MASK[row, None])
        torch.testing.assert_close(output.cls_tokens[row], alone[0, 0])
        torch.testing.assert_close(output.cls_logits[row], network.head(alone[0, 0]))
    for row in range(6):
        alone = network.encoder.forward_features(views[1][row, None], ANATOMY[row % 2, None])
        torch.testing.assert_close(output.cls_logits[4 + row], network.head(alone[0, 0]))


def test_the_decoder_reads_the_patch_tokens_of_the_masked_pass(views):
    network = student()
    tokens = network.encoder.forward_features(views[0], ANATOMY.repeat(2), MASK)
    output = network(*views, ANATOMY, MASK, distil_full_view=True)
    torch.testing.assert_close(output.decoded.reconstruction, network.decoder(tokens[:, 1:], MASK).reconstruction)
    full = network.encoder.forward_features(views[0], ANATOMY.repeat(2))
    torch.testing.assert_close(output.cls_tokens, full[:, 0])


def test_parts_may_be_absent(views):
    without_head = student(head=False)(*views, ANATOMY, MASK)
    assert without_head.cls_logits is None
    assert without_head.patch_logits is None
    without_decoder = student(decoder=False)(views[0], None, ANATOMY, MASK)
    assert without_decoder.decoded is None
    assert without_decoder.cls_logits.shape == (4, 10)


def test_the_teacher_starts_as_the_student_and_shares_nothing_with_it(views):
    network = student(decoder=False)
    teacher = Teacher(network)
    expected = network(views[0], None, ANATOMY, None).cls_logits
    assert torch.equal(teacher(views[0], ANATOMY).cls_logits, expected)
    for parameter in network.parameters():
        parameter.data += 1
    assert torch.equal(teacher(views[0], ANATOMY).cls_logits, expected)


def test_the_teacher_never_has_a_gradient(views):
    teacher = Teacher(student())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    output = teacher(views[0].requires_grad_(), ANATOMY, torch.zeros(4, 3, dtype=torch.long))
    assert not any(tensor.requires_grad for tensor in output)


def test_patch_logits_at_the_positions_asked_for(views):
    teacher = Teacher(student())
    positions = torch.tensor([[0, 5], [15, 3], [7, 8], [2, 1]])
    output = teacher(views[0], ANATOMY, positions)
    tokens = teacher.encoder.forward_features(views[0], ANATOMY.repeat(2))
    for row in range(4):
        expected = teacher.head(torch.stack([tokens[row, 1 + position] for position in positions[row]]))
        torch.testing.assert_close(output.patch_logits[row], expected)
    assert teacher(views[0], ANATOMY).patch_logits is None


def test_follow_by_hand():
    network = student()
    teacher = Teacher(network)
    for each in teacher.parameters():
        each.fill_(1)
    for each in network.parameters():
        each.data.fill_(3)
    teacher.follow(network, momentum=0.75)  # 0.75 * 1 + 0.25 * 3
    assert all((parameter == 1.5).all() for parameter in teacher.parameters())
    teacher.follow(network, momentum=1.0)
    assert all((parameter == 1.5).all() for parameter in teacher.parameters())
    teacher.follow(network, momentum=0.0)
    assert all((parameter == 3).all() for parameter in teacher.parameters())
    assert all((parameter == 3).all() for parameter in network.parameters())


def test_follow_pairs_parameters_by_name():
    network = student()
    teacher = Teacher(network)
    for index, parameter in enumerate(network.parameters()):
        parameter.data.fill_(index)
    teacher.follow(network, momentum=0.0)
    theirs = dict(network.named_parameters())
    assert all(torch.equal(parameter, theirs[name]) for name, parameter in teacher.named_parameters())


def test_a_teacher_without_a_head_is_refused_on_use(views):
    teacher = Teacher(student(head=False))
    teacher.follow(student(head=False), 0.5)
    with pytest.raises(ValueError, match="self-distillation is off"):
        teacher(views[0], ANATOMY)
