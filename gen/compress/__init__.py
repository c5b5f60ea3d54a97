"""From float to integer networks."""
