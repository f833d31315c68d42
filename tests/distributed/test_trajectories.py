"""Ranks that have a part of each batch train what one process trains with all of it, however weights lie on them.

Only this comparison catches weights that are not synchronised and a lambda that is each rank's own: both leave every
loss finite and falling, the second even leaves the ranks alike.
"""

import pytest
import torch
from layouts import DDP_2, DDP_4, FSDP2, HSDP, SINGLE
from scenarios import COMPARED, LOOKS_EVERY, NUM_STEPS, REFERENCES, SCENARIOS, options_of
from tiny_arl import tiny_arl, tiny_encoder

TOLERANCE = 1e-9
SHARE = "train/communication_share"  # of time, which one process does not have


def largest_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> tuple[float, str]:
    assert a.keys() == b.keys()
    return max((float((a[name] - b[name]).abs().max()), name) for name in a)


@pytest.mark.parametrize(("layout", "name"), COMPARED, ids=str)
def test_weights_and_centers_are_those_of_one_process(results, layout, name):
    (single,) = results(SINGLE)
    expected = single[REFERENCES[name]]["weights"]
    for rank in results(layout):
        assert rank[name]["global_step"] == single[REFERENCES[name]]["global_step"] == NUM_STEPS
        difference, where = largest_difference(rank[name]["weights"], expected)
        assert difference < TOLERANCE, f"{where} differs by {difference:.1e}"


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_run_moved_what_is_compared(results, name):
    (single,) = results(SINGLE)
    with tiny_encoder():
        start = tiny_arl(**options_of(name)).state_dict()
    networks = ["student.encoder", "student.decoder", "teacher.encoder", "discriminator"]
    distilled = options_of(name).get("self_distillation", {})
    networks += ["student.head", "teacher.head"] if distilled.get("enabled", True) else []
    networks += ["distillation.cls_targets.center"] if not distilled.keys() & {"enabled", "targets"} else []
    networks += ["distillation.patch_targets.center"] if name == "everything" else []
    for network in networks:
        moved = [float((value - start[n]).abs().max()) for n, value in single[name]["weights"].items() if network in n]
        assert max(moved) > 1e5 * TOLERANCE, network


@pytest.mark.parametrize(("layout", "name"), [each for each in COMPARED if each[1] != "one rank not finite"], ids=str)
def test_lambda_losses_and_norms_are_those_of_the_global_batch(results, layout, name):
    # The teacher's statistics are means over the ranks by design; accuracies and held-out losses are kept in
    # float32.
    (single,) = results(SINGLE)
    accumulated = options_of(name)["optimization"].get("accumulate_batches", 1)
    for rank in results(layout):
        pairs = list(zip(rank[name]["metrics"], single[REFERENCES[name]]["metrics"], strict=True))
        pairs = pairs[accumulated - 1 :: accumulated]
        for found, expected in pairs:
            assert found.keys() - {SHARE} == expected.keys()
            for metric, value in expected.items():
                if not metric.startswith("train/teacher/"):
                    limits = (
                        {"rel": 1e-6}
                        if metric.endswith("accuracy") or metric.startswith("val/")
                        else {"rel": TOLERANCE, "abs": TOLERANCE}
                    )
                    assert found[metric] == pytest.approx(value, **limits), metric
        assert found["train/adaptive_weight"] > 0


@pytest.mark.parametrize(("layout", "name"), COMPARED, ids=str)
def test_learning_rates_scale_with_all_ranks(results, layout, name):
    (single,) = results(SINGLE)
    for rank in results(layout):
        assert rank[name]["learning_rates"] == pytest.approx(single[REFERENCES[name]]["learning_rates"], rel=1e-12)


@pytest.mark.parametrize("layout", [SINGLE, DDP_2, FSDP2], ids=str)
def test_all_ranks_skip_what_one_rank_cannot_use(results, layout):
    for rank in results(layout):
        assert rank["one rank not finite"]["nonfinite_steps"] == 1


@pytest.mark.parametrize("layout", [SINGLE, DDP_2, FSDP2], ids=str)
def test_the_first_rank_draws_what_one_process_does(results, layout):
    expected = results(SINGLE)[0]["looked at"]["pictures"]
    assert len(expected) == NUM_STEPS // LOOKS_EVERY
    for name in {SINGLE: ["looked at"], DDP_2: ["compiled"], FSDP2: ["compiled", "weights kept"]}[layout]:
        first, *others = results(layout)
        for found, one in zip(first[name]["pictures"], expected, strict=True):
            assert float((found - one).abs().max()) < 1.5 / 255
        assert not any(rank[name]["pictures"] for rank in others)


@pytest.mark.parametrize("layout", [DDP_2, FSDP2], ids=str)
def test_blocks_are_compiled_whole_and_for_training_only(results, layout):
    # One graph each for the masked, the local and the teacher's views, and one for the decoder's block.
    for rank in results(layout):
        assert len(rank["compiled"]["graphs"]) == 4
        assert not rank["everything"]["graphs"]


def test_mixed_precision_rounds_the_weights_of_blocks_and_nothing_else(results):
    for rank in results(FSDP2):
        halves = rank["halves"]
        assert (halves["tokens"], halves["norms"]) == ([torch.float32], [torch.bfloat16])
        assert set(halves["kept in"].values()) == {torch.float32}
        for (module, kind), found in halves["travels in"].items():
            in_half = kind == "gathered" and ".blocks." in module
            assert found == (torch.bfloat16 if in_half else torch.float32), (module, kind)


def test_mixed_precision_trains_sharded_as_replicated(results):
    expected = results(DDP_2)[0]["halves"]
    moved, _ = largest_difference(expected["weights"], expected["start"])
    for rank in results(FSDP2):
        difference, where = largest_difference(rank["halves"]["weights"], expected["weights"])
        assert difference < moved / 100, f"{where} differs by {difference:.1e}"


@pytest.mark.parametrize(("sharded", "replicated"), [(FSDP2, DDP_2), (HSDP, DDP_4)], ids=str)
def test_koleo_is_the_same_however_weights_lie(results, sharded, replicated):
    expected = results(replicated)[0]["koleo"]
    for rank in results(sharded):
        difference, where = largest_difference(rank["koleo"]["weights"], expected["weights"])
        assert difference < TOLERANCE, f"{where} differs by {difference:.1e}"
        losses = [metrics["train/loss/koleo"] for metrics in rank["koleo"]["metrics"][1::2]]
        assert losses == pytest.approx([metrics["train/loss/koleo"] for metrics in expected["metrics"][1::2]], rel=1e-9)


@pytest.mark.parametrize("name", ["own lambda", "own gradients"])
def test_the_comparison_notices_what_is_silently_wrong(results, name):
    (single,) = results(SINGLE)
    for rank in results(DDP_2):
        difference, _ = largest_difference(rank[name]["weights"], single["everything"]["weights"])
        assert difference > 1e4 * TOLERANCE
