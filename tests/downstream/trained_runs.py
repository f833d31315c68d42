"""Small runs with random weights, written as a training leaves them."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from tiny_backbone import IMAGE_SIZE

from arl_lightning.data.anatomy import ANATOMIES
from arl_lightning.downstream.classification import Classifier
from arl_lightning.downstream.encoders import rebuild
from arl_lightning.downstream.heads import LinearHead
from arl_lightning.downstream.options import Optimization
from arl_lightning.downstream.segmentation import Decoder, Segmenter

AVIT: dict[str, Any] = {
    "kind": "avit",
    "name": "avit_tiny_patch8_224",
    "image_size": IMAGE_SIZE,
    "in_chans": 1,
    "conditioning": "acdt",
    "kernel": "depthwise",
    "register_tokens": 0,
    "anatomies": list(ANATOMIES),
    "mean": 0.25,
    "std": 0.23,
}
PIXELS: dict[str, Any] = {"kind": "pixels", "image_size": IMAGE_SIZE, "in_chans": 1}
DESCRIPTION: dict[str, Any] = {
    "version": "0",
    "task": "busi",
    "classes": ["benign", "malignant"],
    "positive": "malignant",
    "structures": ["lesion"],
    "anatomy": "breast",
    "pooling": "gap",
    "image_size": IMAGE_SIZE,
    "fit": "squash",
}


def make_classifier(
    folder: Path, seed: int = 0, encoder: dict[str, Any] = PIXELS, threshold: float | None = None, **changes: Any
) -> Classifier:
    """Write a classifier's run folder; with a threshold, also what `arl predict` reads of its results."""
    described = {**DESCRIPTION, "encoder": encoder, **changes}
    torch.manual_seed(seed)
    backbone = rebuild(encoder)
    head = LinearHead(backbone.embed_dim, len(described["classes"]))
    torch.nn.init.normal_(head.linear.weight, std=0.05)
    network = Classifier(backbone, head, described["pooling"], Optimization(), batch_size=1).eval()
    _save(network, described, folder)
    if threshold is not None:
        write_results(folder, threshold)
    return network


def make_segmenter(folder: Path, seed: int = 0, **changes: Any) -> Segmenter:
    """Write a segmentation's run folder."""
    decoder = Decoder(channels=8, layers=(0, 1, 2, 3))
    fields = {**dataclasses.asdict(decoder), "layers": [0, 1, 2, 3]}
    described = {**DESCRIPTION, "encoder": AVIT, "decoder": fields, "protocol": "segment", **changes}
    torch.manual_seed(seed)
    network = Segmenter(rebuild(AVIT), described["structures"], None, described["fit"], decoder).eval()
    _save(network, described, folder)
    return network


def write_results(folder: Path, threshold: float, of_clips: float | None = None) -> None:
    """Write what a run's results say of its thresholds."""
    cut = {"value": threshold, "origin": "highest Youden index on 7 validation images"}
    clips = None if of_clips is None else {"threshold": {"value": of_clips, "origin": "chosen on clips"}}
    known = ("task", "protocol", "checkpoint", "split_hash", "recipe", "n", "seed", "fold", "fraction", "seconds")
    blank = dict.fromkeys((*known, "extra"))
    content = {**blank, "format": 1, "kind": "classification", "threshold": cut, "per_video": clips}
    (folder / "results.json").write_text(json.dumps(content))


def _save(network: torch.nn.Module, described: dict[str, Any], folder: Path) -> None:
    path = folder / "checkpoints" / "best.ckpt"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": network.state_dict(), "epoch": 0, "arl_downstream": described}, path)
