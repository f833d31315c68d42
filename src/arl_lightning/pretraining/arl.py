"""Anatomy-aware representation learning as a LightningModule (paper section 3).

`training_step` is the algorithm: views, teacher, student, Eq. 5, then Eq. 3, 4 and 6, one backward, one update.

Legend: B images, G global views, N patches, P pixels of a patch.
"""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import ParallelStrategy
from torch import Tensor

from arl_lightning.data.anatomy import ANATOMIES, AnatomyVocabulary
from arl_lightning.data.augmentation import Augmentation
from arl_lightning.data.batch import PretrainingBatch
from arl_lightning.distributed.collectives import all_reduce_mean
from arl_lightning.distributed.fsdp2 import FSDP2Strategy
from arl_lightning.distributed.sharding import broadcast_weights
from arl_lightning.distributed.strategies import refuse_strategy
from arl_lightning.errors import UserError
from arl_lightning.models.discriminator import PatchDiscriminator
from arl_lightning.models.networks import StudentOutput, Teacher, TeacherOutput
from arl_lightning.models.patches import patchify
from arl_lightning.objectives.mim import denormalize_patches, neighbour_mean, reconstruction_loss
from arl_lightning.objectives.precision import full_precision
from arl_lightning.pretraining import options
from arl_lightning.pretraining.build import (
    build_encoder,
    build_student,
    check_masking,
    compile_blocks,
    shard_networks,
)
from arl_lightning.pretraining.checkpoint import arguments, describe, load, refuse_other_networks
from arl_lightning.pretraining.distillation import Distillation
from arl_lightning.pretraining.optimization import (
    build_optimizer,
    clip_gradients,
    drop_gradients,
    set_recipe,
    set_schedules,
)
from arl_lightning.pretraining.pixels import PixelLosses, pixel_losses
from arl_lightning.pretraining.schedules import cosine, linear_then_constant
from arl_lightning.pretraining.views import Views, draw_mask, drop_anatomy, make_views, stack_views


