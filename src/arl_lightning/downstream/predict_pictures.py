"""What `arl predict` draws of each image: masks, outlines, attention, sampling locations.

H, W of an image; a mask is uint8 (H, W), 0 for background and k for structure k.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from arl_lightning.data.wording import one_line
from arl_lightning.downstream.attention import From, attention_maps, chosen_block, sampling_locations
from arl_lightning.downstream.attention_figures import write_attention, write_offsets
from arl_lightning.downstream.load import LoadedRun
from arl_lightning.downstream.overlays import draw_outline
from arl_lightning.errors import UserError
from arl_lightning.evaluation.files import replacing

MAX_DRAWN = 900  # pixels of the longer side of an image in a picture; masks keep the image's own size
DPI = 130
MAX_NAME = 50  # characters in a title
# Okabe and Ito's: told apart by the colour-blind, and against grey.
COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#d55e00", "#cc79a7", "#0072b2")


@dataclass(frozen=True)
class Pictures:
    """What is drawn, and where to.

    Attributes:
        masks, overlays, attention, offsets: Folders; None draws none.
        attention_from: Whose attention.
        block: Of the encoder, counted from 0; the last one where None.
    """

    masks: Path | None = None
    overlays: Path | None = None
    attention: Path | None = None
    offsets: Path | None = None
    attention_from: From = "class"
    block: int | None = None

    @property
    def folders(self) -> dict[str, Path]:
        """Folders by their options' names."""
        named = {name: getattr(self, name) for name in ("masks", "overlays", "attention", "offsets")}
        return {name: folder for name, folder in named.items() if folder is not None}

    def check(self, run: LoadedRun, inputs: Sequence[Path]) -> None:
        """See that the run can be drawn so, and that no picture lands among the images.

        Raises:
            UserError: If not.
        """
        for name, folder in self.folders.items():
            if name in ("masks", "overlays") and not run.segments:
                raise UserError(f"--{name}: the run classifies; only a run of `arl segment` has masks to draw")
            for own in (path if path.is_dir() else path.parent for path in inputs):
                if _lies_in(folder, own, deeply=own in inputs):
                    raise UserError(f"--{name} {one_line(folder)}: lies among the images; choose another folder")
        if self.attention or self.offsets:
            square = torch.zeros(1, run.backbone.in_chans, run.image_size, run.image_size, dtype=torch.uint8)
            self.draw_looks(run, square.to(run.device), torch.zeros(1, dtype=torch.int64, device=run.device), [])
        elif self.block is not None:
            raise UserError("--block: chooses what --attention or --offsets draws; give one of these too")

    def draw_masks(self, run: LoadedRun, image: np.ndarray, mask: np.ndarray, name: Path) -> None:
        """Write an image's mask, and the image with its outlines."""
        if self.masks:
            write_mask(mask, _png(self.masks, name, ""))
        if self.overlays:
            areas = {structure: int((mask == value).sum()) for value, structure in enumerate(run.structures, start=1)}
            write_overlay(image, mask, areas, _titled(name), _png(self.overlays, name, "_overlay"))

    @torch.inference_mode()
    def draw_looks(
        self, run: LoadedRun, squares: torch.Tensor, anatomy: torch.Tensor, images: Sequence[tuple[np.ndarray, Path]]
    ) -> None:
        """Write where the encoder looks in images, given with their names and as uint8 squares (B, C, S, S)."""
        backbone, size = run.backbone, run.image_size
        chosen_block(backbone, self.block)
        block = len(backbone.network.blocks) - 1 if self.block is None else self.block
        told = f", told '{backbone.vocabulary.name(int(anatomy[0]))}'" if backbone.is_conditioned else ""
        shown = [(_smaller(image), name) for image, name in images]
        if self.attention:
            maps = attention_maps(backbone, squares, anatomy, block, self.attention_from).cpu().numpy()
            for (image, name), own in zip(shown, maps, strict=False):
                title = f"{_titled(name)}, block {block}{told}"
                path = _png(self.attention, name, "_attention")
                write_attention(image, own, run.fit, size, self.attention_from, title, path)
        if self.offsets:
            found = sampling_locations(backbone, squares, anatomy, block)
            for (image, name), where, weight in zip(shown, *(each.cpu().numpy() for each in found), strict=False):
                title = f"{_titled(name)}: what block {block} reads for nine patches{told}"
                path = _png(self.offsets, name, "_offsets")
                write_offsets(image, where, weight, run.fit, size, backbone.patch_size, title, path)

    def notes(self, run: LoadedRun) -> list[str]:
        """Say what a picture must not be taken for."""
        lines = []
        if self.attention and self.attention_from == "class" and (run.segments or run.pooling == "gap"):
            lines.append("attention: the run predicts from patch tokens, not from the class token that is drawn;")
            lines.append("           --attention_from patches draws what they attend to")
        if (self.attention or self.offsets) and len(run.networks) > 1:
            lines.append(f"pictures: of the encoder of {one_line(run.checkpoints[0])} alone")
        return lines


def write_mask(mask: np.ndarray, path: Path) -> None:
    """Write a mask as a PNG whose values are 0 and k, shown in colours."""
    image = Image.fromarray(mask)
    colours = [COLOURS[place % len(COLOURS)] for place in range(int(mask.max(initial=1)))]
    image.putpalette([0, 0, 0, *(int(colour[at : at + 2], 16) for colour in colours for at in (1, 3, 5))])
    with replacing(path) as temporary:
        image.save(temporary, format="PNG")


def write_overlay(image: np.ndarray, mask: np.ndarray, areas: Mapping[str, int], name: str, path: Path) -> None:
    """Draw an image with the outline of each structure, and the areas in its own pixels."""
    shown = _smaller(image)
    height, width = shown.shape[:2]
    figure = Figure(figsize=(6, 6 * min(max(height / width, 0.4), 2.0) + 0.8), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shown, cmap="gray", vmin=0, vmax=255, extent=(0, width, height, 0), aspect="equal")
    axes.set(xticks=[], yticks=[])
    axes.set_title(name, fontsize="small", parse_math=False)
    lines, words = [], []
    for value, (structure, area) in enumerate(areas.items(), start=1):
        colour = COLOURS[(value - 1) % len(COLOURS)]
        if area:
            draw_outline(axes, (mask == value).astype(np.uint8), (height, width), colour, "solid")
        lines.append(Line2D([], [], color=colour, linewidth=2))
        words.append(f"{structure} {area:,} px" if area else f"{structure} not found")
    figure.legend(lines, words, loc="outside lower center", ncols=min(3, len(lines)), frameon=False, fontsize="small")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI)


def _lies_in(folder: Path, other: Path, deeply: bool) -> bool:
    folder, other = folder.resolve(), other.resolve()
    return folder.is_relative_to(other) if deeply else folder == other


def _titled(name: Path) -> str:
    """Return a picture's name for a title; the beginning of a long one is cut off."""
    said = one_line(name.name)
    return said if len(said) <= MAX_NAME else f"…{said[1 - MAX_NAME :]}"


def _png(folder: Path, name: Path, kind: str) -> Path:
    return folder / name.with_name(f"{name.name}{kind}.png")


def _smaller(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    factor = MAX_DRAWN / max(height, width)
    if factor >= 1:
        return image
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)
