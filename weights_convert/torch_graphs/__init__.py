"""The networks in PyTorch, one file a model: what conversions are verified against, and speed is measured against."""
