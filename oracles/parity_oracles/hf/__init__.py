"""Hugging Face models as oracles: the only code of the lab that imports transformers."""
