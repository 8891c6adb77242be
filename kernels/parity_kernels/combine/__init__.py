"""combine: the weighted sum of a token's expert rows, in slot order."""
