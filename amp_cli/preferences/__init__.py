"""From pictures, questions and standard answers to K-level preferences."""
