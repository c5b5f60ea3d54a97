"""The host driver: transports, packet protocol, sessions, and the program file. Needs numpy, never torch."""
