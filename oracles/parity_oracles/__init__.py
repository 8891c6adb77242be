"""Engines we trust or compare with: HF runners, recipe emulation, dequantizers, real engines."""
