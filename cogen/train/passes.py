"""Forward passes over documents: packed end to end in one row, or one document alone as transformers runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


def autocast(model: PreTrainedModel) -> Any:
    """Multiply in bfloat16 with float32 factors if the base is bfloat16; change nothing for other bases."""
    import torch

    return torch.autocast(model.device.type, torch.bfloat16, enabled=model.dtype == torch.bfloat16)


def packed_pass(model: PreTrainedModel, tokens: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """Last hidden states `(N, d)` of one row of segments; needs segment attention; positions count from 0 in each."""
    import torch

    positions = torch.cat([torch.arange(n, device=tokens.device) for n in lengths])
    out = model.get_decoder()(
        input_ids=tokens[None], position_ids=positions[None], use_cache=False, segment_lengths=lengths
    )
    hidden: Tensor = out.last_hidden_state[0]
    return hidden


def alone_pass(model: PreTrainedModel, tokens: Tensor) -> Tensor:
    """Last hidden states `(N, d)` of one document, with the attention of transformers; nothing is passed on."""
    hidden: Tensor = model.get_decoder()(input_ids=tokens[None], use_cache=False).last_hidden_state[0]
    return hidden
