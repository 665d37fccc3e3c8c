"""Train a small VQGAN: pictures → encoder → nearest code vector → decoder → pictures.

    loss = L1 + mse_weight · squared error (+ commitment) + perceptual_weight · VGG distance
                                                          (+ adversarial_weight · fooling a patch discriminator)

The codebook is a fixed grid (`image.quantize`), or learnt: it starts from k-means over a batch, follows the encoder by
exponential moving averages, and code vectors that fall out of use are replaced by encoder outputs ("revived");
`vector-quantize-pytorch` does all three. What comes out is a plain `VQGAN` folder.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, RandomSampler
from tqdm import tqdm
from vector_quantize_pytorch import VectorQuantize

from liquid_mm.config import changed_keys, load_config, save_config
from liquid_mm.device import pick_device
from liquid_mm.errors import UserError
from liquid_mm.files import atomic_dir, atomic_file, read_json, write_json
from liquid_mm.image.dataset import ImageFolder, list_images
from liquid_mm.image.losses import PatchDiscriminator, PerceptualLoss, hinge_loss
from liquid_mm.image.measure import Report, comparison_grid, evaluate
from liquid_mm.image.quantize import FiniteScalarQuantizer, spread_latents
from liquid_mm.image.recipe import ImageTokenizerConfig
from liquid_mm.image.vqgan import ENCODER, VQGAN, fold

_SPREAD = 2.0  # a fresh encoder's latents reach a fifth of an 8·5·5·5 grid, and training did not widen them


def train_tokenizer(
    config: ImageTokenizerConfig, out: str | Path, *, resume: bool = False, progress: bool = True
) -> Report:
    """Train the tokenizer `config` describes; write `out`/tokenizer, its report and a before/after grid.

    Returns the report on the validation pictures. Interrupted runs go on with `resume`; finished ones stay as they are.

    Raises:
        UserError: no pictures, fewer than a batch, or `out` holds a run and `resume` is false or settings differ.
    """
    out = Path(out)
    state_file = out / "state.pt"
    if out.exists() and any(out.iterdir()) and not resume:
        raise UserError(f"{out} is not empty: choose another output folder, or add --resume to go on with that run.")
    if resume and (out / "report.json").exists():
        return Report(**read_json(out / "report.json"))
    if resume and (out / "recipe.yaml").exists():
        changed = [
            key for key in changed_keys(load_config(type(config), out / "recipe.yaml"), config) if key != "every"
        ]
        if changed:
            raise UserError(
                f"cannot resume {out} with other settings: {', '.join(changed)} differ from its recipe.yaml."
            )
    paths, held_out = _split(config)
    run = _Run(config, len(paths))
    if resume and state_file.exists():
        run.load(torch.load(state_file, map_location="cpu", weights_only=True))
    save_config(config, out / "recipe.yaml")
    size = (config.resolution, config.resolution)
    batches = run.batches(ImageFolder(paths, size, flip=config.flip))
    validation = DataLoader(ImageFolder(held_out, size), batch_size=config.batch_size)
    with (out / "metrics.jsonl").open("a") as log:
        bar = tqdm(initial=run.step, total=config.steps, unit="step", disable=not progress, desc="image tokenizer")
        while run.step < config.steps:
            metrics = run.train_step(next(batches))
            bar.update()
            if run.step % config.every == 0 or run.step == config.steps:
                report = evaluate(run.export(), validation)
                line = {
                    "step": run.step,
                    **{f"loss_{k}": round(float(v), 5) for k, v in metrics.items()},
                    **dataclasses.asdict(report),
                }
                log.write(json.dumps(line) + "\n")
                log.flush()
                bar.set_postfix(psnr=f"{report.psnr:.2f}", used=f"{report.codes_used:.0%}")
                with atomic_file(state_file) as part:
                    torch.save(run.state(), part)
        bar.close()
    tokenizer = run.export()
    report = evaluate(tokenizer, validation)
    with atomic_dir(out / "tokenizer", overwrite=True) as part:
        tokenizer.save(part)
    shown = held_out[:: max(1, len(held_out) // 32)][:32]
    comparison_grid(VQGAN.load(out / "tokenizer"), shown, size).save(out / "grid.png")
    write_json(out / "report.json", dataclasses.asdict(report))  # last: it marks the run as finished
    state_file.unlink(missing_ok=True)
    return report


class _Run:
    """Everything that changes while training, and how one step changes it."""

    def __init__(self, config: ImageTokenizerConfig, pictures: int) -> None:
        torch.manual_seed(config.seed)
        self.config, self.pictures, self.step = config, pictures, 0
        self.device = pick_device(None)
        model = config.model()
        self.codes: VQGAN | None = None  # says which codes to decode, where the decoder alone is trained
        if config.start is not None:
            start = _start(config)
            model.load_state_dict(start.model.state_dict())
            if config.decoder_only:
                self.codes = start.to(self.device)
                for part in (model.encoder, model.quant_conv):
                    part.requires_grad_(False)
        elif config.levels:
            spread_latents(model, _SPREAD)
        self.model = model.to(self.device, memory_format=torch.channels_last)
        self.model.quantize.requires_grad_(False)
        self.codebook = _codebook(config).to(self.device)
        weights = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(weights, lr=config.lr, betas=(0.9, config.beta2), weight_decay=0.0)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._rate)
        self.perceptual = PerceptualLoss(config.perceptual_blocks).to(self.device) if config.perceptual_weight else None
        self.discriminator = PatchDiscriminator().to(self.device)
        self.discriminator_optimizer = torch.optim.AdamW(
            self.discriminator.parameters(), lr=config.lr, betas=(0.5, 0.9)
        )

    def _rate(self, step: int) -> float:
        rise = max(1, round(self.config.warmup * self.config.steps))
        if step < rise:
            return (step + 1) / rise
        return 0.5 * (1.0 + math.cos(math.pi * (step - rise) / max(1, self.config.steps - rise)))

    def batches(self, data: ImageFolder) -> Iterator[torch.Tensor]:
        """Endless shuffled batches; epoch e is shuffled by (seed, e), so a resumed run meets the same pictures."""
        size = self.config.batch_size
        per_epoch = len(data) // size
        if per_epoch == 0:
            raise UserError(f"{len(data)} training pictures are fewer than one batch of {size}: lower batch_size.")
        while True:
            epoch, done = divmod(self.step, per_epoch)
            generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + epoch)
            order = list(RandomSampler(data, generator=generator))[done * size : per_epoch * size]
            yield from DataLoader(data, batch_size=size, sampler=order)

    def train_step(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """One optimiser step on (B, 3, H, W); returns the losses."""
        config = self.config
        # Codes in full precision, as everywhere.
        vectors = None if self.codes is None else self.codes.vectors(self.codes.encode_pixels(pixels))
        pixels = pixels.to(self.device, memory_format=torch.channels_last)
        adversarial = config.adversarial_weight > 0 and self.step >= config.adversarial_from * config.steps
        with torch.autocast(self.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            losses = {}
            latents = self.model.encode(fold(pixels, config.stem)).latents if vectors is None else vectors
            if vectors is None and self.step >= config.autoencoder * config.steps:
                # Nearest code vectors in full precision: rounding would blur which one is nearest.
                with torch.autocast(self.device.type, enabled=False):
                    latents, *_, commitment = self.codebook(latents.float())
                losses["commitment"] = commitment.sum()
            output = F.pixel_shuffle(self.model.decode(latents, force_not_quantize=True).sample, config.stem)
            losses["l1"] = F.l1_loss(output.float(), pixels)
            total = torch.stack(list(losses.values())).sum()
            if config.mse_weight:
                losses["mse"] = F.mse_loss(output.float(), pixels)
                total = total + config.mse_weight * losses["mse"]
            if self.perceptual is not None and self.step >= config.perceptual_from * config.steps:
                losses["perceptual"] = self.perceptual(output, pixels)
                total = total + config.perceptual_weight * losses["perceptual"]
            if adversarial:
                self.discriminator.requires_grad_(False)
                losses["adversarial"] = -self.discriminator(output).float().mean()
                total = total + config.adversarial_weight * losses["adversarial"]
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        if adversarial:
            self._train_discriminator(pixels, output.detach())
        self.step += 1
        return {name: loss.detach() for name, loss in losses.items()}

    def _train_discriminator(self, real: torch.Tensor, fake: torch.Tensor) -> None:
        self.discriminator.requires_grad_(True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            loss = hinge_loss(self.discriminator(real).float(), self.discriminator(fake).float())
        loss.backward()
        self.discriminator_optimizer.step()
        self.discriminator_optimizer.zero_grad(set_to_none=True)

    def export(self) -> VQGAN:
        """A copy of the model as it stands, rounded to the precision it will be saved in."""
        model = self.config.model()
        dtype = getattr(torch, self.config.save_dtype)
        weights = {name: value.detach().cpu() for name, value in self.model.state_dict().items()}
        if self.codes is None:
            weights["quantize.embedding.weight"] = self.codebook.codebook.detach().cpu()
        kept = () if self.codes is None else ENCODER  # rounded, they would make other codes
        model.load_state_dict(
            {name: value if name.startswith(kept) else value.to(dtype).float() for name, value in weights.items()}
        )
        return VQGAN(model, flat_patches=self.config.flat_patches)

    _PARTS = ("model", "codebook", "optimizer", "schedule", "discriminator", "discriminator_optimizer")

    def state(self) -> dict[str, Any]:
        """All that `load` needs to go on as if never stopped."""
        parts = {name: getattr(self, name).state_dict() for name in self._PARTS}
        codes = None if self.codes is None else self.codes.fingerprint
        return {"step": self.step, "rng": torch.get_rng_state(), "codes": codes, **parts}

    def load(self, state: dict[str, Any]) -> None:
        """Take over a stored `state`.

        Raises:
            UserError: the decoder was being trained on the codes of another tokenizer.
        """
        if self.codes is not None and state["codes"] != self.codes.fingerprint:
            raise UserError(
                f"start={self.config.start} is another tokenizer than when this run began: put it back, or begin anew."
            )
        for name in self._PARTS:
            getattr(self, name).load_state_dict(state[name])
        self.step = state["step"]
        torch.set_rng_state(state["rng"])


def _start(config: ImageTokenizerConfig) -> VQGAN:
    """The tokenizer to begin with.

    Raises:
        UserError: it is another network than the recipe describes, or would give other codes where they are to stay.
    """
    start = VQGAN.load(str(config.start))
    networks = (start.model, config.model())
    found, wanted = ({name: tuple(value.shape) for name, value in m.state_dict().items()} for m in networks)
    if found != wanted:
        raise UserError(
            f"start={config.start} is another network than this recipe describes: "
            "stem, channels, layers and codebook must be those it was trained with."
        )
    if config.decoder_only:
        # Neither the groups of the normalisation nor the size that flat colours are encoded at is in any shape.
        found, wanted = (json.loads(m.to_json_string()) for m in networks)
        different = [key for key in wanted if key[0] != "_" and found.get(key) != wanted[key]]
        different += ["flat_patches"] if start.flat_patches != config.flat_patches else []
        if different:
            raise UserError(
                f"decoder_only keeps the codes of start={config.start}, but {', '.join(different)} differ from it."
            )
    return start


def _codebook(config: ImageTokenizerConfig) -> Any:
    """Latents (B, D, H, W) → quantised latents, …, commitment loss; its `codebook` is the (codes, D) table."""
    if config.levels:
        return FiniteScalarQuantizer(config.levels, config.commitment_weight)
    return VectorQuantize(
        dim=config.code_dim,
        codebook_size=config.num_codes,
        decay=config.codebook_decay,
        commitment_weight=config.commitment_weight,
        threshold_ema_dead_code=config.revive_below,
        kmeans_init=True,
        accept_image_fmap=True,
    )


def _split(config: ImageTokenizerConfig) -> tuple[list[Path], list[Path]]:
    """Training and validation pictures; without a validation source every n-th picture is kept for it."""
    paths = list_images(config.train)
    if config.validation:
        held_out = list_images(config.validation)
        overlap = set(held_out)
        return [path for path in paths if path not in overlap], held_out
    every = max(2, round(1.0 / config.validation_share))
    return [p for i, p in enumerate(paths) if i % every], paths[::every]
