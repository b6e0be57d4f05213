"""Adversarial attacks on score functions."""
