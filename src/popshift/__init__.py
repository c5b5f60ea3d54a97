"""popshift"""
