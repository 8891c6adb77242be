"""Figures, one a file; each has one message, which is its title."""
