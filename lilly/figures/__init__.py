"""Plots, grids of images and GIFs; the only part that imports matplotlib."""
