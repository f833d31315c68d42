"""Standard views of the heart."""

from dataclasses import dataclass
from pathlib import Path

from arl_lightning.data.tasks.case import Listing
from arl_lightning.data.tasks.labelled_folder import labelled_listing

WHERE = "the paper's set is not public: ask its authors, or bring your own images"


@dataclass(frozen=True)
class EchoViews:
    """Name the view of an echocardiogram.

    Layout:
        root/<view>/[<patient>/]image.png, below train, val and test where the split is given; or a `labels.csv` in the
        root, or the user's `table`: `image,view[,patient][,split]` (`label` is as good as `view`).

        Nothing was released whose layout could be followed.

    Labels:
        Those that the folders or the table name, in sorted order. Appendix A.3 of the paper speaks of 15 views and
        names 14: A2C, A3C, A4C, PLAX, PSAX_APEX, PSAX_AV, PSAX_MV, PSAX_PM, RVA4C, RVIV, RVOV, SC4V, SCLA, SSN. No
        fifteenth is made up here.

    Split:
        The folders' or the table's; else drawn by patient, or by image where patients are unknown. The paper's set
        holds 39,570 images, 33,520 to train on and 6,050 to test on.

    Citation:
        Appendix A.3 of the paper.

    Licence:
        None stated.

    Access:
        Not public at the time of writing; the paper calls it proposed and names no place.

    Faults:
        The fifteenth view is not named.

    Attributes:
        root: The folder of images.
        table: The user's table, read instead of folders.
    """

    root: Path = Path()
    table: Path | None = None
    name = "echo_views"
    anatomy = "cardiac"
    where = WHERE
    metrics = ("top1", "top3", "macro_f1")

    def listing(self) -> Listing:
        """List the images.

        Raises:
            UserError: If the root or the table cannot be read, or holds no image.
        """
        return labelled_listing(self.root, self.table, None, None, WHERE, label_column="view")
