"""Opens trained runs: their networks, and how they decide.

Legend: B images, C channels, S side of the square that the network sees, K classes (of masks: background first), H and
W an image's own height and width.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import cv2
import numpy as np
import torch
from torch import Tensor

from arl_lightning.data.tasks.fit import Fit, fit_image
from arl_lightning.data.tasks.pixels import scaled_image
from arl_lightning.data.wording import count, one_line
from arl_lightning.downstream.classification import Classifier
from arl_lightning.downstream.encoders import Backbone, rebuild
from arl_lightning.downstream.heads import LinearHead, NeighbourHead
from arl_lightning.downstream.material import CROP_MARGIN, NO_ANATOMY
from arl_lightning.downstream.options import Optimization, Pooling
from arl_lightning.downstream.segmentation import Decoder, Segmenter, mask_of
from arl_lightning.downstream.training import BEST
from arl_lightning.errors import UserError
from arl_lightning.evaluation.schema import FILE, read_results
from arl_lightning.models.weights import load_weights, read_checkpoint

CHECKPOINT = Path("checkpoints") / f"{BEST}.ckpt"
TRIAL = re.compile(r"(share|seed|fold)_[\d.e-]+")  # the folders of a run with several trainings
SHARE = "share_"
SAME = ("task", "classes", "structures", "image_size", "fit")  # in all trainings of a run

Network = Classifier | Segmenter


class Cut(NamedTuple):
    """From which probability of the positive class on it is decided for, and how that was chosen."""

    threshold: float
    origin: str


@dataclass(frozen=True)
class Decision:
    """How probabilities become a class; the likeliest one where there is no cut.

    Attributes:
        image: The cut for an image, or for a frame.
        clip: For the mean over a clip's frames.
    """

    image: Cut | None = None
    clip: Cut | None = None


@dataclass(frozen=True)
class LoadedRun:
    """A run's networks on one device, in evaluation mode, and what the images for them have to be.

    Attributes:
        name: The path that the user gave.
        checkpoints: Of the networks.
        networks: One, or those of all seeds and folds, whose probabilities are averaged.
        task: The task that was trained on.
        classes: Of a classifier; empty for segmentation.
        positive: Index of the positive class, where there are two.
        structures: What masks show; empty for classification.
        anatomy: What the encoder was told.
        image_size: S.
        fit: How an image becomes the square.
        pooling: How tokens became a classifier's feature vector.
        decision: How probabilities become a class.
    """

    name: Path
    checkpoints: tuple[Path, ...]
    networks: tuple[Network, ...]
    task: str
    classes: tuple[str, ...]
    positive: int | None
    structures: tuple[str, ...]
    anatomy: str
    image_size: int
    fit: Fit
    pooling: Pooling
    decision: Decision

    @property
    def segments(self) -> bool:
        """Whether the run predicts masks."""
        return isinstance(self.networks[0], Segmenter)

    @property
    def backbone(self) -> Backbone:
        """The encoder of the first network."""
        first = self.networks[0]
        return first.network.backbone if isinstance(first, Segmenter) else first.backbone

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        tensors = [*self.networks[0].parameters(), *self.networks[0].buffers()]
        return tensors[0].device

    def square(self, image: np.ndarray) -> np.ndarray:
        """Bring an image to what the network sees, by the steps of training.

        Args:
            image: uint8 (H, W), or (H, W, 3) RGB.

        Returns:
            uint8 (C, S, S).
        """
        in_chans = self.backbone.in_chans
        scaled = scaled_image(image, round(CROP_MARGIN * self.image_size), in_chans)
        if in_chans == 3 and scaled.ndim == 2:
            scaled = cv2.cvtColor(scaled, cv2.COLOR_GRAY2RGB)
        square = fit_image(scaled, self.fit, self.image_size)
        return square[None] if square.ndim == 2 else np.ascontiguousarray(square.transpose(2, 0, 1))

    def anatomy_index(self, anatomy: str | None) -> int:
        """Return an anatomy's index in the encoder's vocabulary, that of the run's own where None.

        Raises:
            UserError: If the encoder does not know it, or is conditioned on none.
        """
        vocabulary = self.backbone.vocabulary
        if anatomy is None:
            return vocabulary.index(self.anatomy)
        if not self.backbone.is_conditioned:
            raise UserError(f"--anatomy {anatomy}: this run's encoder is not conditioned on anatomies; leave it out")
        return vocabulary.num_anatomies if anatomy == NO_ANATOMY else vocabulary.index(anatomy)

    @torch.inference_mode()
    def probabilities(self, squares: Tensor, anatomy: Tensor) -> np.ndarray:
        """Classify uint8 squares (B, C, S, S); returns (B, K) float64, of several networks the mean."""
        said = [cast(Classifier, network).probabilities(squares, anatomy) for network in self.networks]
        return torch.stack(said).mean(dim=0).cpu().numpy()

    @torch.inference_mode()
    def masks(self, squares: Tensor, anatomy: Tensor, sizes: Sequence[tuple[int, int]]) -> list[np.ndarray]:
        """Segment uint8 squares (B, C, S, S); returns a mask (H, W) of each image's size, as `Segmenter.score`."""
        said = [cast(Segmenter, network)(squares, anatomy) for network in self.networks]  # (B, K, S, S) each
        # The logarithm of a single softmax lies a constant below its logits at every pixel: it decides the same.
        mean = torch.stack([logits.softmax(dim=1) for logits in said]).mean(dim=0).clamp_min(1e-30).log()
        scores = said[0] if len(said) == 1 else mean
        return [mask_of(own, self.fit, size) for own, size in zip(scores, sizes, strict=True)]

    def notes(self) -> list[str]:
        """Say what predicts, and how it decides."""
        lines = []
        if len(self.networks) > 1:
            names = [str(each.relative_to(self.name).parent.parent) for each in self.checkpoints]
            lines.append(f"{one_line(self.name)}: mean of {count(len(names), 'training')}: {', '.join(names)}")
        if self.segments or len(self.classes) != 2:
            return lines
        cut = self.decision.image
        positive = "" if self.positive is None else self.classes[self.positive]
        if cut is None:
            return [*lines, "decision: the likelier class; the run has no results.json with a threshold"]
        lines.append(f"decision: {positive} from {cut.threshold:.3f} on ({cut.origin})")
        if self.decision.clip:
            lines.append(f"          of clips from {self.decision.clip.threshold:.3f} on ({self.decision.clip.origin})")
        return lines

    def decide(self, probabilities: np.ndarray, is_clip: bool = False) -> str:
        """Name the predicted class of (K,) probabilities."""
        cut = (self.decision.clip if is_clip else None) or self.decision.image
        if cut is None or self.positive is None:
            return self.classes[int(probabilities.argmax())]
        is_positive = probabilities[self.positive] >= cut.threshold
        return self.classes[self.positive if is_positive else 1 - self.positive]


