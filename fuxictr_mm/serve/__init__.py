"""Trained models in use: predictions for files, rankings for users, exports."""
