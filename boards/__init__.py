"""Boards: one small file each."""
