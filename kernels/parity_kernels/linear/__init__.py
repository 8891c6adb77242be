"""linear: y = x W^T, block-FP8 and bf16, fp32 accumulation."""
