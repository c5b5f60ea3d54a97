"""The host link: byte transport (UART) and framing (COBS, CRC-32)."""
