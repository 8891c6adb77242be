"""add_rmsnorm: residual add and RMSNorm in one kernel, in Triton and in CUDA C++."""
