"""What becomes gates, and the contracts the gates define (configuration, numbers, instructions, packets)."""
