"""vLLM as an engine under test: its stages captured where it computes them, in this process or in one of its own."""
