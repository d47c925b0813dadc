"""Fixtures of the figures' tests."""

import pytest

from lilly.figures import canvas


@pytest.fixture
def saved(monkeypatch):
  """Collects the figures that are saved; one without a path is not written."""
  figures = []
  original = canvas.save

  def save(fig, path):
    figures.append(fig)
    if path is not None:
      original(fig, path)

  monkeypatch.setattr(canvas, "save", save)
  return figures
