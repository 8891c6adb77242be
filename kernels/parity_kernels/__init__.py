"""The engine under test that ships with the laboratory: Triton and CUDA ops and probed forward passes."""
