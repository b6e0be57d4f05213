"""Strict conversion of PyTorch checkpoints to safetensors, without torch and without running what a pickle says."""
