"""Standard cases on a configuration: cycles, stalls and traffic as the hardware counts them; area; speed."""
