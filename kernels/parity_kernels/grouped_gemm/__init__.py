"""grouped_gemm: one weight per expert for rows sorted by expert, block-FP8 and bf16."""
