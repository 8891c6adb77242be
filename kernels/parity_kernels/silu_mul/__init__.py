"""silu_mul: silu(gate) * up between the two grouped GEMMs, with or without its FP8 quantization."""
