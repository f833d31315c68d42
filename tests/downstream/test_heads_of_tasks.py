import numpy as np
import pytest
import torch

from arl_lightning.downstream.heads import LinearHead, NeighbourHead
from arl_lightning.downstream.linear import fit_linear, fit_logistic
from arl_lightning.downstream.options import Optimization
from arl_lightning.errors import UserError

OPTIONS = Optimization(optimizer="sgd", epochs=60, base_lr=0.5, scale_lr=False, weight_decay=0.0, warmup_epochs=0)


def blobs(num, seed, scale=1.0):
    """Two classes of which only the first channel, a thousandth of the others' size, tells."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 2, num)
    noise = draw.normal(size=(num, 7)) * 1000
    features = np.concatenate([(labels + 0.2 * draw.normal(size=num))[:, None], noise], axis=1) * scale
    return torch.tensor(features, dtype=torch.float32), torch.tensor(labels)


def accuracy(head, data):
    with torch.no_grad():
        return float((head(data[0]).argmax(1) == data[1]).float().mean())


@pytest.mark.parametrize("fit", [fit_linear, fit_logistic])
def test_standardised_features_are_told_apart_whatever_their_scale(fit):
    train, validation, test = blobs(200, 0), blobs(100, 1), blobs(200, 2)
    head = LinearHead(8, 2)
    head.fit_statistics(train[0])
    fit(head, train, validation, OPTIONS, 0.5, 32, 0, 1)
    assert accuracy(head, test) > 0.97


def test_statistics_are_those_of_the_training_features():
    head = LinearHead(2, 2)
    head.fit_statistics(torch.tensor([[1.0, 0.0], [3.0, 0.0]]))
    assert head.mean.tolist() == [2.0, 0.0]
    assert head.scale.tolist() == [1.0, pytest.approx(1e-6)]


def test_a_fit_repeats_under_its_seed():
    weights = []
    for seed in (0, 0, 1):
        torch.manual_seed(5)
        head = LinearHead(8, 2)
        fit_linear(head, blobs(64, 0), blobs(64, 1), OPTIONS, 0.1, 16, seed, 1)
        weights.append(head.linear.weight.detach().clone())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_the_kept_epoch_is_the_one_that_did_best_on_validation():
    train, validation = blobs(64, 0), blobs(64, 1)
    opposite = (validation[0], 1 - validation[1])  # on which every further epoch is worse
    head = LinearHead(8, 2)
    head.fit_statistics(train[0])
    found = fit_linear(head, train, opposite, Optimization(epochs=20, monitor="loss", warmup_epochs=0), 0.1, 16, 0, 1)
    assert found["chosen_epoch"] == 0
    last = fit_linear(head, train, opposite, Optimization(epochs=20, monitor="last", warmup_epochs=0), 0.1, 16, 0, 1)
    assert last["chosen_epoch"] == 19


def test_patience_ends_a_fit():
    train, validation = blobs(64, 0), blobs(64, 1)
    opposite = (validation[0], 1 - validation[1])
    options = Optimization(epochs=50, monitor="loss", patience=3, warmup_epochs=0)
    head = LinearHead(8, 2)
    head.fit_statistics(train[0])
    assert fit_linear(head, train, opposite, options, 0.1, 16, 0, 1)["num_epochs"] == 4


def test_the_logistic_head_gives_scikit_learns_probabilities():
    from sklearn.linear_model import LogisticRegression

    train, validation = blobs(80, 0, scale=1e-3), blobs(80, 1, scale=1e-3)
    head = LinearHead(8, 2)
    head.fit_statistics(train[0])
    strength = fit_logistic(head, train, validation, OPTIONS, 0.0, 1, 0, 1)["chosen_strength"]
    standardised = ((train[0] - head.mean) / head.scale).numpy()
    model = LogisticRegression(C=strength, max_iter=1000).fit(standardised, train[1].numpy())
    with torch.no_grad():
        own = head(train[0]).double().softmax(1).numpy()
    assert np.allclose(own, model.predict_proba(standardised), atol=1e-5)


def test_neighbours_vote_by_their_cosine_similarity():
    bank = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 0.0]])
    head = NeighbourHead(bank, torch.tensor([0, 1, 1]), 2, k=2, temperature=0.5)
    query = torch.tensor([[3.0, 3.0 * 3**0.5]])  # cosines 1/2, sqrt(3)/2 and -1/2
    votes = np.exp(np.array([0.5, 3**0.5 / 2]) / 0.5)
    assert np.allclose(head(query).exp().numpy(), votes / votes.sum(), atol=1e-6)


def test_more_neighbours_than_there_are_cases_are_refused():
    with pytest.raises(UserError, match="k 4: must be 1 to 3"):
        NeighbourHead(torch.eye(3), torch.tensor([0, 1, 1]), 2, k=4, temperature=1.0)
