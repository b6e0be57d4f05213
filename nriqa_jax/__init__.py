"""Adversarial robustness of no-reference image quality models, in JAX.

Models score images, attacks perturb images to move scores, defenses oppose them, metrics tell how far that went. All
four are plain functions on batches of NHWC images in [0, 1]; ``nriqa_jax.types`` states the contract.
"""

__version__ = "0.1.0"
