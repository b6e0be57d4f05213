"""Attacks on rankings: what ``experiments.rank_attack`` is made of."""
