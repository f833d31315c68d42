"""Thyroid nodules, benign or malignant."""

from dataclasses import dataclass
from pathlib import Path

from arl_lightning.data.tasks.case import Listing
from arl_lightning.data.tasks.labelled_folder import labelled_listing

CLASSES = ("benign", "malignant")
WHERE = "the paper's set is not public: ask its authors, or bring your own images"


@dataclass(frozen=True)
class Thyroid:
    """Tell malignant thyroid nodules from benign ones in B-mode images.

    Layout:
        root/{benign,malignant}/[<patient>/]image.png, below train, val and test where the split is given; or a
        `labels.csv` in the root, or the user's `table`: `image,label[,patient][,split]`.

        Nothing was released whose layout could be followed.

    Labels:
        benign, malignant (positive), without regard to case. The paper's are by biopsy, or for benign nodules by a
        follow-up of at least two years (appendix A.2).

    Split:
        The folders' or the table's; else drawn by patient, or by image where patients are unknown. The paper's set
        holds 3,428 images (1,496 benign, 1,932 malignant), 2,662 to train on and 766 to test on; it does not say
        whether a patient may be in both.

    Citation:
        Appendix A.2 of the paper.

    Licence:
        None stated.

    Access:
        Not public at the time of writing; the paper calls it proposed and names no place.

    Faults:
        None known.

    Attributes:
        root: The folder of images.
        table: The user's table, read instead of folders.
    """

    root: Path = Path()
    table: Path | None = None
    name = "thyroid"
    anatomy = "thyroid"
    where = WHERE
    metrics = ("accuracy", "auroc")

    def listing(self) -> Listing:
        """List the images.

        Raises:
            UserError: If the root or the table cannot be read, or holds no image of a class.
        """
        return labelled_listing(self.root, self.table, CLASSES, "malignant", WHERE)
