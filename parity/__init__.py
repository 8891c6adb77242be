"""parity-lab: a numerical parity and debugging laboratory for LLM inference engines."""
