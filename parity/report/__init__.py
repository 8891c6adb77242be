"""Reports of an investigation, from records only."""
