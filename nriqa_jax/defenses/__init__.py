"""Defenses: training losses, purifiers, and what makes attacks adaptive."""
