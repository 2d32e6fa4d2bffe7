"""Integers to bytes and back, and the networks that predict them."""
