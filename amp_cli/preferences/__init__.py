"""From images, questions and standard answers to K-level preferences."""
