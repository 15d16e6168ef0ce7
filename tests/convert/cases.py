"""A config.json of every family, small, with what is easily ported wrong."""

SIZES = dict(
    vocab_size=101,
    hidden_size=48,
    intermediate_size=37,
    num_hidden_layers=3,
    num_attention_heads=6,
    num_key_value_heads=2,
    max_position_embeddings=64,
)
# Numbers that break ports: heads that are not width / heads and no power of two, one key-value
# head, windows shorter than the sequence, layers that the pattern of windows does not divide, and
# sequences longer than the length before RoPE was stretched.
CASES = {
    "llama": dict(
        model_type="llama", head_dim=10, num_key_value_heads=1, rms_norm_eps=1e-3, rope_theta=500.0
    ),
    "llama, tied, llama3": dict(
        model_type="llama",
        tie_word_embeddings=True,
        rope_theta=5e3,
        rope_scaling=dict(
            rope_type="llama3",
            factor=4.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=16,
        ),
    ),
    "llama, linear, old spelling": dict(
        model_type="llama", max_position_embeddings=16, rope_scaling=dict(type="linear", factor=3.0)
    ),
    "llama, linear, new spelling": dict(
        model_type="llama",
        rope_parameters=dict(rope_type="linear", factor=3.0, rope_theta=700.0),
    ),
    "llama, yarn": dict(
        model_type="llama",
        head_dim=22,
        max_position_embeddings=64,
        rope_scaling=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=16),
    ),
    "llama, yarn, all set": dict(
        model_type="llama",
        head_dim=22,
        rope_scaling=dict(
            rope_type="yarn",
            factor=4.0,
            original_max_position_embeddings=16,
            beta_fast=4.0,
            beta_slow=0.5,
            mscale=1.3,
            mscale_all_dim=0.4,
        ),
    ),
    "mistral": dict(model_type="mistral", sliding_window=5, head_dim=14),
    "mistral, no window": dict(
        model_type="mistral",
        sliding_window=None,
        hidden_size=50,
        head_dim=14,
        tie_word_embeddings=True,
    ),
    "qwen2": dict(model_type="qwen2", tie_word_embeddings=True, num_key_value_heads=1),
    "qwen2, upper windows": dict(
        model_type="qwen2",
        num_hidden_layers=5,
        use_sliding_window=True,
        sliding_window=7,
        max_window_layers=3,
        hidden_size=50,
        head_dim=6,
    ),
    "qwen3": dict(model_type="qwen3", head_dim=18, tie_word_embeddings=True),
    "qwen3, layer types": dict(
        model_type="qwen3",
        head_dim=6,
        hidden_size=50,
        num_key_value_heads=1,
        num_hidden_layers=5,
        use_sliding_window=True,
        sliding_window=3,
        layer_types=["full_attention", "sliding_attention", "sliding_attention"]
        + ["full_attention", "sliding_attention"],
    ),
    "gemma2": dict(
        model_type="gemma2",
        head_dim=10,
        query_pre_attn_scalar=7,
        sliding_window=5,
        attn_logit_softcapping=1.5,
        final_logit_softcapping=2.5,
    ),
    "gemma2, untied, no caps": dict(
        model_type="gemma2",
        num_key_value_heads=1,
        head_dim=14,
        sliding_window=3,
        attn_logit_softcapping=None,
        final_logit_softcapping=None,
        tie_word_embeddings=False,
    ),
    "gemma3": dict(
        model_type="gemma3_text",
        num_hidden_layers=8,
        head_dim=10,
        query_pre_attn_scalar=7,
        sliding_window=5,
        rope_theta=3000.0,
        rope_local_base_freq=90.0,
        rope_scaling=dict(rope_type="linear", factor=8.0),
    ),
    "gemma3, pattern of 2, new spelling": dict(
        model_type="gemma3_text",
        num_key_value_heads=1,
        head_dim=6,
        sliding_window=4,
        sliding_window_pattern=2,
        final_logit_softcapping=3.0,
        rope_parameters=dict(
            full_attention=dict(rope_type="linear", factor=2.0, rope_theta=900.0),
            sliding_attention=dict(rope_type="default", rope_theta=50.0),
        ),
    ),
    "cohere": dict(model_type="cohere", logit_scale=0.25, rope_theta=8000.0, layer_norm_eps=1e-3),
    "cohere, qk norm, untied": dict(
        model_type="cohere",
        logit_scale=0.8,
        rope_theta=300.0,
        use_qk_norm=True,
        num_key_value_heads=3,
        head_dim=14,
        hidden_size=50,
        tie_word_embeddings=False,
        rope_scaling=dict(rope_type="linear", factor=2.0),
    ),
    "cohere2": dict(
        model_type="cohere2",
        num_hidden_layers=6,
        sliding_window=5,
        rope_theta=500.0,
        logit_scale=0.5,
    ),
    "cohere2, pattern of 3, untied": dict(
        model_type="cohere2",
        num_hidden_layers=4,
        sliding_window=3,
        sliding_window_pattern=3,
        num_key_value_heads=1,
        head_dim=14,
        hidden_size=50,
        tie_word_embeddings=False,
        logit_scale=1.3,
    ),
}
