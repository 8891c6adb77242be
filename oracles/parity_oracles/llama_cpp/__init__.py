"""llama.cpp as a runner: our own conversion to GGUF, its graph's nodes as stages through the eval callback."""
