"""From a log of clicks and a table of items to files of the data contract."""
