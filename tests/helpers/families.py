"""A tiny random configuration of each family of models: two layers, 128 words, layers of 64 features or a multiple."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

from torch import nn
from transformers import CONFIG_MAPPING, AutoModel, PretrainedConfig

VOCAB = 128
SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "initializer_range": 0.1,
    "tie_word_embeddings": False,  # a tied random model mostly says its last token again
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
}
# A model's own dropout would make two passes differ.
DROPOUTS = {
    **dict.fromkeys(("attention_dropout", "attention_probs_dropout_prob", "attn_pdrop", "activation_dropout"), 0.0),
    **dict.fromkeys(("hidden_dropout", "hidden_dropout_prob", "residual_dropout", "resid_pdrop", "embd_pdrop"), 0.0),
    **dict.fromkeys(("dropout", "router_jitter_noise", "input_jitter_noise"), 0.0),
}
SLIDING: dict[str, Any] = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
EXPERTS = dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4)
EXPERTS |= {"num_experts_per_tok": 2, "moe_intermediate_size": 64, "shared_expert_intermediate_size": 64}
GROUPED = {**EXPERTS, "n_shared_experts": 1, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}
LATENT = {"q_lora_rank": 32, "kv_lora_rank": 32, "qk_rope_head_dim": 16, "qk_nope_head_dim": 16, "v_head_dim": 16}
LATENT = {**GROUPED, **LATENT, "num_key_value_heads": 4, "topk_method": "greedy"}
LINEAR: dict[str, Any] = {"layer_types": ["linear_attention", "full_attention"], "linear_conv_kernel_dim": 4}
LINEAR |= {"linear_num_key_heads": 2, "linear_num_value_heads": 4}
LINEAR |= {"linear_key_head_dim": 16, "linear_value_head_dim": 16}
STATE_SPACE = {"mamba_n_heads": 4, "mamba_d_head": 32, "mamba_d_ssm": 128, "mamba_n_groups": 1, "mamba_d_state": 16}
STATE_SPACE |= {"mamba_expand": 2, "mamba_chunk_size": 8, "mamba_d_conv": 4}
GRANITE = {"logits_scaling": 6.0, "residual_multiplier": 0.22, "embedding_multiplier": 12.0}
GRANITE |= {"attention_multiplier": 0.1}
PER_LAYER = {"hidden_size_per_layer_input": 64, "vocab_size_per_layer_input": VOCAB, "num_kv_shared_layers": 0}
GEMMA3 = {**SLIDING, "query_pre_attn_scalar": 16}
GEMMA3N = {**PER_LAYER, "num_hidden_layers": 4, "sliding_window": 8, "num_kv_shared_layers": 2, "laurel_rank": 8}
GEMMA3N |= {"layer_types": SLIDING["layer_types"] * 2, "intermediate_size": [128] * 4, "altup_num_inputs": 2}
GEMMA3N |= {"activation_sparsity_pattern": [0.95, 0.95, 0.0, 0.0]}
GEMMA4 = {**SLIDING, **PER_LAYER, "global_head_dim": 32}
VISION = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2}
IMAGES = {"image_size": 28, "patch_size": 14}
SMALL_GPT = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512}


@dataclass(frozen=True, kw_only=True)
class Family:
    """A model type with what its configuration needs beyond SHAPE."""

    name: str  # what people call it
    model_type: str
    settings: dict[str, Any] = field(default_factory=dict)
    text: dict[str, Any] | None = None  # of a multimodal class: its text model's, whose SHAPE it is
    unset: tuple[str, ...] = ()  # of SHAPE, what the configuration does not take

    @property
    def text_type(self) -> str:
        """The model type of its text model, which differs from its own where it is multimodal."""
        return str(self.config().get_text_config().model_type)

    def config(self) -> PretrainedConfig:
        """Its tiny configuration."""
        shape = {key: value for key, value in {**SHAPE, **DROPOUTS}.items() if key not in self.unset}
        if self.text is not None:
            text = {**shape, **self.text}
            return CONFIG_MAPPING[self.model_type](text_config=text, tie_word_embeddings=False, **self.settings)
        return CONFIG_MAPPING[self.model_type](**{**shape, **self.settings})


def _families(**settings: dict[str, Any]) -> list[Family]:
    return [Family(name=name, model_type=name, settings=values) for name, values in settings.items()]


FAMILIES = (
    *_families(
        gemma={},
        gemma2={"sliding_window": 8, "query_pre_attn_scalar": 16, "final_logit_softcapping": 2.0},
        gemma3_text=GEMMA3,
        gemma3n_text={**GEMMA3N, "final_logit_softcapping": 2.0},
        gemma4_text={**GEMMA4, "final_logit_softcapping": 2.0},
        vaultgemma={**GEMMA3, "final_logit_softcapping": 2.0},
    ),
    Family(
        name="gemma3, multimodal",
        model_type="gemma3",
        text=GEMMA3,
        settings={"vision_config": {**VISION, **IMAGES}, "mm_tokens_per_image": 4, "image_token_index": 99},
    ),
    Family(
        name="gemma4, multimodal",
        model_type="gemma4",
        text=GEMMA4,
        settings={"vision_config": {**VISION, "num_key_value_heads": 2, "head_dim": 32}, "audio_config": None},
    ),
    Family(
        name="gemma3n, multimodal",
        model_type="gemma3n",
        text=GEMMA3N,
        settings={
            "vision_config": {"hidden_size": 64, "vocab_size": 8, "vocab_offset": 112},
            "audio_config": {"hidden_size": 64, "conf_num_hidden_layers": 1, "conf_num_attention_heads": 2}
            | {"vocab_size": 8, "vocab_offset": 120, "input_feat_size": 16, "sscp_conv_channel_size": (8, 8)},
        },
    ),
    *_families(
        llama={},
        llama4_text={**EXPERTS, "intermediate_size_mlp": 128, "intermediate_size": 64},
        mistral={"sliding_window": 8},
        ministral=SLIDING,
        ministral3={},
        mixtral=EXPERTS,
        qwen2={},
        qwen2_moe=EXPERTS,
        qwen3={},
        qwen3_moe=EXPERTS,
        qwen3_next={**LINEAR, **EXPERTS},
        qwen3_5_text=LINEAR,
        phi={},
        phi3={"sliding_window": None},
        olmo={},
        olmo2={},
        olmo3=SLIDING,
        olmoe=EXPERTS,
        olmo_hybrid=LINEAR,
        glm={},
        glm4={},
        glm4_moe=GROUPED,
        granite=GRANITE,
        granitemoe={**GRANITE, **EXPERTS},
        granitemoehybrid={
            **(GRANITE | EXPERTS | STATE_SPACE),
            "shared_intermediate_size": 64,
            "layer_types": ["mamba", "attention"],
        },
        cohere={"logit_scale": 0.06},
        cohere2={**SLIDING, "logit_scale": 0.25},
        deepseek_v2=LATENT,
        deepseek_v3=LATENT,
        minicpm3={**LATENT, "dim_model_base": 32, "scale_emb": 12, "scale_depth": 1.4},
        gpt_oss={**EXPERTS, **SLIDING},
        gpt_neox={},
        gpt_bigcode=SMALL_GPT,
        starcoder2={},
        stablelm={},
        smollm3={"no_rope_layers": [1, 0]},
        ernie4_5={},
        ernie4_5_moe={**EXPERTS, "moe_num_experts": 4, "moe_k": 2, "moe_num_shared_experts": 1},
        exaone4=SLIDING,
        hunyuan_v1_dense={},
        nemotron={},
        seed_oss={},
        apertus={},
        helium={},
        bitnet={},
        diffllama={},
        opt={"ffn_dim": 128, "word_embed_proj_dim": 64},
        bloom={"n_layer": 2, "n_head": 4},
        biogpt={},
        gpt2=SMALL_GPT,
        lfm2={"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
        bamba={**STATE_SPACE, "attn_layer_indices": [1]},
        falcon_h1={**STATE_SPACE, "lm_head_multiplier": 0.5, "embedding_multiplier": 2.0},
        minimax={**EXPERTS, "layer_types": LINEAR["layer_types"], "block_size": 8},
        jamba={**EXPERTS, "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2}
        | {"expert_layer_offset": 1, "mamba_d_state": 16, "use_mamba_kernels": False, "mamba_dt_rank": 8},
        mamba2={"num_heads": 8, "head_dim": 16, "state_size": 16, "n_groups": 1, "chunk_size": 8},
        recurrent_gemma={"attention_window_size": 8, "lru_width": 64, "block_types": ["recurrent", "attention"]},
    ),
    Family(
        name="qwen3_5, multimodal",
        model_type="qwen3_5",
        text=LINEAR,
        settings={
            "vision_config": {"hidden_size": 64, "intermediate_size": 128, "depth": 1, "num_heads": 2}
            | {"out_hidden_size": 64, "deepstack_visual_indexes": []}
        },
    ),
    Family(
        name="falcon",
        model_type="falcon",
        settings={"new_decoder_architecture": True, "num_kv_heads": 2},
        unset=("head_dim",),
    ),
)


class StandInTower(nn.Module):
    """In the place of Gemma 3n's vision tower, for which transformers needs the package timm."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj = nn.Linear(64, 64)


@contextmanager
def without_timm() -> Iterator[None]:
    """Within the block a Gemma 3n is built with a stand-in for its vision tower; text never reaches it."""
    plain = AutoModel.from_config

    class Towers:
        @staticmethod
        def from_config(config: Any) -> nn.Module:
            return StandInTower() if config.model_type == "gemma3n_vision" else plain(config)

    with patch("transformers.models.gemma3n.modeling_gemma3n.AutoModel", Towers):
        yield
