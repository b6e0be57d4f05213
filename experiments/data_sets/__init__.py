"""Labelled data sets: what is known of the published ones, readers of their files, and splits."""
