"""Training: preferences in, a LoRA adapter or a merged model out."""
