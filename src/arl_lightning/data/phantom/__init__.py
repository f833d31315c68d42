"""Phantoms: B-mode-like cartoons from a small simulation. For demos and tests only, without clinical realism."""

from arl_lightning.data.phantom.generator import Phantom, generate, generate_phantom
from arl_lightning.data.phantom.physics import Beam, homogeneous_envelope

__all__ = ["Beam", "Phantom", "generate", "generate_phantom", "homogeneous_envelope"]
