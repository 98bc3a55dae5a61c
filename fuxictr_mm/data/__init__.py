"""From split files to batches: the data contract, rows in memory or on disk, their order, the loader."""
