import numpy as np
import pytest
import torch
import torch.nn.functional as F

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


def test_logits_are_in_full_precision_under_autocast():
    torch.manual_seed(0)
    head, features = LinearHead(8, 2), torch.randn(4, 8)
    torch.nn.init.normal_(head.linear.weight)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(head(features), head.linear(features).float()) is False
        logits = head(features)
    assert torch.equal(logits, head(features))


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


@pytest.mark.parametrize("present", [(0, 2), (0, 1, 3)])
def test_a_class_without_training_cases_gets_no_probability_and_the_others_keep_their_rows(present):
    from sklearn.linear_model import LogisticRegression

    draw = torch.Generator().manual_seed(0)
    labels = torch.tensor(present).repeat(20)
    features = torch.randn(len(labels), 5, generator=draw) + labels[:, None]
    train, validation = (features, labels), (features, (labels + torch.arange(len(labels)) % 2) % 4)
    head = LinearHead(5, 4)
    head.fit_statistics(features)
    strength = fit_logistic(head, train, validation, OPTIONS, 0.0, 1, 0, None)["chosen_strength"]
    standardised = ((features - head.mean) / head.scale).numpy()
    model = LogisticRegression(C=strength, max_iter=1000).fit(standardised, labels.numpy())
    expected = np.zeros((len(labels), 4))
    expected[:, present] = model.predict_proba(standardised)
    with torch.no_grad():
        assert np.allclose(head(features).double().softmax(1).numpy(), expected, atol=1e-5)


def test_training_cases_of_one_class_are_refused_with_the_way_out():
    features, labels = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), torch.ones(6, dtype=torch.int64)
    with pytest.raises(UserError, match=r"lbfgs: all training cases are of one class; raise fraction.*use sgd$"):
        fit_logistic(LinearHead(3, 2), (features, labels), (features, labels), OPTIONS, 0.0, 1, 0, 1)


def test_neighbours_vote_by_their_cosine_similarity():
    bank = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 0.0]])
    head = NeighbourHead(bank, torch.tensor([0, 1, 1]), 2, k=2, temperature=0.5)
    query = torch.tensor([[3.0, 3.0 * 3**0.5]])  # cosines 1/2, sqrt(3)/2 and -1/2
    votes = np.exp(np.array([0.5, 3**0.5 / 2]) / 0.5)
    assert np.allclose(head(query).exp().numpy(), votes / votes.sum(), atol=1e-6)


def test_more_neighbours_than_there_are_cases_are_refused():
    with pytest.raises(UserError, match="k 4: must be 1 to 3"):
        NeighbourHead(torch.eye(3), torch.tensor([0, 1, 1]), 2, k=4, temperature=1.0)


def test_neighbours_are_ranked_in_float32_under_autocast():
    draw = torch.Generator().manual_seed(0)
    bank = 1 + 0.01 * torch.randn(200, 16, generator=draw)  # cosines of 0.9999, which bfloat16 takes for 1
    labels, queries = torch.randint(0, 2, (200,), generator=draw), 1 + 0.01 * torch.randn(8, 16, generator=draw)
    head = NeighbourHead(bank, labels, 2, k=1, temperature=0.07)
    expected = [int(labels[(F.cosine_similarity(query[None].double(), bank.double())).argmax()]) for query in queries]
    with torch.autocast("cpu", torch.bfloat16):
        assert head(queries).argmax(1).tolist() == expected
        assert head(queries).dtype == torch.float32
