"""Have the gate read a text and choose who answers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from cogen.routing.folder import RoutedModel
from cogen.routing.gate import Choice, likeliest
from cogen.train.lora import detached
from cogen.train.text_states import mean_state

if TYPE_CHECKING:
    from cogen.base import Base


def choose(base: Base, routed: RoutedModel, tokens: Sequence[int], without: Collection[str] = ()) -> Choice:
    """Who answers a text: an expert, or `common`.

    The gate reads the first tokens with the base alone; adapters that are attached now are switched off meanwhile.

    Args:
        tokens: ids of the prompt, after BOS or EOS (`Base.start_id`).
        without: experts that may not answer.
    Raises:
        ConfigError: no such expert, or none would be left.
        FingerprintMismatch: the model is of another base.
    """
    if routed.manifest.fingerprint is not None:
        base.info.fingerprint.require(routed.manifest.fingerprint, "the routed model")
    gate = (routed.without(without) if without else routed).gate
    with detached(base.model):
        state, num_tokens = mean_state(base, tokens)
    return likeliest(gate.chances(state, num_tokens))
