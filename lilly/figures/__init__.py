"""Figures: learning curves, image grids, heat maps, paths, GIFs of policies."""
