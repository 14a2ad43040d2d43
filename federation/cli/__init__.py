"""The command line: one Typer app a module, loaded through the entry points `offerflow.commands`."""
