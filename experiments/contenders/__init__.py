"""The programs whose speed is compared, each in a process of its own; PyTorch is imported nowhere else."""
