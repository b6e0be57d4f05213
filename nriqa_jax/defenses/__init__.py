"""Defenses: what makes the score of a quality model harder to move."""
