"""What is to be run: experiments and the roles of columns, read once from FuxiCTR's YAML files."""
