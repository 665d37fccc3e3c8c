"""Chameleon's VQGAN (`vqgan.yaml` + `vqgan.ckpt`, taming-transformers names) as our `VQGAN`.

Its weights are licensed for non-commercial research, so they are never shipped: users point to their own copy. The file
is a pickle; only tensors are read from it. Every name passes through one table, and a name the table does not know, or
a weight it leaves unset, is an error.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import torch
from diffusers import VQModel
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from liquid_mm.errors import UserError
from liquid_mm.image.vqgan import VQGAN

_RESNET = r"(norm1|norm2|conv1|conv2)\.(weight|bias)"

# taming name (regular expression) → diffusers name; {up} is the level counted from the other end, since taming numbers
# the decoder's levels from fine to coarse and diffusers from coarse to fine.
_TABLE: tuple[tuple[str, str], ...] = (
    (r"(encoder|decoder)\.(conv_in|conv_out)\.(weight|bias)", r"\1.\2.\3"),
    (r"(encoder|decoder)\.norm_out\.(weight|bias)", r"\1.conv_norm_out.\2"),
    (rf"encoder\.down\.(\d+)\.block\.(\d+)\.{_RESNET}", r"encoder.down_blocks.\1.resnets.\2.\3.\4"),
    (
        r"encoder\.down\.(\d+)\.block\.(\d+)\.nin_shortcut\.(weight|bias)",
        r"encoder.down_blocks.\1.resnets.\2.conv_shortcut.\3",
    ),
    (r"encoder\.down\.(\d+)\.downsample\.conv\.(weight|bias)", r"encoder.down_blocks.\1.downsamplers.0.conv.\2"),
    (rf"decoder\.up\.(\d+)\.block\.(\d+)\.{_RESNET}", r"decoder.up_blocks.{up}.resnets.\2.\3.\4"),
    (
        r"decoder\.up\.(\d+)\.block\.(\d+)\.nin_shortcut\.(weight|bias)",
        r"decoder.up_blocks.{up}.resnets.\2.conv_shortcut.\3",
    ),
    (r"decoder\.up\.(\d+)\.upsample\.conv\.(weight|bias)", r"decoder.up_blocks.{up}.upsamplers.0.conv.\2"),
    (rf"(encoder|decoder)\.mid\.block_1\.{_RESNET}", r"\1.mid_block.resnets.0.\2.\3"),
    (rf"(encoder|decoder)\.mid\.block_2\.{_RESNET}", r"\1.mid_block.resnets.1.\2.\3"),
    (r"(encoder|decoder)\.mid\.attn_1\.norm\.(weight|bias)", r"\1.mid_block.attentions.0.group_norm.\2"),
    (r"(encoder|decoder)\.mid\.attn_1\.([qkv])\.(weight|bias)", r"\1.mid_block.attentions.0.to_\2.\3"),
    (r"(encoder|decoder)\.mid\.attn_1\.proj_out\.(weight|bias)", r"\1.mid_block.attentions.0.to_out.0.\2"),
    (r"(quant_conv|post_quant_conv)\.(weight|bias)", r"\1.\2"),
    (r"quantize\.embedding\.weight", "quantize.embedding.weight"),
)
_TRAINING_ONLY = "loss."  # the discriminator and LPIPS net that taming keeps in the same file


def load_chameleon(folder: str | Path) -> VQGAN:
    """Read Chameleon's VQGAN from a folder with `vqgan.yaml` and `vqgan.ckpt`.

    Raises:
        UserError: a file is missing or unreadable, the layout is one this table does not cover, or weights do not fit.
    """
    folder = Path(folder)
    config = _model_config(folder / "vqgan.yaml")
    state = _state_dict(folder / "vqgan.ckpt")
    with torch.device("meta"):
        model: Any = VQModel(**config)
    expected = model.state_dict()
    levels = len(config["block_out_channels"])
    renamed = {}
    for name, tensor in state.items():
        if name.startswith(_TRAINING_ONLY):
            continue
        target = rename(name, levels)
        if target not in expected:
            raise UserError(f"{folder / 'vqgan.ckpt'}: weight {name!r} has no place in the model vqgan.yaml describes.")
        shape = expected[target].shape
        # The middle attention's 1×1 convolutions are linear layers in diffusers.
        if tensor.shape not in (shape, (*shape, 1, 1)):
            raise UserError(
                f"{folder / 'vqgan.ckpt'}: weight {name!r} has the shape {tuple(tensor.shape)}, but vqgan.yaml "
                f"describes {tuple(shape)}: they belong to different models."
            )
        renamed[target] = tensor.float().reshape(shape)
    missing = sorted(set(expected) - set(renamed))
    if missing:
        raise UserError(f"{folder / 'vqgan.ckpt'} lacks {len(missing)} weights, the first is {missing[0]!r}.")
    model.load_state_dict(renamed, assign=True)
    return VQGAN(model)


def rename(name: str, levels: int) -> str:
    """The diffusers name of a taming weight in a model of `levels` resolutions.

    Raises:
        UserError: the table has no row for `name`.
    """
    for pattern, target in _TABLE:
        match = re.fullmatch(pattern, name)
        if match:
            up = levels - 1 - int(match[1]) if "{up}" in target else 0
            return match.expand(target.replace("{up}", str(up)))
    raise UserError(f"unknown weight {name!r} in the VQGAN: this is not Chameleon's layout.")


def _model_config(path: Path) -> dict[str, Any]:
    """The arguments of `VQModel` for a taming `vqgan.yaml`."""
    try:
        content: Any = OmegaConf.to_container(OmegaConf.load(path))
        params = content["model"]["params"]
        net = params["ddconfig"]
        if net["attn_resolutions"] or net["double_z"]:
            raise UserError(f"{path}: only VQGANs with attention in the middle block alone and double_z off are known.")
        channels = tuple(net["ch"] * factor for factor in net["ch_mult"])
        return {
            "in_channels": net["in_channels"],
            "out_channels": net["out_ch"],
            "down_block_types": ("DownEncoderBlock2D",) * len(channels),
            "up_block_types": ("UpDecoderBlock2D",) * len(channels),
            "block_out_channels": channels,
            "layers_per_block": net["num_res_blocks"],
            "latent_channels": net["z_channels"],
            "sample_size": net["resolution"],
            "num_vq_embeddings": params["n_embed"],
            "vq_embed_dim": params["embed_dim"],
        }
    except FileNotFoundError as error:
        raise UserError(f"there is no {path}: point to a folder with vqgan.yaml and vqgan.ckpt.") from error
    except (KeyError, TypeError, YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{path} is not a taming VQGAN configuration: {error!r}.") from error


def _state_dict(path: Path) -> dict[str, torch.Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"there is no {path}: point to a folder with vqgan.yaml and vqgan.ckpt.") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise UserError(f"{path} is damaged or holds more than tensors: {error}.") from error
    if not isinstance(content, dict) or "state_dict" not in content:
        raise UserError(f"{path} has no 'state_dict': it is not a taming VQGAN checkpoint.")
    return dict(content["state_dict"])
