"""embed: rows of the embedding table."""
