"""Vision transformers of timm as encoders: without a classifier, their final norm on every token."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import huggingface_hub
import timm
from huggingface_hub import constants
from timm.layers import PatchEmbed
from timm.models import VisionTransformer
from torch import nn

from arl_lightning.downstream.options import Encoder
from arl_lightning.errors import UserError

HUB_SECONDS = 10  # to answer that it is there


def create(name: str, pretrained: bool, options: Encoder, image_size: int | None) -> VisionTransformer:
    """Build an encoder by timm's name.

    Args:
        name: timm's.
        pretrained: Load timm's weights, from the model hub or its cache, instead of drawing random ones.
        options: Its channels, else 1, or 3 where it is pretrained; and its stochastic depth.
        image_size: Pixels a side; its own where None.

    Raises:
        UserError: If there is no such vision transformer, the size does not fit, or the weights cannot be had.
    """
    if not timm.is_model(name.partition(".")[0]):
        raise UserError(f"encoder '{name}': timm knows no such model; `timm.list_models('*vit*')` lists them")
    sizes: dict[str, Any] = {} if image_size is None else {"img_size": image_size}
    in_chans = options.in_chans or (3 if pretrained else 1)
    arguments = {"num_classes": 0, "in_chans": in_chans, "drop_path_rate": options.drop_path, **sizes}
    try:
        network = _pretrained(name, arguments) if pretrained else timm.create_model(name, **arguments)
    except TypeError as error:  # no vision transformer: its builder does not know an argument
        raise UserError(f"encoder '{name}': not a vision transformer of timm's; choose one") from error
    except AssertionError as error:
        raise UserError(f"encoder '{name}': image_size {image_size} does not fit it ({error})") from error
    if not isinstance(network, VisionTransformer):
        raise UserError(f"encoder '{name}': not a vision transformer of timm's; choose one")
    embedding = network.patch_embed
    if not isinstance(embedding, PatchEmbed):
        raise UserError(
            f"encoder '{name}': a hybrid, whose patches come from a {type(embedding).__name__}; choose a vision"
            " transformer that cuts the image itself"
        )
    if embedding.img_size[0] % embedding.patch_size[0]:
        raise UserError(
            f"image_size {embedding.img_size[0]}: not divisible by the patch size {embedding.patch_size[0]}"
        )
    _normalise_every_token(network)
    return network


def _normalise_every_token(network: VisionTransformer) -> None:
    """Bring a norm from behind timm's pooling to the tokens, and drop an attention pooling, which would not run."""
    if isinstance(network.norm, nn.Identity):
        network.norm, network.fc_norm = network.fc_norm, nn.Identity()
    network.attn_pool = None  # type: ignore[assignment]


def _pretrained(name: str, arguments: dict[str, Any]) -> nn.Module:
    try:
        with _no_waiting_for_the_hub():
            return timm.create_model(name, pretrained=True, **arguments)
    except (AssertionError, TypeError):
        raise
    except Exception as error:  # the hub's client raises many types, without a common base
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:120]
        raise UserError(
            f"checkpoint timm:{name}: its weights could not be fetched ({reason}); connect to the model hub, or give a"
            " file through an adapter"
        ) from error


@contextmanager
def _no_waiting_for_the_hub() -> Iterator[None]:
    """Let the hub's client look into its cache alone where the hub does not answer; else it tries for a minute.

    Raises:
        ConnectionError: If it is needed and does not answer.
    """
    before, trouble = constants.HF_HUB_OFFLINE, None
    if not before:
        try:
            huggingface_hub.get_session().head(constants.ENDPOINT, timeout=HUB_SECONDS)
        except Exception as error:  # as above
            trouble = error
    constants.HF_HUB_OFFLINE = before or trouble is not None
    try:
        yield
    except Exception as error:
        if trouble is None:
            raise
        raise ConnectionError(f"no answer of the hub: {trouble}") from error
    finally:
        constants.HF_HUB_OFFLINE = before
