"""The ways in which vectors become a block of an item column, one file each."""