class ARL(pl.LightningModule):
    """Self-distillation, masked image modelling and an adversarial loss on an anatomy-aware vision transformer.

    Args:
        encoder: The anatomy-aware vision transformer.
        decoder: The masked-image decoder.
        pixels: What the network takes for zero and one.
        augmentation: Photometric augmentation of the views.
        masking: Which patches the student does not see.
        reconstruction: Masked image modelling, Eq. 3.
        adversarial: The adversarial loss and its weight, Eq. 4 and 6.
        self_distillation: Self-distillation across views, Eq. 5.
        optimization: AdamW and the schedules.
        anatomies: The conditioned anatomies; `other` comes on top as the zero vector.
        anatomy_dropout: Probability of hiding an image's anatomy from the encoder.
        batch_size: Images of a batch on one rank; with ranks and accumulation it scales the learning rates.
        compile: Compile the transformer blocks, which takes a minute or more at the start.
    """

    def __init__(
        self,
        encoder: options.Encoder = options.Encoder(),
        decoder: options.Decoder = options.Decoder(),
        pixels: options.Pixels = options.Pixels(),
        augmentation: Augmentation = Augmentation(),
        masking: options.Masking = options.Masking(),
        reconstruction: options.Reconstruction = options.Reconstruction(),
        adversarial: options.Adversarial = options.Adversarial(),
        self_distillation: options.SelfDistillation = options.SelfDistillation(),
        optimization: options.Optimization = options.Optimization(),
        anatomies: list[str] = list(ANATOMIES),  # noqa: B006 (read only; shown in --help)
        anatomy_dropout: float = 0.1,
        batch_size: int = 64,
        compile: bool = False,
    ) -> None:
        super().__init__()
        self.recipe = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        self.automatic_optimization = False
        if not reconstruction.enabled and not self_distillation.enabled:
            raise UserError("model.reconstruction.enabled and model.self_distillation.enabled: one must be true")
        if adversarial.update_every < 1 or optimization.accumulate_batches < 1:
            raise UserError("model.adversarial.update_every and model.optimization.accumulate_batches: at least 1")
        if compile and encoder.drop_path > 0:
            raise UserError(
                "model.compile: with stochastic depth each block would be compiled by itself; set"
                " model.encoder.drop_path to 0, or this to false"
            )
        self.encoder_options = encoder
        self.decoder_options = decoder
        self.pixels = pixels
        self.augmentation = augmentation
        self.masking = masking
        self.reconstruction = reconstruction
        self.adversarial = adversarial
        self.self_distillation = self_distillation
        self.optimization = optimization
        self.vocabulary = AnatomyVocabulary(anatomies)
        self.anatomy_dropout = anatomy_dropout
        self.batch_size = batch_size
        self.compiles = compile
        if self.distils_patches and not self.masks:
            raise UserError("model.self_distillation.patch_weight: needs a mask; set student_view to masked, or 0 here")
        self.nonfinite_steps = self.nonfinite_streak = 0
        self._num_accumulated = 0
        self._prepared = False

    @classmethod
    def from_checkpoint(cls, path: str | Path) -> "ARL":
        """Rebuild the module, networks and weights, from a checkpoint of `arl pretrain`.

        Raises:
            UserError: If the file is missing or is no such checkpoint.
        """
        checkpoint = load(Path(path))
        module = cls(**arguments(checkpoint["arl"]["recipe"], cls.__init__))
        module.configure_model()
        module.load_state_dict(checkpoint["state_dict"])
        return module

    def setup(self, stage: str) -> None:
        """See that the trainer's ranks share their gradients.

        Raises:
            UserError: If they would not, and each would train weights of its own.
        """
        refuse_strategy(self.trainer.strategy)

    def configure_model(self) -> None:
        """Build the networks; for a trainer compile them, and share them out, as asked for; once each."""
        if not hasattr(self, "student"):
            self._build_networks()
        if self._trainer is None or self._prepared:
            return
        self._prepared = True
        if self.compiles:  # before sharding, which is not to be compiled
            compile_blocks(self.student)
            compile_blocks(self.teacher)
        if isinstance(self.trainer.strategy, FSDP2Strategy):
            self._shard_networks(self.trainer.strategy)

    def _build_networks(self) -> None:
        encoder = build_encoder(self.encoder_options, self.vocabulary.num_anatomies)
        self.grid_size, self.patch_size = encoder.grid_size, encoder.patch_size
        if self.masks:
            check_masking(self.masking, encoder.patch_embed.num_patches)
        self.student = build_student(
            encoder, self.decoder_options if self.reconstruction.enabled else None, self.self_distillation
        )
        self.teacher = Teacher(self.student)
        self.discriminator = None
        if self.reconstruction.enabled and self.adversarial.enabled:
            self.discriminator = PatchDiscriminator(self.patch_size, encoder.in_chans, self.adversarial.width)
        self.distillation = Distillation(self.self_distillation) if self.self_distillation.enabled else None

    def _shard_networks(self, strategy: FSDP2Strategy) -> None:
        """Shard student, teacher and discriminator, each one root."""
        self.to(strategy.root_device)
        broadcast_weights(self)
        # The CPU's layer norm takes no bfloat16 weights for float32 tokens, which autocast mends on GPUs only.
        halves = self.trainer.precision == "bf16-mixed" and strategy.root_device.type != "cpu"
        half = torch.bfloat16 if halves else None
        shard_networks(self.student, self.teacher, self.discriminator, strategy, half)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Build the one optimizer; its rates are scaled by the global batch."""
        return build_optimizer(self.student, self.discriminator, self.optimization, self.global_batch_size)

    def on_train_start(self) -> None:
        """Let this run's rates and betas stand in for those of the checkpoint it goes on from."""
        set_recipe(cast(torch.optim.Optimizer, self.optimizers()), self.optimization, self.global_batch_size)

    @property
    def global_batch_size(self) -> int:
        """Images of one step, over all ranks and accumulated batches."""
        return self.batch_size * self.trainer.world_size * self.optimization.accumulate_batches

    @property
    def image_dtype(self) -> torch.dtype:
        """Type of the images, that of the weights."""
        return cast(torch.dtype, self.dtype)

    @property
    def masks(self) -> bool:
        """Whether the student sees global views through a mask."""
        return self.reconstruction.enabled or self.self_distillation.student_view == "masked"

    @property
    def distils_patches(self) -> bool:
        """Whether patch tokens are distilled too."""
        return self.self_distillation.enabled and self.self_distillation.patch_weight > 0

    @property
    def progress(self) -> float:
        """Share of the run's steps that are done."""
        return self.trainer.global_step / self.trainer.max_steps

    @property
    def adversarial_begun(self) -> bool:
        """Whether the discriminator's start has come."""
        return self.progress >= self.adversarial.start_share

    # ---------------------------------------------------------------- the step

    def training_step(self, batch: PretrainingBatch, batch_idx: int) -> dict[str, Tensor]:
        """One batch of the paper's algorithm; an update follows every `accumulate_batches` of them."""
        views = self.make_views(batch)
        teacher = self.teacher_output(views)
        student = self.student_output(views)
        distillation, metrics = self.distillation_loss(student, teacher, len(views.anatomy))  # Eq. 5
        pixels = self.pixel_losses(student, views)  # Eq. 3, 4 and 6
        self.backward_once(distillation, student, pixels)
        metrics |= {} if pixels is None else pixels.metrics
        if self._num_accumulated == self.optimization.accumulate_batches:
            self.update_networks(metrics)
        return {"cls_tokens": (student if teacher is None else teacher).cls_tokens.detach()}

    def make_views(self, batch: PretrainingBatch) -> Views:
        """Augment, normalise and mask; hide some anatomies, so that the encoder also learns to do without."""
        other = self.vocabulary.num_anatomies
        anatomy = drop_anatomy(batch["anatomy"], batch["seed"], self.anatomy_dropout, other)
        masking = self.masking if self.masks else None
        return make_views(batch, anatomy, self.augmentation, self.pixels, masking, self.grid_size, self.image_dtype)

    def teacher_output(self, views: Views) -> TeacherOutput | None:
        """Let the teacher see the full global views; None without self-distillation."""
        if self.distillation is None:
            return None
        positions = views.visible if self.distils_patches else None
        return self.teacher(views.global_images, views.anatomy, positions)

    def student_output(self, views: Views) -> StudentOutput:
        """Let the student see masked global views and whole local views."""
        full_view = self.self_distillation.student_view == "full"
        return self.student(
            views.global_images,
            views.local_images,
            views.anatomy,
            views.mask,
            full_view,
            self.distils_patches,
            views.num_visible,
        )

    def distillation_loss(
        self, student: StudentOutput, teacher: TeacherOutput | None, batch_size: int
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Eq. 5 with its options and metrics; None where self-distillation is off."""
        if self.distillation is None or teacher is None:
            return None, {}
        options = self.self_distillation
        temperature = linear_then_constant(
            self.progress,
            options.teacher_temperature_share,
            options.teacher_temperature_start,
            options.teacher_temperature,
        )
        return self.distillation(student, teacher, batch_size, temperature)

    def pixel_losses(self, student: StudentOutput, views: Views) -> PixelLosses | None:
        """Eq. 3, 4 and 6; None where masked image modelling is off."""
        if student.decoded is None or views.mask is None:
            return None
        # Its gradients end at the reconstruction: FSDP2 would take them for the step's and reduce what has accumulated.
        with self._local_gradients():
            return pixel_losses(
                student.decoded,
                views.global_images,
                views.mask,
                self.discriminator,
                self.grid_size,
                self.reconstruction,
                self.adversarial,
                self.adversarial_begun,
            )

    def backward_once(self, distillation: Tensor | None, student: StudentOutput, pixels: PixelLosses | None) -> None:
        """Send `L_SD + L_MIM + lambda * L_adv(G)` and `L_adv(D)` back in a single pass."""
        terms = [] if distillation is None else [distillation]
        if student.decoded is not None and pixels is not None:
            terms.append((full_precision(student.decoded.reconstruction) * pixels.output_gradient).sum())
            terms += [] if pixels.discriminator is None else [pixels.discriminator]
        self._num_accumulated += 1
        ends_step = self._num_accumulated == self.optimization.accumulate_batches
        # Lightning runs the step under autocast, which would round the products of float32 losses' gradients too.
        with torch.autocast(self.device.type, enabled=False), nullcontext() if ends_step else self._local_gradients():
            self.manual_backward(torch.stack(terms).sum() / self.optimization.accumulate_batches)

    def update_networks(self, metrics: dict[str, Tensor]) -> None:
        """Step generator and discriminator, then teacher and centers; skip all of it if anything is not finite."""
        self._num_accumulated = 0
        self._drop_resting_gradients()
        metrics["train/gradient_norm/student"] = self._clip(self.student)
        if self.discriminator is not None:
            metrics["train/gradient_norm/discriminator"] = self._clip(self.discriminator)
        metrics = mean_over_ranks(metrics)
        optimizer = cast(torch.optim.Optimizer, self.optimizers())
        if torch.isfinite(torch.stack(list(metrics.values()))).all():
            self.nonfinite_streak = 0
            momentum = cosine(self.progress, self.optimization.teacher_momentum, 1.0)
            set_schedules(optimizer, self.optimization, self.progress)
            optimizer.step()
            self.teacher.follow(self.student, momentum)
            if self.distillation is not None:
                self.distillation.commit()
        else:
            self.nonfinite_streak += 1
            self.nonfinite_steps += 1
            if self.distillation is not None:
                self.distillation.discard()
        optimizer.zero_grad(set_to_none=True)
        self._log_step(metrics, optimizer)

    def _clip(self, network: torch.nn.Module) -> Tensor:
        norm = clip_gradients(network.parameters(), self.optimization.clip)
        return norm.to(self.device)  # from the host, where gradients are offloaded

    def _drop_resting_gradients(self) -> None:
        """Leave out what this step must not move: the waiting discriminator, the prototypes at the beginning."""
        rests = not self.adversarial_begun or self.trainer.global_step % self.adversarial.update_every != 0
        if self.discriminator is not None and rests:
            drop_gradients(self.discriminator)
        if self.student.head is not None and self.progress < self.self_distillation.freeze_prototypes_share:
            drop_gradients(self.student.head.last)

    def _local_gradients(self) -> AbstractContextManager:
        """Hold back the exchange of gradients between the ranks."""
        strategy = self.trainer.strategy
        return strategy.block_backward_sync() if isinstance(strategy, ParallelStrategy) else nullcontext()

    def _log_step(self, metrics: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
        for group in optimizer.param_groups:
            if group["decays"]:
                metrics[f"train/learning_rate/{group['name']}"] = torch.tensor(group["lr"])
        metrics["train/nonfinite_steps"] = torch.tensor(float(self.nonfinite_steps))
        self.log_dict(metrics)

    # ---------------------------------------------------------------- held-out images, pictures, checkpoints

    def validation_step(self, batch: PretrainingBatch, batch_idx: int) -> None:
        """Compare the reconstruction of held-out images with the mean of each patch's visible neighbours."""
        if not self.reconstruction.enabled:
            return
        images = self.normalize(batch["global_views"])
        mask = draw_mask(batch["seed"], batch["global_views"].shape[1], self.grid_size, self.masking)
        patches = patchify(images, self.patch_size)
        pixels = self.reconstruct(images, batch["anatomy"], mask)
        floor = neighbour_mean(patches, mask, self.grid_size)
        losses = {
            "val/loss/reconstruction": reconstruction_loss(pixels, patches, mask),
            "val/loss/neighbour_mean": reconstruction_loss(floor, patches, mask),
        }
        self.log_dict(losses, batch_size=len(mask), sync_dist=True)

    def normalize(self, crops: Tensor) -> Tensor:
        """Bring (B, V, C, H, W) uint8 crops to what the networks take, (V * B, C, H, W), without augmentation."""
        return stack_views(crops.to(self.image_dtype) / 255, self.pixels)

    def reconstruct(self, images: Tensor, anatomy: Tensor, mask: Tensor) -> Tensor:
        """Predict the pixels of all patches, for people to look at: blocks are not compiled for these few calls.

        Args:
            images: (V * B, C, H, W), normalised.
            anatomy: (B,) vocabulary indices.
            mask: (V * B, N) bool, True where hidden.

        Returns:
            (V * B, N, P), on the scale of the images.
        """
        # Without gradients, and for each number of pictures, a block would be compiled anew, up to torch's limit.
        with torch.compiler.set_stance("force_eager"):
            decoded = self.student(images, None, anatomy, mask).decoded
        output = full_precision(decoded.reconstruction)
        if self.reconstruction.norm_pix_loss:
            return denormalize_patches(output, patchify(images, self.patch_size))
        return output

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what rebuilds the networks, and the vocabulary, as plain values."""
        checkpoint["arl"] = describe(self.recipe) | {"nonfinite_steps": self.nonfinite_steps}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on counting skipped steps.

        Raises:
            UserError: If the checkpoint's networks, pixels or anatomies are others.
        """
        refuse_other_networks(checkpoint["arl"]["recipe"], describe(self.recipe)["recipe"])
        self.nonfinite_steps = checkpoint["arl"]["nonfinite_steps"]


def mean_over_ranks(metrics: dict[str, Tensor]) -> dict[str, Tensor]:
    """Average () tensors over the ranks in one exchange; a value that is not finite on one rank is so on all."""
    means = all_reduce_mean(torch.stack([full_precision(value) for value in metrics.values()]))
    return dict(zip(metrics, means.unbind(), strict=True))