def open_run(run: Path, device: torch.device | None = None) -> LoadedRun:
    """Open a run's folder, or one checkpoint; of several shares of the labels the largest.

    Args:
        run: The folder that `arl finetune`, `probe`, `knn` or `segment` wrote, one of its trainings, or a `.ckpt` file.
        device: The networks are moved there, to the CPU by default.

    Raises:
        UserError: If there is no checkpoint of such a run.
    """
    checkpoints = find_checkpoints(run)
    read = [_read(path) for path in checkpoints]
    first = read[0][1]
    for path, (_, described) in zip(checkpoints, read, strict=True):
        if any(described[name] != first[name] for name in SAME):
            raise UserError(f"{path}: of another task than {checkpoints[0]}; give one of the two folders")
    classes = tuple(first["classes"])
    networks = tuple(network.to(device or torch.device("cpu")).eval().requires_grad_(False) for network, _ in read)
    segments = isinstance(networks[0], Segmenter)
    return LoadedRun(
        name=run,
        checkpoints=tuple(checkpoints),
        networks=networks,
        task=first["task"],
        classes=() if segments else classes,
        positive=classes.index(first["positive"]) if len(classes) == 2 and first["positive"] in classes else None,
        structures=tuple(first["structures"]) if segments else (),
        anatomy=first["anatomy"],
        image_size=first["image_size"],
        fit=first["fit"],
        pooling=first["pooling"],
        decision=Decision() if segments else _decision([path.parent.parent for path in checkpoints]),
    )


