"""Device meshes and the rules that lay parameters and batches out on them."""
