"""What trains is what is chosen, and what is chosen is what is tested: on made images, by a small transformer."""

import dataclasses
import math

import pytest
import torch
from made_set import words, write_set

from arl_lightning.downstream import frozen, protocols
from arl_lightning.downstream.classification import Classifier, balanced_weights
from arl_lightning.downstream.command import parse
from arl_lightning.downstream.encoders import PixelBackbone
from arl_lightning.downstream.heads import LinearHead
from arl_lightning.downstream.linear import fit_linear, fit_logistic
from arl_lightning.downstream.material import open_material
from arl_lightning.downstream.options import Optimization
from arl_lightning.downstream.trials import trials

FAST = ("--encoder.name", "test_vit", "--encoder.drop_path", "0.1", "--augment.enabled", "false")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("set"))


def prepared(table, protocol, *more):
    """Return the material of a recipe, and its one trial."""
    recipe = parse(protocol, words(table, table.parent / "unused", *FAST, *more))
    material = open_material(recipe, with_masks=False)
    return material, trials(material.listing.cases, recipe)[0]


def flipped(material, places):
    """Return the same material with the other label for some cases."""
    other = {"bright": "dark", "dark": "bright"}
    cases = [
        dataclasses.replace(case, label=other[case.label]) if place in places else case
        for place, case in enumerate(material.listing.cases)
    ]
    return dataclasses.replace(material, listing=dataclasses.replace(material.listing, cases=tuple(cases)), features={})


def weights_of(folder):
    return torch.load(folder / "checkpoints/best.ckpt", weights_only=True)


def is_same(state, other):
    return state.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in state.items())


@pytest.mark.parametrize(
    ("fit", "protocol", "more"),
    [
        (protocols.finetune, "finetune", ("--optimization.monitor", "loss", "--optimization.epochs", "3")),
        (protocols.finetune, "finetune", ("--optimization.monitor", "auroc", "--optimization.epochs", "3")),
        (frozen.probe, "probe", ("--optimization.monitor", "loss", "--optimization.epochs", "20")),
        (frozen.probe, "probe", ("--optimization.optimizer", "lbfgs")),
    ],
)
def test_test_labels_change_neither_the_choice_nor_the_weights(table, tmp_path, fit, protocol, more):
    material, trial = prepared(table, protocol, *more)
    first = fit(material, trial, tmp_path / "first")
    second = fit(flipped(material, trial.split.test), trial, tmp_path / "second")
    assert (first.test.labels != second.test.labels).all()
    for name in ("chosen_epoch", "chosen_strength"):
        assert first.extra.get(name) == second.extra.get(name)
    assert is_same(weights_of(tmp_path / "first")["state_dict"], weights_of(tmp_path / "second")["state_dict"])
    assert torch.equal(first.test.values, second.test.values)


def opposed(table, *more):
    """Return a fine-tuning on whose validation cases every further epoch is worse."""
    rates = ("--optimization.base_lr", "0.003", "--optimization.warmup_epochs", "0", "--optimization.scale_lr", "false")
    material, trial = prepared(table, "finetune", "--optimization.monitor", "loss", *rates, *more)
    return flipped(material, trial.split.val), trial


def test_what_is_tested_is_the_best_epoch_and_not_the_last(table, tmp_path, monkeypatch):
    material, trial = opposed(table, "--optimization.epochs", "4")
    tested, run_over = [], protocols.run_over

    def watched(module, *others):
        tested.append({name: value.clone() for name, value in module.state_dict().items()})
        return run_over(module, *others)

    monkeypatch.setattr(protocols, "run_over", watched)
    outcome = protocols.finetune(material, trial, tmp_path)
    assert outcome.extra["num_epochs"] == 4
    assert weights_of(tmp_path)["epoch"] == outcome.extra["chosen_epoch"] < 3
    assert len(tested) == 2  # validation and test
    assert all(is_same(state, weights_of(tmp_path)["state_dict"]) for state in tested)


def test_patience_ends_lightnings_training(table, tmp_path):
    material, trial = opposed(table, "--optimization.epochs", "8", "--optimization.patience", "2")
    extra = protocols.finetune(material, trial, tmp_path).extra
    assert extra["num_epochs"] == extra["chosen_epoch"] + 3 < 8


