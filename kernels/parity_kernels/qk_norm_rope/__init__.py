"""qk_norm_rope: per-head RMSNorm and rotary position of q and k in one kernel."""
