"""The nouns that components share. Nothing here imports a component, nor kfp."""
