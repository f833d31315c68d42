"""Batches hold each case as often as they should, the same whatever loads them."""

import time
from pathlib import Path

import cv2
import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from made_task import listing_of, write_cases

from arl_lightning.data.tasks.augment import Augment
from arl_lightning.data.tasks.case import Case, Listing
from arl_lightning.data.tasks.datamodule import Loading, TaskDataModule, TimedLoader
from arl_lightning.data.tasks.images import CaseImages, Decoded
from arl_lightning.data.tasks.sampling import Draw, RankBatches, TrainSampler
from arl_lightning.data.tasks.splits import Split
from arl_lightning.errors import UserError


def made_listing(num: int, label: str | None = None) -> Listing:
    labels = [label or ("benign", "malignant")[place % 2] for place in range(num)]
    cases = [Case(f"{place:04}", Path(f"{place}.png"), each) for place, each in enumerate(labels)]
    return Listing(tuple(cases), ("benign", "malignant"), "malignant", ("lesion",))


def made_images(listing: Listing, height: int = 40, width: int = 50, in_chans: int = 1) -> CaseImages:
    """In memory; image i is i in its left half and 255 in its right, its mask 1 in the right."""
    kept, sizes = {}, {}
    for place in range(len(listing.cases)):
        image, mask = np.full((height, width), place % 256, np.uint8), np.zeros((height, width), np.uint8)
        image[:, width // 2 :], mask[:, width // 2 :] = 255, 1
        kept[place], sizes[place] = Decoded(image, mask, None), (height, width)
    return CaseImages(listing, 64, in_chans, sizes, kept)


def datamodule(
    num: int = 40,
    in_chans: int = 1,
    seed: int = 0,
    augment: Augment | None = None,
    with_masks: bool = False,
    **loading: object,
) -> TaskDataModule:
    listing = made_listing(num)
    split = Split(tuple(range(0, num - 12)), tuple(range(num - 12, num - 7)), tuple(range(num - 7, num)))
    settings = Loading(**{"image_size": 16, "batch_size": 8} | loading)  # type: ignore[arg-type]
    images = made_images(listing, in_chans=in_chans)
    return TaskDataModule(images, listing, split, 3, settings, augment or Augment(), with_masks, seed)


def batches(loader: TimedLoader, epoch: int | None = None) -> list[dict[str, torch.Tensor]]:
    if epoch is not None:
        loader.batch_sampler.sampler.set_epoch(epoch)  # type: ignore[union-attr]
    return list(loader)  # type: ignore[arg-type]


def indexes(loader: TimedLoader, epoch: int | None = None) -> list[int]:
    return [place for batch in batches(loader, epoch) for place in batch["index"].tolist()]


def test_a_batch_has_its_fields_with_their_shapes_and_types() -> None:
    for in_chans in (1, 3):
        module = datamodule(in_chans=in_chans, with_masks=True)
        for loader in (module.train_dataloader(), module.val_dataloader()):
            batch = batches(loader)[0]
            num = len(batch["index"])
            assert {name: (tuple(value.shape), value.dtype) for name, value in batch.items()} == {
                "image": ((num, in_chans, 16, 16), torch.uint8),
                "anatomy": ((num,), torch.int64),
                "label": ((num,), torch.int64),
                "index": ((num,), torch.int64),
                "mask": ((num, 16, 16), torch.int64),
            }
            assert batch["anatomy"].tolist() == [3] * num
    assert "mask" not in batches(datamodule().val_dataloader())[0]


def test_images_labels_and_masks_belong_to_their_index() -> None:
    module = datamodule(with_masks=True)
    for loader in (module.test_dataloader(), module.train_dataloader()):
        for batch in batches(loader):
            for image, mask, label, place in zip(
                batch["image"], batch["mask"], batch["label"].tolist(), batch["index"].tolist(), strict=True
            ):
                assert label == place % 2
                assert image.min() == place
                assert image[0][mask == 1].min() > image[0][mask == 0].float().mean()


def test_a_case_without_a_class_has_the_label_minus_one() -> None:
    listing = made_listing(10, label="unknown")
    module = TaskDataModule(made_images(listing), listing, Split((0,), (1,), (2,)), 0, Loading(16), Augment(), False, 0)
    assert batches(module.test_dataloader())[0]["label"].tolist() == [-1]


def test_each_part_is_seen_once_and_in_order_outside_training() -> None:
    module = datamodule()
    assert indexes(module.val_dataloader()) == list(module.split.val)
    assert indexes(module.test_dataloader()) == list(module.split.test)
    assert indexes(module.predict_dataloader()) == list(range(40))


def test_an_epoch_trains_on_each_case_once_in_an_order_of_its_own() -> None:
    loader = datamodule(batch_size=4).train_dataloader()
    first, second = indexes(loader, 0), indexes(loader, 1)
    assert sorted(first) == sorted(second) == list(range(28))
    assert first != second
    assert first == indexes(loader, 0)
    assert first != indexes(datamodule(batch_size=4, seed=1).train_dataloader(), 0)


def test_only_a_last_batch_of_one_is_dropped() -> None:
    assert [len(batch["index"]) for batch in datamodule(batch_size=8).train_dataloader()] == [8, 8, 8, 4]  # of 28
    assert [len(batch["index"]) for batch in datamodule(batch_size=9).train_dataloader()] == [9, 9, 9]
    assert [len(batch["index"]) for batch in datamodule(batch_size=64).train_dataloader()] == [28]
    assert len(datamodule(batch_size=28).train_dataloader()) == 1


def test_the_pixels_depend_on_seed_and_epoch_and_not_on_workers() -> None:
    augment = Augment(rotate=10, ultrasound=0.5)
    here = datamodule(augment=augment).train_dataloader()
    workers = datamodule(augment=augment, num_workers=2).train_dataloader()
    for epoch in (0, 3):
        for one, other in zip(batches(here, epoch), batches(workers, epoch), strict=True):
            assert torch.equal(one["index"], other["index"])
            assert torch.equal(one["image"], other["image"])
    seen = {}
    for epoch in (0, 1):
        seen[epoch] = {
            place: image
            for batch in batches(here, epoch)
            for place, image in zip(batch["index"].tolist(), batch["image"], strict=True)
        }
    both = seen[0].keys() & seen[1].keys()
    assert sum(torch.equal(seen[0][place], seen[1][place]) for place in both) < len(both) / 4


def test_workers_start_while_this_process_has_idle_threads_of_opencv() -> None:
    before = cv2.getNumThreads()
    cv2.setNumThreads(2)
    try:
        cv2.GaussianBlur(np.zeros((2000, 2000), np.uint8), (9, 9), 2)
        time.sleep(0.1)  # by then they wait, and do not spin
        loader = datamodule(num_workers=1).val_dataloader()
        loader.loader.timeout = 20
        assert len(batches(loader)) == 1
    finally:
        cv2.setNumThreads(before)


def test_a_balanced_epoch_draws_all_classes_equally_often_and_a_class_in_rounds() -> None:
    places, classes = list(range(100, 130)), [0] * 24 + [1] * 4 + [2] * 2
    sampler = TrainSampler(places, classes, seed=5)
    drawn = [draw.place for draw in sampler]
    of_class = [[place for place in drawn if classes[place - 100] == each] for each in range(3)]
    assert [len(each) for each in of_class] == [10, 10, 10]
    assert len(set(of_class[0])) == 10  # none twice before all were seen
    assert sorted(of_class[1].count(place) for place in set(of_class[1])) == [2, 2, 3, 3]
    assert sorted(of_class[2].count(place) for place in set(of_class[2])) == [5, 5]
    repeats = [(draw.place, draw.repeat) for draw in sampler]
    assert len(set(repeats)) == 30  # each repeat is augmented in its own way
    sampler.set_epoch(1)
    assert [draw.place for draw in sampler] != drawn


def test_balance_is_by_the_training_labels() -> None:
    listing = Listing(
        tuple(Case(f"{place:02}", Path("x"), "malignant" if place < 4 else "benign") for place in range(40)),
        ("benign", "malignant"),
    )
    split = Split(tuple(range(32)), (32,), (33,))
    for balance, expected in (("none", 4), ("sampler", 16)):
        loading = Loading(16, batch_size=32, balance=balance)  # type: ignore[arg-type]
        module = TaskDataModule(made_images(listing), listing, split, 0, loading, Augment(), False, 0)
        (batch,) = batches(module.train_dataloader())
        assert int(batch["label"].sum()) == expected


def test_a_case_drawn_again_in_an_epoch_looks_different() -> None:
    dataset = datamodule().train_dataloader().loader.dataset
    first, again = dataset[Draw(4, epoch=2)]["image"], dataset[Draw(4, epoch=2, repeat=1)]["image"]
    np.testing.assert_array_equal(first, dataset[Draw(4, epoch=2)]["image"])
    assert not np.array_equal(first, again)


@pytest.mark.parametrize("classes", [None, [0] * 8 + [1] * 3])
def test_ranks_share_one_training_order_and_get_equally_many(classes: list[int] | None) -> None:
    whole = list(TrainSampler(range(11), classes, seed=1))
    shares = [list(TrainSampler(range(11), classes, seed=1, rank=rank, world_size=4)) for rank in range(4)]
    assert {len(share) for share in shares} == {3}
    dealt = [shares[number % 4][number // 4] for number in range(12)]
    assert dealt[:11] == whole
    assert dealt[11].place == whole[0].place
    assert dealt[11].repeat == whole[0].repeat + [draw.place for draw in whole].count(whole[0].place)


@pytest.mark.parametrize("num", [1, 2, 7, 8, 9, 16, 17, 33, 64])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_ranks_evaluate_every_case_once_in_as_many_batches(num: int, world_size: int) -> None:
    ranks = [RankBatches(range(num), 4, rank, world_size) for rank in range(world_size)]
    dealt = [[[draw.place for draw in batch] for batch in rank] for rank in ranks]
    assert len({len(rank) for rank in dealt}) == 1
    assert all(1 <= len(batch) <= 4 for rank in dealt for batch in rank)
    seen = [place for rank in dealt for batch in rank for place in batch]
    assert sorted(set(seen)) == list(range(num))
    assert len(seen) == max(num, world_size)  # a rank repeats a case only where there are fewer cases than ranks


def test_single_image_batches_are_as_many_on_every_rank() -> None:
    dealt = [[batch[0].place for batch in RankBatches(range(5), 1, rank, 2)] for rank in range(2)]
    assert dealt == [[0, 2, 4], [1, 3, 3]]


def test_lightning_tells_the_sampler_the_epoch_and_leaves_it_in_place() -> None:
    class Watching(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))
            self.orders: list[list[int]] = [[]]

        def training_step(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
            self.orders[-1] += batch["index"].tolist()
            return self.weight

        def on_train_epoch_end(self) -> None:
            self.orders.append([])

        def validation_step(self, batch: dict[str, torch.Tensor]) -> None:
            assert batch["index"].tolist()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.1)

    module, watching = datamodule(batch_size=4), Watching()
    trainer = pl.Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(watching, datamodule=module)
    sampler = TrainSampler(module.split.train)
    expected = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        expected.append([draw.place for draw in sampler])
    assert watching.orders[:3] == expected


def test_the_time_spent_waiting_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    loader = datamodule().test_dataloader()
    dataset = loader.loader.dataset
    now, read = [0.0], dataset.transform  # type: ignore[attr-defined]

    def slow(*given: object) -> object:
        now[0] += 1
        return read(*given)

    monkeypatch.setattr(dataset, "transform", slow)
    monkeypatch.setattr("arl_lightning.data.tasks.datamodule.time.perf_counter", lambda: now[0])
    for _ in range(2):
        for _ in loader:
            now[0] += 100  # the network's time does not count
    assert loader.seconds_waited == 2 * 7  # images


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("batch_size", 0),
        ("num_workers", -1),
        ("image_size", 0),
        ("keep_gb", float("nan")),
        ("fit", "bend"),
        ("balance", "all"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_by_its_key(key: str, value: object) -> None:
    with pytest.raises(UserError, match=rf"^loading\.{key} "):
        Loading(**{key: value})  # type: ignore[arg-type]


def test_an_epoch_of_cached_images_takes_under_a_second() -> None:
    listing = made_listing(450)
    split = Split(tuple(range(448)), (448,), (449,))
    images = made_images(listing, 150, 190)
    module = TaskDataModule(images, listing, split, 0, Loading(112), Augment(), False, 0)
    loader = module.train_dataloader()
    next(iter(loader))
    start = time.process_time()  # of this process alone, whatever else the machine does
    assert sum(len(batch["index"]) for batch in loader) == 448
    assert time.process_time() - start < 1


def test_files_become_batches(tmp_path: Path) -> None:
    from arl_lightning.data.tasks.images import prepare

    listing = listing_of(write_cases(tmp_path, 12))
    images, _ = prepare(listing, 32, 3, False, show_progress=False)
    split = Split(tuple(range(8)), (8, 9), (10, 11))
    module = TaskDataModule(images, listing, split, 1, Loading(24, batch_size=4), Augment(), False, 0)
    assert [tuple(batch["image"].shape) for batch in module.train_dataloader()] == [(4, 3, 24, 24)] * 2
