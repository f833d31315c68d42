import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from arl_lightning.data.shards.sample import Rejected, Sample
from arl_lightning.data.sources.hc18 import Hc18
from arl_lightning.errors import UserError

TRAINING_TABLE = "training_set_pixel_size_and_HC.csv"


@pytest.fixture
def image(speckle) -> np.ndarray:
    return speckle(54, 80)


@pytest.fixture
def root(tmp_path, image) -> Path:
    """Examination 010 of the training part with two images, 012 with its third, and 010 of the test part."""
    training = {"010_HC.png": 0.0691, "010_2HC.png": 0.07, "012_3HC.png": 0.08}
    for part in ("training_set", "test_set"):
        (tmp_path / part).mkdir()
    for filename in training:
        Image.fromarray(image).save(tmp_path / "training_set" / filename)
        annotation = filename.replace(".png", "_Annotation.png")
        Image.fromarray(image // 200 * 255).save(tmp_path / "training_set" / annotation)
    Image.fromarray(image).save(tmp_path / "test_set/010_HC.png")
    rows = "".join(f"{filename},{size},44.3\n" for filename, size in training.items())
    (tmp_path / TRAINING_TABLE).write_text(f"filename,pixel size(mm),head circumference (mm)\n{rows}")
    (tmp_path / "test_set_pixel_size.csv").write_text("filename,pixel size(mm)\n010_HC.png,0.1\n")
    return tmp_path


def read_all(source: Hc18) -> tuple[list[Sample], list[Rejected]]:
    results = [result for unit in source.units() for result in source.read(unit)]
    rejected = [result for result in results if isinstance(result, Rejected)]
    return [result for result in results if isinstance(result, Sample)], rejected


def test_images_of_one_examination_share_the_patient_and_parts_do_not(root, image):
    samples, rejected = read_all(Hc18(root))
    assert not rejected
    assert [(sample.name, sample.patient, sample.spacing_mm) for sample in samples] == [
        ("test_set/010_HC.png", "test_set/010", (0.1, 0.1)),
        ("training_set/010_2HC.png", "training_set/010", (0.07, 0.07)),
        ("training_set/010_HC.png", "training_set/010", (0.0691, 0.0691)),
        ("training_set/012_3HC.png", "training_set/012", (0.08, 0.08)),
    ]
    assert {(sample.anatomy, sample.source, sample.video) for sample in samples} == {("other", "hc18", None)}
    np.testing.assert_array_equal(samples[0].image, image)


def test_damaged_and_missing_images_are_rejected_once_each_and_the_rest_is_read(root):
    cut = root / "training_set/010_HC.png"
    cut.write_bytes(cut.read_bytes()[:1000])
    missing = root / "training_set/010_2HC.png"
    missing.unlink()
    samples, rejected = read_all(Hc18(root))
    assert [one.path for one in rejected] == [missing, cut]
    assert rejected[0].reason == "No such file or directory"
    assert [sample.name for sample in samples] == ["test_set/010_HC.png", "training_set/012_3HC.png"]


def test_an_image_without_a_usable_size_has_no_spacing(root):
    header = "filename,pixel size(mm),head circumference (mm)\n"
    (root / TRAINING_TABLE).write_text(f"{header}010_HC.png,unknown,44.3\n010_2HC.png,0,44.3\n")
    samples, rejected = read_all(Hc18(root, parts=("training_set",)))
    assert not rejected
    assert [sample.spacing_mm for sample in samples] == [None, None, None]


def test_errors_name_what_is_missing_and_where_to_ask(root):
    (root / TRAINING_TABLE).write_text("filename,pixels\n")
    with pytest.raises(UserError, match=r"HC.csv: has no column 'pixel size\(mm\)'"):
        Hc18(root).units()
    (root / TRAINING_TABLE).unlink()
    with pytest.raises(UserError, match=r"training_set_pixel_size_and_HC.csv: missing.*Zenodo"):
        Hc18(root).units()
    with pytest.raises(UserError, match=r"training_set: missing.*Zenodo"):
        Hc18(root / "test_set").units()
    with pytest.raises(UserError, match="parts: 'train'"):
        Hc18(root, parts=("train",)).units()


def test_the_source_travels_to_other_processes(root):
    source = Hc18(root, parts=("test_set",))
    twin = pickle.loads(pickle.dumps(source))  # noqa: S301
    assert twin == source
    assert twin.units() == source.units()


def test_the_real_images_are_read_with_their_sizes(ultrasound_data):
    folder = ultrasound_data / "hc18"
    samples, rejected = read_all(Hc18(folder, parts=("training_set",)))
    assert not rejected
    assert len(samples) == 50  # beside as many annotations
    by_name = {sample.name: sample for sample in samples}
    first = by_name["training_set/000_HC.png"]
    assert (first.image.shape, first.patient) == ((540, 800), "training_set/000")
    assert first.spacing_mm == (0.069135804, 0.069135804)
    np.testing.assert_array_equal(first.image, np.asarray(Image.open(folder / "training_set/000_HC.png")))
    both = [by_name[f"training_set/014_{number}HC.png"] for number in (2, 3)]
    assert {sample.patient for sample in both} == {"training_set/014"}
    # The published range of pixel sizes, in mm.
    assert all(0.052 <= sample.spacing_mm[0] <= 0.326 for sample in samples)
