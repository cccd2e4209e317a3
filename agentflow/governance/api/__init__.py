"""Signing in, and who one is, over REST."""
