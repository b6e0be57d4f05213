"""Quality models: one file per backbone, one file per model."""
