"""Real models in and out: Hugging Face folders both ways, GGUF files in."""
