"""MMCTR_demo, the generated stand-in for the challenge's data."""
