"""A task of the user's own: a table of images, no code."""

from dataclasses import dataclass, replace
from pathlib import Path

from arl_lightning.data.anatomy import OTHER, AnatomyVocabulary
from arl_lightning.data.tasks.case import Finding, Listing
from arl_lightning.data.tasks.labelled_folder import labelled_listing
from arl_lightning.errors import UserError

SEGMENTATION = ("dice", "iou", "hd95")
BINARY = ("accuracy", "auroc", "sensitivity", "specificity")
MANY = ("top1", "top3", "macro_f1")
WHERE = "your own table and images"


@dataclass(frozen=True)
class Custom:
    """Classify or segment the user's own images.

    Layout:
        `table`, or a `labels.csv` in the root: `image,label[,patient][,split][,mask][,video][,frame]`, and for
        segmentation alone `image,mask[,patient][,split]`; without either, root/<class>/[<patient>/]image.png.

    Labels:
        `classes`; or those that the table or the folders name, in sorted order.

    Split:
        The table's or the folders'; else drawn by patient, or by clip or image where patients are unknown.

    Citation, licence, access, faults:
        The user's own.

    Attributes:
        root: What paths in the table start from, its own folder by default; or the folder of classes.
        table: The csv file.
        anatomy: Of all images, which conditions A-ViT: a name of the vocabulary, or `other`.
        classes: The only labels that may be there, in this order; a misspelt one is found. Without, all are taken.
        positive: Of two classes, the one whose probability AUROC, sensitivity and specificity speak of; the last one by
            default.
        structures: What the masks show, `("lesion",)`: value k of a mask is the k-th; for one, 255 is as good as 1.

    Raises:
        UserError: If the anatomy is unknown, or a class or a structure stands twice.
    """

    root: Path = Path()
    table: Path | None = None
    anatomy: str = OTHER
    classes: tuple[str, ...] = ()
    positive: str | None = None
    structures: tuple[str, ...] = ()
    name = "custom"
    where = WHERE

    def __post_init__(self) -> None:
        object.__setattr__(self, "anatomy", AnatomyVocabulary().canonical(self.anatomy))
        if len(set(self.structures)) < len(self.structures):
            raise UserError(f"structures {list(self.structures)}: must be distinct; value k of a mask is the k-th")
        if len({label.casefold() for label in self.classes}) != len(self.classes) or len(self.classes) == 1:
            raise UserError(f"classes {list(self.classes)}: name two or more that differ not in case alone, or none")

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics that fit what the table holds; those of the labels where it has both.

        Raises:
            UserError: If the table cannot be read.
        """
        found = self.listing()
        if not found.classes:
            return SEGMENTATION
        return BINARY if len(found.classes) == 2 else MANY

    def listing(self) -> Listing:
        """List the images.

        Raises:
            UserError: If the table or the root cannot be read, or holds no image, or `positive` is no class of two.
        """
        found = labelled_listing(
            self.root, self.table, self.classes or None, self.positive, WHERE, structures=self.structures
        )
        if self.structures and not found.structures:
            raise UserError(f"structures {', '.join(self.structures)}: the table has no column mask; add it")
        if self.positive is not None or len(found.classes) != 2:
            return found
        positive = found.classes[-1]
        reason = f"'{positive}' is taken as the positive class; set positive if it is '{found.classes[0]}'"
        note = Finding(self.table or self.root, "note", reason)
        return replace(found, positive=positive, findings=(*found.findings, note))