def find_checkpoints(run: Path) -> list[Path]:
    """List the checkpoints of a run, those of all seeds and folds of its largest share of the labels.

    Raises:
        UserError: If there is none.
    """
    if run.is_file():
        return [run]
    if not run.is_dir():
        raise UserError(f"--checkpoint {one_line(run)}: no such file or folder; give a run's folder or a .ckpt file")
    if (run / CHECKPOINT).is_file():
        return [run / CHECKPOINT]
    found = sorted(run.rglob(str(CHECKPOINT)))
    trials = [path for path in found if all(map(TRIAL.fullmatch, path.relative_to(run).parts[:-2]))]
    if not trials:
        more = f"; it holds other runs, name one, such as {one_line(found[0].parent.parent)}" if found else ""
        raise UserError(f"--checkpoint {one_line(run)}: has no {CHECKPOINT}{more or '; give the folder of a run'}")
    shares = {path: _share(path.relative_to(run).parts[0]) for path in trials}
    return [path for path, share in shares.items() if share == max(shares.values())]


def _share(folder: str) -> float:
    return float(folder.removeprefix(SHARE)) if folder.startswith(SHARE) else 1.0


def _read(path: Path) -> tuple[Network, dict[str, Any]]:
    """Rebuild a checkpoint's network, and return what it says of itself."""
    checkpoint = read_checkpoint(path)
    described = checkpoint.get("arl_downstream")
    if not isinstance(described, dict) or "state_dict" not in checkpoint:
        kind = "is of `arl pretrain`" if "arl" in checkpoint else "is not of `arl finetune`, probe, knn or segment"
        raise UserError(f"{path}: {kind}, so it predicts nothing yet; give the folder of a run on a task")
    state = checkpoint["state_dict"]
    try:
        network = _segmenter(described) if "decoder" in described else _classifier(described, state)
    except KeyError as error:
        raise UserError(f"{path}: lacks '{error.args[0]}', as of another version; train it again") from error
    load_weights(network, state, path)
    return network, described


def _segmenter(described: dict[str, Any]) -> Segmenter:
    fields = described["decoder"]
    decoder = Decoder(**{**fields, "layers": fields["layers"] and tuple(fields["layers"])})
    return Segmenter(rebuild(described["encoder"]), described["structures"], None, described["fit"], decoder)


def _classifier(described: dict[str, Any], state: dict[str, Tensor]) -> Classifier:
    backbone, num_classes = rebuild(described["encoder"]), len(described["classes"])
    head: LinearHead | NeighbourHead = LinearHead(backbone.embed_dim, num_classes)
    if "head.bank" in state:
        head = NeighbourHead(state["head.bank"], state["head.labels"], num_classes, **described["neighbours"])
    return Classifier(backbone, head, described["pooling"], Optimization(), batch_size=1)


def _decision(folders: Sequence[Path]) -> Decision:
    """Read the thresholds that were chosen on validation; of several trainings the mean, where all have one."""
    results: list[dict[str, Any]] = [dict(read_results(folder)) for folder in folders if (folder / FILE).exists()]
    if len(results) < len(folders):
        return Decision()
    of_clips = [result.get("per_video") for result in results]
    clip = _cut([each["threshold"] for each in of_clips if each]) if all(of_clips) else None
    return Decision(_cut([result.get("threshold") for result in results]), clip)


def _cut(thresholds: Sequence[Any]) -> Cut | None:
    values = [np.mean(each["value"]).item() for each in thresholds if each]
    if not values or len(values) < len(thresholds) or not all(map(math.isfinite, values)):
        return None
    origin = thresholds[0]["origin"]
    return Cut(values[0], origin) if len(values) == 1 else Cut(np.mean(values).item(), "mean of the trainings' own")
