"""Parts of a training run: samples, rates, checkpoints, evaluation, what is written of it."""