def test_gradients_are_clipped_to_their_largest_norm(table, tmp_path):
    sgd = ("--optimization.optimizer", "sgd", "--optimization.momentum", "0", "--optimization.weight_decay", "0")
    more = (*sgd, "--optimization.base_lr", "0.1", "--optimization.scale_lr", "false", "--optimization.epochs", "1")
    moved = {}
    for clip in ("0", "0.001"):
        material, trial = prepared(table, "finetune", *more, "--optimization.clip", clip)
        torch.manual_seed(trial.seed)
        protocols.pl.seed_everything(trial.seed, verbose=False)
        start = protocols.classifier(material, trial, frozen=False).state_dict()
        protocols.finetune(material, trial, tmp_path / clip)
        end = weights_of(tmp_path / clip)["state_dict"]
        moved[clip] = math.sqrt(sum(float((end[name] - value).square().sum()) for name, value in start.items()))
    steps = math.ceil(len(trial.split.train) / 8)
    assert 0 < moved["0.001"] <= 0.1 * 0.001 * steps * 1.01
    assert moved["0"] > 10 * moved["0.001"]


def test_a_probes_encoder_is_without_stochastic_depth_and_stays_as_it_was(table, tmp_path, monkeypatch):
    material, trial = prepared(table, "probe", "--encoder.drop_path", "0.5", "--augment.enabled", "true")
    step, before, compared = Classifier.training_step, {}, []

    def watched(module, batch, batch_idx):
        if not before:
            before.update({name: value.clone() for name, value in module.backbone.state_dict().items()})
        one, other = (module.features(batch["image"], batch["anatomy"]) for _ in range(2))
        compared.append(torch.equal(one, other))
        return step(module, batch, batch_idx)

    monkeypatch.setattr(Classifier, "training_step", watched)
    frozen.probe(material, trial, tmp_path)
    assert len(compared) == 2 * math.ceil(len(trial.split.train) / 8)  # all batches of two epochs
    assert all(compared)
    held = weights_of(tmp_path)["state_dict"].items()
    prefix = "backbone."
    assert is_same({name.removeprefix(prefix): each for name, each in held if name.startswith(prefix)}, before)


@pytest.mark.parametrize("is_frozen", [True, False])
def test_stochastic_depth_is_of_trained_encoders_alone(table, is_frozen):
    material, trial = prepared(table, "probe", "--encoder.drop_path", "0.5")
    module = protocols.classifier(material, trial, frozen=is_frozen).train()
    module.on_train_epoch_start()
    image = torch.randint(0, 256, (8, 1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    one, other = (module.features(image, None) for _ in range(2))
    assert torch.equal(one, other) == is_frozen


LABELS = torch.tensor([0, 0, 0, 1])


def test_balanced_weights_are_inverse_to_the_counts():
    assert balanced_weights(LABELS, 2).tolist() == pytest.approx([2 / 3, 2])


@pytest.mark.parametrize(("weights", "expected"), [(balanced_weights(LABELS, 2), 0.8132617), (None, 0.5632617)])
def test_class_weights_weigh_the_loss(weights, expected):
    head = LinearHead(64, 2)
    torch.nn.init.zeros_(head.linear.weight)
    head.linear.bias.data = torch.tensor([1.0, 0.0])  # losses log(1 + 1/e) and log(1 + e)
    module = Classifier(PixelBackbone(8, 1), head, "gap", Optimization(), 4, weights)
    module.log = lambda *_, **__: None
    image = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    loss = module.training_step({"image": image, "anatomy": LABELS, "label": LABELS, "index": LABELS}, 0)
    assert float(loss) == pytest.approx(expected, abs=1e-6)


def test_a_recipes_class_weights_reach_the_classifier(table):
    material, trial = prepared(table, "finetune", "--optimization.class_weights", "balanced")
    expected = balanced_weights(material.labels(trial.split.train), 2)
    assert torch.equal(protocols.classifier(material, trial, frozen=False).class_weights, expected)
    material, trial = prepared(table, "finetune")
    assert protocols.classifier(material, trial, frozen=False).class_weights is None


@pytest.mark.parametrize("fit", [fit_linear, fit_logistic])
@pytest.mark.parametrize(("class_weights", "share"), [("none", 0.25), ("balanced", 0.5)])
def test_class_weights_shift_what_is_said_of_features_without_information(fit, class_weights, share):
    data = (torch.zeros(4, 3), LABELS)
    options = Optimization(optimizer="sgd", epochs=200, warmup_epochs=0, class_weights=class_weights, monitor="last")
    head = LinearHead(3, 2)
    fit(head, data, data, options, 0.5, 4, 0, 1)
    with torch.no_grad():
        assert float(head(data[0]).softmax(1)[0, 1]) == pytest.approx(share, abs=0.01)
