"""amp: multi-level preference learning that makes vision-language models hallucinate less."""

__version__ = "0.1.0"
