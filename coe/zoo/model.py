"""The zoo's model shapes: a dense Qwen3 for a specialist, a sparse Qwen3-MoE for the generalist."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coe.zoo.recipes import Recipe
from coe.zoo.tokenizer import END, PAD, VOCAB_SIZE

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["build_model"]


def build_model(recipe: Recipe) -> PreTrainedModel:
    """Return a freshly initialised model of a recipe's shape, in float32."""
    import torch
    from transformers import (
        GenerationConfig,
        Qwen3Config,
        Qwen3ForCausalLM,
        Qwen3MoeConfig,
        Qwen3MoeForCausalLM,
    )

    torch.manual_seed(recipe.seed)
    shape = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": recipe.hidden,
        "intermediate_size": recipe.inner,
        "num_hidden_layers": recipe.layers,
        "num_attention_heads": recipe.heads,
        "num_key_value_heads": recipe.key_heads,
        "head_dim": recipe.head_dim,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": END,
        "pad_token_id": PAD,
    }
    model: PreTrainedModel
    if recipe.experts:
        config = Qwen3MoeConfig(
            **shape,
            moe_intermediate_size=recipe.inner,
            num_experts=recipe.experts,
            num_experts_per_tok=2,
            norm_topk_prob=True,
            decoder_sparse_step=1,
            mlp_only_layers=[],
            router_aux_loss_coef=recipe.aux_loss,
        )
        model = Qwen3MoeForCausalLM(config)
        model.set_experts_implementation("eager")
    else:
        model = Qwen3ForCausalLM(Qwen3Config(**shape))
    model.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=END, pad_token_id=PAD, max_new_tokens=32
    )
    return model
