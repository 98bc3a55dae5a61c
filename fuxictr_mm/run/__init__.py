"""From an experiment to a result, and back to a model that can be used."""
