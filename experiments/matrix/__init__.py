"""Models x attacks x purifiers: what `experiments.benchmark` plans, runs and writes."""
