"""What every stage shares: models, prompts, pictures, generation, files."""
