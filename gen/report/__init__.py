"""Reports that a person can look at: single HTML files without anything from outside."""
