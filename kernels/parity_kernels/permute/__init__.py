"""permute: the stable order of (token, slot) pairs by expert, and its inverse."""
