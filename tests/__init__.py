"""Tests mirror the rooms of the house."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
