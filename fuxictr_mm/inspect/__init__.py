"""What a careful person would look for in a data set before training on it."""
