"""Agreement with subjective scores, robustness of scores, and fidelity of images."""
