"""The command line: one file per command, registered in `popshift.gen.cli.main`."""
