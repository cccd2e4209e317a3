"""Writes: workspaces and who belongs to them."""
