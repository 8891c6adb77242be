"""Probed forward passes assembled from a table of ops."""
