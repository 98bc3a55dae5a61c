"""Titles and pictures of items to vectors."""
