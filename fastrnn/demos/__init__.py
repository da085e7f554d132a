"""Recipes: small experiments that train a model, print what came out and draw it."""
